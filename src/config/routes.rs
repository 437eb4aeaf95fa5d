//! `[[routes]]`: which requests go where, and who may send them.

use std::sync::Arc;

use http::Method;
use serde_json::Value;

use super::kinds::{boolean, json, list, name, parsed, placed, word};
use super::ledger::ON_OUTAGE;
use super::problem::Span;
use super::reader::{Placed, Reader, Table, did_you_mean};
use super::upstreams::{self, Upstream, is_host_name};
use super::{forward_auth, observers, rate, refresh};
use crate::ledger::preset::Preset;
use crate::rate::{By, RateLimit};
use crate::route::{Access, Anonymous, ClientCertificate, Observer, OnOutage, Policy, RouteSettings};
use crate::upstream::settings::Patience;

#[derive(Clone, Copy, PartialEq)]
enum Auth {
    Required,
    Optional,
    Public,
    Refresh,
}

/// `require`, as written.
#[derive(Default)]
struct Require {
    scopes: Vec<Box<str>>,
    roles: Vec<Box<str>>,
    claims: Vec<(Box<str>, Value)>,
}

/// One `[[routes]]`, as written, with the places that rules between routes speak of.
pub struct Written {
    at: Span,
    name: Placed<Option<String>>,
    hosts: Option<Vec<Box<str>>>,
    path: Option<Box<str>>,
    methods: Option<Vec<Method>>,
    upstream: Option<Placed<Box<str>>>,
    auth: Option<Auth>,
    require: Require,
    on_outage: Option<OnOutage>,
    html: Option<bool>,
    redirect: Option<Box<str>>,
    timeouts: Option<Patience>,
    client_certificate: Option<ClientCertificate>,
    token_from: Option<Vec<Placed<refresh::FromPlace>>>,
    rate_limits: Option<Vec<Placed<RateLimit>>>,
    observers: Option<Vec<Observer>>,
}

/// What routes lean on.
pub struct Around<'a> {
    pub upstreams: &'a [Upstream],
    /// Whether any issuer is configured.
    pub issuers: bool,
    /// Whether there is a Redis.
    pub redis: bool,
    /// Whether any listener asks for them.
    pub client_certificates: bool,
    /// `[ledger] on_outage`
    pub on_outage: Option<OnOutage>,
    /// `[ledger] presets`
    pub presets: &'a [Preset],
    /// Whether proxies ask here and forward by themselves.
    pub is_asked: bool,
}

const CLIENT_CERTIFICATE: [(&str, ClientCertificate); 2] =
    [("optional", ClientCertificate::Optional), ("required", ClientCertificate::Required)];

pub fn route(table: &mut Table<'_>, around: &Around<'_>) -> Option<Written> {
    let words = [
        ("required", Auth::Required),
        ("optional", Auth::Optional),
        ("public", Auth::Public),
        ("none", Auth::Public),
        ("refresh", Auth::Refresh),
    ];
    let written = Written {
        at: table.place("path"),
        name: Placed { at: table.place("name"), value: table.maybe("name", parsed(route_name)) },
        path: table.need("path", parsed(super::path::pattern)),
        hosts: table.or("hosts", list(parsed(host)), []),
        methods: table.or("methods", list(parsed(method)), []),
        upstream: table.maybe("upstream", placed(name)),
        auth: table.or("auth", word(&words), "required"),
        require: table.table("require", require),
        on_outage: table.maybe("on_outage", word(&ON_OUTAGE)),
        html: table.or("html", boolean, false),
        redirect: table.maybe("redirect", parsed(redirect)),
        timeouts: None,
        client_certificate: table.or("client_certificate", word(&CLIENT_CERTIFICATE), "optional"),
        token_from: table.maybe("token_from", refresh::token_from),
        rate_limits: rate::limits(table, around.redis),
        observers: observers::on_response(table, around.presets),
    };
    let inherited = around.upstreams.iter().find(|upstream| written.leads_to(&upstream.name.value));
    let inherited = inherited.and_then(|upstream| Some(&upstream.settings.as_ref()?.timeouts.patience));
    let timeouts = table.table("timeouts", |timeouts| upstreams::patience(timeouts, inherited));
    let written = Written { timeouts, ..written };
    rules_within(table, &written, around);
    if written.auth == Some(Auth::Public) {
        table.not_in_effect("require");
    } else if written.auth == Some(Auth::Refresh) {
        table.in_effect("on_outage", "deny");
    } else if written.on_outage.is_none() {
        let inherited = ON_OUTAGE.into_iter().find(|(_, word)| Some(*word) == around.on_outage);
        table.in_effect("on_outage", inherited.map_or("deny", |(word, _)| word));
    }
    Some(written)
}

