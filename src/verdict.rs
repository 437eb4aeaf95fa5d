//! The verdict: exactly one per request, a [`Grant`] or a [`Denial`].
//!
//! An upstream is reached only with a `Grant`, and by the route it was granted for, which is never matched again.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::claims::Claims;
use crate::identity::Stamps;
use crate::ledger::profile::Profile;
use crate::ledger::{Outage, Questions, Revocation};
use crate::rate::Exceeded;
use crate::route::{Maintenance, Mode, Route};
use crate::token::{Fingerprint, Kept};
use crate::verify::{Seal, Unverified};

/// What every request gets.
pub type Verdict = Result<Grant, Denial>;

/// A verified token with everything that follows from it alone; made once, kept with the token.
///
/// Of many thousands that are kept, the one that comes next is in no cache of the processor. So what every request reads
/// stands first and side by side, here and in what this is made of.
#[derive(Debug)]
#[repr(C)]
pub struct Credential {
    /// With which keys it was verified.
    pub seal: Seal,
    /// What upstreams are told.
    pub stamps: Stamps,
    /// What the ledger has to be asked.
    pub questions: Questions,
    /// What they were told last of the user's profile.
    pub told: ArcSwapOption<Told>,
    /// The token itself: whoever holds an exchange open with it may have to show it again.
    pub token: Kept,
    /// What a log may call it.
    pub fingerprint: Fingerprint,
    /// What the token says.
    pub claims: Claims,
}

/// The headers that tell of a user's profile, and what they were made of: unchanged, they need not be made again.
#[derive(Debug)]
pub struct Told {
    /// What the ledger knew.
    pub profiles: Vec<Arc<Profile>>,
    /// The headers.
    pub stamps: Stamps,
}

/// Permission to reach one route's upstream.
#[derive(Debug)]
pub struct Grant {
    /// The route it is for.
    pub route: Arc<Route>,
    /// Whose request it is; `None` is anonymous, or a public route.
    pub credential: Option<Arc<Credential>>,
    /// What the upstream is told of the user's profile, where a header asks for it.
    pub told: Option<Arc<Told>>,
    /// How sure the judgment was.
    pub assurance: Assurance,
}

/// How sure a judgment was.
#[derive(Debug)]
pub enum Assurance {
    /// Everything that had to be asked was answered.
    Full,
    /// No store could answer, and the operator wrote `on_outage = "allow"`.
    RevocationUnknown(Outage),
    /// The route only observes: elsewhere this would have been a denial.
    WouldDeny(Box<Denial>),
}

/// A refusal, with what was known when it was given.
#[derive(Debug)]
pub struct Denial {
    /// The route, where one was found.
    pub route: Option<Arc<Route>>,
    /// Whose request it was, where the token was believed.
    pub credential: Option<Arc<Credential>>,
    /// Why.
    pub reason: DenyReason,
}

impl Denial {
    /// What becomes of it on a route that only observes: the request passes, as nobody's. Who is calling is not known for
    /// sure, so nothing is told of them. What two servers could read differently stays refused.
    pub fn unless_observed(self) -> Verdict {
        let observing = |route: &&Arc<Route>| route.settings.handling.mode == Mode::Observe;
        match self.route.as_ref().filter(observing).cloned() {
            Some(route) if self.reason.is_about_the_caller() => {
                let assurance = Assurance::WouldDeny(Box::new(self));
                Ok(Grant { route, credential: None, told: None, assurance })
            }
            _ => Err(self),
        }
    }
}

