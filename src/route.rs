//! Routes: host, path and method decide which; the most specific wins, whatever their order.

mod observe;
mod table;
mod trie;

use std::sync::Arc;

use http::Method;
use serde_json::Value;

use crate::rate::{Limits, RateLimit};
use crate::token::{BodyPlace, Place};
use crate::upstream::Upstream;
use crate::upstream::settings::Patience;

pub use observe::{Observer, Revoke, Statuses, Track};
pub use table::RouteTable;

/// A route as configured, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    pub name: Arc<str>,
    /// Lower-cased: `api.example.com` or `*.example.org` (one or more labels). Empty: any host.
    pub hosts: Vec<Box<str>>,
    /// `/exact`, `/with/{param}`, `/rest/{*rest}`.
    pub path: Box<str>,
    /// Empty: any method.
    pub methods: Vec<Method>,
    /// The upstream's name; it exists. None: another proxy asks, and forwards by itself.
    pub upstream: Option<Arc<str>>,
    pub access: Access,
    pub client_certificate: ClientCertificate,
    /// Denials as HTML for clients that prefer it.
    pub html: bool,
    /// Where browsers (clients that prefer HTML) are sent on 401: a local path or absolute http(s) URL.
    pub redirect: Option<Box<str>>,
    /// `timeouts`: the upstream's, where the route says nothing else.
    pub timeouts: Patience,
    /// How often requests may come; all of them count.
    pub rate_limits: Vec<RateLimit>,
    /// What is learnt from the service's own answers.
    pub observers: Vec<Observer>,
}

/// Who may pass. Open is a word, not an absence.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// `auth = "public"`: tokens are not looked at.
    Open,
    Guarded(Policy),
    /// `auth = "refresh"`: the endpoint that makes new tokens of old ones.
    Refresh(Refresh),
}

impl Access {
    /// What is asked of a request; `None` where nothing is.
    pub fn policy(&self) -> Option<&Policy> {
        match self {
            Self::Open => None,
            Self::Guarded(policy) => Some(policy),
            Self::Refresh(refresh) => Some(&refresh.policy),
        }
    }
}

/// Where a refresh route finds its token. `places` and `bodies` are not both empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Refresh {
    /// In the head.
    pub places: Vec<Place>,
    /// In the body.
    pub bodies: Vec<BodyPlace>,
    /// Longest body that is looked into; more is refused.
    pub body_bytes: usize,
    /// Never anonymous, and never passing when no store can answer: what passes here is good for another week.
    pub policy: Policy,
}

/// Whether a route asks for a client certificate, besides what it asks of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// What the listener asks for is enough.
    Optional,
    /// Without one: 403.
    Required,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether a request without a token passes as anonymous (`auth = "optional"`) or is refused.
    pub anonymous: Anonymous,
    pub on_outage: OnOutage,
    /// Every one is needed.
    pub scopes: Vec<Box<str>>,
    /// One is enough; empty: none is needed.
    pub roles: Vec<Box<str>>,
    /// Claim name or JSON pointer, and the value it must have (or, where the claim is a list, hold).
    pub claims: Vec<(Box<str>, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Admit,
    Refuse,
}

/// What happens when no store can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// 503.
    Deny,
    /// The request passes; counted and logged.
    Allow,
}

/// A route as run.
#[derive(Debug)]
pub struct Route {
    /// What it was made from.
    pub settings: RouteSettings,
    /// Its place in the configuration, and that of its metric series.
    pub index: usize,
    /// Where its requests go, where they are forwarded here.
    pub upstream: Option<Arc<Upstream>>,
    /// How often they may come.
    pub limits: Limits,
}