/// What must hold between the keys of one route, and what it leans on.
fn rules_within(table: &Table<'_>, written: &Written, around: &Around<'_>) {
    let reader = table.reader;
    if written.auth == Some(Auth::Public) {
        for key in ["require", "on_outage", "redirect"] {
            if table.has(key) {
                let message =
                    format!("`{key}` does nothing on a public route: tokens are not looked at there");
                reader.problem(&table.place(key), message);
            }
        }
    } else if written.auth.is_some() && !around.issuers {
        let message = "this route asks for tokens, and there is no `[[issuers]]` whose tokens are believed";
        reader.problem(&if table.has("auth") { table.place("auth") } else { table.at.clone() }, message);
    }
    let by_subject = |limit: &&Placed<RateLimit>| limit.value.by == By::Subject;
    for limit in written.rate_limits.iter().flatten().filter(by_subject) {
        if written.auth == Some(Auth::Public) {
            let message = "nobody is known on a public route: this limit counts by address";
            reader.warn(&limit.at, message);
        }
    }
    if written.client_certificate == Some(ClientCertificate::Required) && !around.client_certificates {
        let message = "no listener asks for client certificates: this route would refuse every request";
        reader.problem(&table.place("client_certificate"), message);
    }
    of_refresh(table, written);
    forward_auth::route(table, written, around.is_asked);
    if written.auth == Some(Auth::Public)
        && observers::revokes(written.observers.as_deref().unwrap_or_default())
    {
        let message = "`revoke` does nothing on a public route: no token is looked at that could be revoked";
        reader.problem(&table.place("on_response"), message);
    }
    let names = || around.upstreams.iter().map(|upstream| &*upstream.name.value);
    if let Some(Placed { at, value }) = &written.upstream
        && !names().any(|name| name == &**value)
    {
        reader.problem(at, format!("there is no such upstream{}", did_you_mean(value, names())));
    }
}

/// What must hold of a refresh route, and of none else.
fn of_refresh(table: &Table<'_>, written: &Written) {
    let tell = |key: &str, message: &str| table.reader.problem(&table.place(key), message);
    match (written.auth, table.has("token_from")) {
        (Some(Auth::Refresh), false) => {
            tell("auth", "a refresh route says where its token is: `token_from = \"body:refreshToken\"`");
        }
        (Some(Auth::Required | Auth::Optional | Auth::Public), true) => {
            tell(
                "token_from",
                "`token_from` is for routes with `auth = \"refresh\"`; elsewhere `[token] from` says",
            );
        }
        _ => {}
    }
    if written.auth == Some(Auth::Refresh) && written.on_outage == Some(OnOutage::Allow) {
        tell("on_outage", "nobody passes a refresh route unasked: new tokens would outlive the outage");
    }
}

fn require(table: &mut Table<'_>) -> Require {
    Require {
        scopes: table.maybe("scopes", list(name)).unwrap_or_default(),
        roles: table.maybe("roles", list(name)).unwrap_or_default(),
        claims: table
            .map("claims", json)
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name.value.into(), value))
            .collect(),
    }
}

/// Gives every route its name, tells routes that cannot both match, and resolves them.
pub fn resolve(
    reader: &Reader<'_>,
    routes: Vec<Written>,
    on_outage: Option<OnOutage>,
    body_bytes: Option<usize>,
) -> Option<Vec<RouteSettings>> {
    let mut names: Vec<Arc<str>> = Vec::with_capacity(routes.len());
    let mut resolved: Vec<Option<RouteSettings>> = Vec::with_capacity(routes.len());
    let mut places: Vec<Span> = Vec::with_capacity(routes.len());
    let chosen: Vec<_> = routes.iter().filter_map(|route| route.name.value.clone()).collect();
    for route in routes {
        let name: Arc<str> = match &route.name.value {
            Some(name) => {
                if names.iter().any(|other| **other == **name) {
                    reader.problem(&route.name.at, "two routes have this name");
                }
                name.as_str().into()
            }
            None => free_name(route.path.as_deref().unwrap_or("/"), &names, &chosen),
        };
        names.push(Arc::clone(&name));
        let at = route.at.clone();
        let settings = route.resolve(reader, name, on_outage, body_bytes);
        let clash = resolved.iter().zip(&places).find(|(other, _)| {
            other.as_ref().zip(settings.as_ref()).is_some_and(|(other, settings)| clashes(other, settings))
        });
        if let Some((Some(other), place)) = clash {
            let message = |name| {
                format!("this route matches the same requests as route `{name}`, and no order decides")
            };
            reader.problem(&at, message(&other.name));
            reader.problem(place, message(names.last().unwrap_or(&other.name)));
        }
        places.push(at);
        resolved.push(settings);
    }
    resolved.into_iter().collect()
}