/// Every reason there is. Each of its faces below is one `match` without `_`.
#[derive(Clone, Debug, PartialEq)]
pub enum DenyReason {
    /// Nothing unmatched ever reaches an upstream.
    NoRoute,
    /// Two parsers could read the request differently; the text says in what.
    RequestAmbiguous(&'static str),
    /// The connection was made for another host.
    MisdirectedRequest,
    /// The route asks for a client certificate, and none was shown.
    ClientCertificateMissing,
    /// Nobody is let in at present.
    Maintenance(Arc<Maintenance>),
    /// A proxy asks that is not in `forward_auth.allow`.
    AskerRefused,
    /// The method is refused on every route (`CONNECT`, `TRACE`, `TRACK`).
    MethodRefused,
    /// More or longer header fields than allowed.
    HeadersTooLarge,
    /// A longer body than allowed.
    BodyTooLarge,
    /// A body in which a token is looked for did not come in time.
    BodyTimeout,
    /// A body in which a token is looked for is of a kind that is not read.
    BodyUnreadable,
    /// A WebSocket handshake with a cookie for a credential, from a page of another origin.
    OriginRefused,
    /// No credential.
    TokenMissing,
    /// The token was not believed.
    Unverified(Unverified),
    /// The ledger holds something against the credential.
    Revoked(Revocation),
    /// No store can answer, and `on_outage = "deny"`.
    LedgerUnavailable(Outage),
    /// Scopes the route asks for and the token lacks.
    InsufficientScope,
    /// None of the roles the route asks for.
    InsufficientRole,
    /// A claim has not the value the route asks for.
    ClaimMismatch,
    /// More requests than a rate limit allows.
    RateLimited(Exceeded),
    /// The service has answered, and the ledger could not store what follows from it.
    Unrecorded,
    /// The upstream could not be reached or spoke nonsense.
    UpstreamUnavailable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
}

impl DenyReason {
    /// The word of metrics, logs and problem documents.
    pub fn word(&self) -> &str {
        match self {
            Self::NoRoute => "no_route",
            Self::RequestAmbiguous(_) => "request_ambiguous",
            Self::MisdirectedRequest => "misdirected_request",
            Self::ClientCertificateMissing => "client_certificate_missing",
            Self::Maintenance(_) => "maintenance",
            Self::AskerRefused => "asker_refused",
            Self::MethodRefused => "method_refused",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyUnreadable => "body_unreadable",
            Self::OriginRefused => "origin_refused",
            Self::TokenMissing => "token_missing",
            Self::Unverified(why) => match why {
                Unverified::Malformed(_) => "token_malformed",
                Unverified::Signature => "token_signature",
                Unverified::Expired => "token_expired",
                Unverified::NotYetValid => "token_not_yet_valid",
                Unverified::Issuer => "token_issuer",
                Unverified::Audience => "token_audience",
                Unverified::Algorithm => "token_algorithm",
                Unverified::Claim(_) => "token_claims",
                Unverified::KeysUnavailable => "keys_unavailable",
            },
            Self::Revoked(revocation) => &revocation.reason,
            Self::LedgerUnavailable(_) | Self::Unrecorded => "ledger_unavailable",
            Self::InsufficientScope => "insufficient_scope",
            Self::InsufficientRole => "insufficient_role",
            Self::ClaimMismatch => "claim_mismatch",
            Self::RateLimited(_) => "rate_limited",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
        }
    }

    /// Whether it is about who is calling and what they may do, rather than about what they sent or what became of it.
    pub fn is_about_the_caller(&self) -> bool {
        match self {
            Self::ClientCertificateMissing
            | Self::OriginRefused
            | Self::TokenMissing
            | Self::Unverified(_)
            | Self::Revoked(_)
            | Self::LedgerUnavailable(_)
            | Self::InsufficientScope
            | Self::InsufficientRole
            | Self::ClaimMismatch
            | Self::RateLimited(_) => true,
            Self::NoRoute
            | Self::RequestAmbiguous(_)
            | Self::MisdirectedRequest
            | Self::AskerRefused
            | Self::Maintenance(_)
            | Self::MethodRefused
            | Self::HeadersTooLarge
            | Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::BodyUnreadable
            | Self::Unrecorded
            | Self::UpstreamUnavailable
            | Self::UpstreamTimeout => false,
        }
    }

    /// The HTTP status (RFC 9110).
    pub fn status(&self) -> u16 {
        match self {
            Self::NoRoute => 404,
            Self::RequestAmbiguous(_) => 400,
            Self::MisdirectedRequest => 421,
            Self::ClientCertificateMissing | Self::AskerRefused => 403,
            Self::Maintenance(maintenance) => maintenance.status,
            Self::MethodRefused => 405,
            Self::HeadersTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::BodyTimeout => 408,
            Self::BodyUnreadable => 415,
            Self::TokenMissing => 401,
            Self::Unverified(Unverified::KeysUnavailable) | Self::LedgerUnavailable(_) | Self::Unrecorded => {
                503
            }
            Self::Unverified(
                Unverified::Malformed(_)
                | Unverified::Signature
                | Unverified::Expired
                | Unverified::NotYetValid
                | Unverified::Issuer
                | Unverified::Audience
                | Unverified::Algorithm
                | Unverified::Claim(_),
            ) => 401,
            Self::Revoked(revocation) => revocation.status,
            Self::OriginRefused | Self::InsufficientScope | Self::InsufficientRole | Self::ClaimMismatch => {
                403
            }
            Self::RateLimited(_) => 429,
            Self::UpstreamUnavailable => 502,
            Self::UpstreamTimeout => 504,
        }
    }
}

/// The words of every reason that is not an operator's own, so that metrics have their series from the first second.
pub const WORDS: [&str; 29] = [
    "no_route",
    "request_ambiguous",
    "misdirected_request",
    "client_certificate_missing",
    "maintenance",
    "asker_refused",
    "method_refused",
    "headers_too_large",
    "body_too_large",
    "body_timeout",
    "body_unreadable",
    "token_missing",
    "token_malformed",
    "token_signature",
    "token_expired",
    "token_not_yet_valid",
    "token_issuer",
    "token_audience",
    "token_algorithm",
    "token_claims",
    "keys_unavailable",
    "ledger_unavailable",
    "insufficient_scope",
    "insufficient_role",
    "claim_mismatch",
    "rate_limited",
    "upstream_unavailable",
    "upstream_timeout",
    "origin_refused",
];