impl Written {
    /// Whether this is the upstream it names.
    pub fn leads_to(&self, upstream: &str) -> bool {
        self.upstream.as_ref().is_some_and(|own| &*own.value == upstream)
    }

    /// Whether it asks for client certificates.
    pub fn wants_certificate(&self) -> bool {
        self.client_certificate == Some(ClientCertificate::Required)
    }

    /// Whether its token may be in a body.
    pub fn wants_body(&self) -> bool {
        self.token_from.iter().flatten().any(|place| place.value.is_in_body())
    }

    fn resolve(
        self,
        reader: &Reader<'_>,
        name: Arc<str>,
        on_outage: Option<OnOutage>,
        body_bytes: Option<usize>,
    ) -> Option<RouteSettings> {
        let Self {
            at: _,
            name: _,
            hosts,
            path,
            methods,
            upstream,
            auth,
            require,
            on_outage: own,
            html,
            redirect,
            timeouts,
            client_certificate,
            token_from,
            rate_limits,
            observers,
        } = self;
        let Require { scopes, roles, claims } = require;
        let policy = |anonymous, on_outage| Policy { anonymous, on_outage, scopes, roles, claims };
        let on_outage = own.or(on_outage);
        let access = match auth? {
            Auth::Public => Access::Open,
            Auth::Optional => Access::Guarded(policy(Anonymous::Admit, on_outage?)),
            Auth::Required => Access::Guarded(policy(Anonymous::Refuse, on_outage?)),
            Auth::Refresh => {
                let policy = policy(Anonymous::Refuse, OnOutage::Deny);
                Access::Refresh(refresh::places(reader, token_from?, policy, body_bytes?))
            }
        };
        Some(RouteSettings {
            name,
            hosts: hosts?,
            path: path?,
            methods: methods?,
            upstream: upstream.map(|upstream| upstream.value.into()),
            access,
            client_certificate: client_certificate?,
            html: html?,
            redirect,
            timeouts: timeouts?,
            rate_limits: rate_limits?.into_iter().map(|limit| limit.value).collect(),
            observers: observers?,
        })
    }
}

/// Whether some request is matched by both, and neither is more specific.
fn clashes(a: &RouteSettings, b: &RouteSettings) -> bool {
    fn share<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        a.is_empty() && b.is_empty() || a.iter().any(|item| b.contains(item))
    }
    super::path::shape(&a.path) == super::path::shape(&b.path)
        && share(&a.hosts, &b.hosts)
        && share(&a.methods, &b.methods)
}

/// A name made of the path's words; numbered where it is taken.
fn free_name(path: &str, taken: &[Arc<str>], chosen: &[String]) -> Arc<str> {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-");
    let name = if name.is_empty() { "root".to_owned() } else { name };
    let is_free = |name: &String| !taken.iter().any(|other| **other == **name) && !chosen.contains(name);
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.clone()).chain(numbered).find(is_free).unwrap_or_default().into()
}

fn route_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    fits.then(|| text.to_owned())
        .ok_or_else(|| "a name is of letters, digits, `.`, `_` and `-`, at most 64".into())
}

/// `api.example.com`, `*.example.org`, or an IP address; without a port.
fn host(text: &str) -> Result<Box<str>, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('.').unwrap_or(&lower);
    let bare = lower.strip_prefix("*.").unwrap_or(lower);
    let ipv6 = bare.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    if let Some(Ok(ip)) = ipv6.map(str::parse::<std::net::Ipv6Addr>)
        && bare == lower
    {
        return Ok(format!("[{ip}]").into());
    }
    if is_host_name(bare) {
        return Ok(lower.into());
    }
    Err("expected a host without port, such as \"api.example.com\" or \"*.example.org\"".into())
}

fn method(text: &str) -> Result<Method, String> {
    if ["CONNECT", "TRACE", "TRACK"].contains(&text) {
        return Err("this method is refused on every route".into());
    }
    let method = Method::from_bytes(text.as_bytes()).ok();
    method
        .filter(|_| text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'))
        .ok_or_else(|| "expected a method in capital letters, such as \"GET\"".into())
}

/// A local path or an absolute URL. `//host` and `/\host` look local and are not.
fn redirect(text: &str) -> Result<Box<str>, String> {
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    let local = text.starts_with('/') && !text.starts_with("//") && !text.contains('\\');
    let absolute =
        || url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match visible && (local || absolute()) {
        true => Ok(text.into()),
        false => Err("expected a local path such as \"/login\", or an http(s) URL".into()),
    }
}
