//! `[[routes]]`: which requests go where, and who may send them.

use std::sync::Arc;

use http::Method;
use serde_json::Value;

use super::between_routes::{Names, Taken};
use super::kinds::{boolean, json, list, name, parsed, placed, word};
use super::ledger::ON_OUTAGE;
use super::problem::Span;
use super::reader::{Placed, Reader, Table};
use super::upstreams::{self, Upstream, is_host_name};
use super::{handling, observers, rate, refresh, replies, within_route};
use crate::ledger::preset::Preset;
use crate::rate::RateLimit;
use crate::route::{
    Access, Anonymous, ClientCertificate, Denials, Destination, Handling, Login, Observer, OnOutage, Policy,
    RouteSettings,
};
use crate::upstream::settings::Patience;

#[derive(Clone, Copy, PartialEq)]
pub enum Auth {
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
    pub at: Span,
    name: Placed<Option<String>>,
    hosts: Option<Vec<Box<str>>>,
    path: Option<Box<str>>,
    methods: Option<Vec<Method>>,
    pub upstream: Option<Placed<Box<str>>>,
    pub auth: Option<Auth>,
    require: Require,
    pub on_outage: Option<OnOutage>,
    denials: Option<Denials>,
    answers: Option<Option<Destination>>,
    handling: Option<Handling>,
    timeouts: Option<Patience>,
    pub client_certificate: Option<ClientCertificate>,
    token_from: Option<Vec<Placed<refresh::FromPlace>>>,
    pub rate_limits: Option<Vec<Placed<RateLimit>>>,
    pub observers: Option<Vec<Observer>>,
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
    pub handling: handling::Around<'a>,
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
    let path = table.need("path", parsed(super::path::pattern));
    let hosts = table.or("hosts", list(parsed(host)), []);
    let methods = table.or("methods", list(parsed(method)), []);
    let named = hosts.as_ref().is_none_or(|hosts: &Vec<_>| !hosts.is_empty());
    let answers = answers(table, path.as_deref(), named);
    let handling =
        handling::handling(table, path.as_deref(), methods.as_deref().unwrap_or_default(), &around.handling);
    let written = Written {
        at: table.place("path"),
        name: Placed { at: table.place("name"), value: table.maybe("name", parsed(route_name)) },
        path,
        hosts,
        methods,
        upstream: upstream(table),
        auth: table.or("auth", word(&words), "required"),
        require: table.table("require", require),
        on_outage: table.maybe("on_outage", word(&ON_OUTAGE)),
        denials: denials(table),
        answers,
        handling,
        timeouts: None,
        client_certificate: table.or("client_certificate", word(&CLIENT_CERTIFICATE), "optional"),
        token_from: table.maybe("token_from", refresh::token_from),
        rate_limits: rate::limits(table, around.redis),
        observers: observers::on_response(table, around.presets),
    };
    let inherited = around.upstreams.iter().find(|upstream| written.leads_to(&upstream.name.value));
    let inherited = inherited.and_then(|upstream| Some(&upstream.settings.as_ref()?.timeouts.patience));
    let timeouts = table.table("timeouts", |timeouts| upstreams::patience(timeouts, inherited));
    if matches!(written.answers, Some(Some(_))) {
        // Nobody is waited for.
        table.not_in_effect("timeouts");
    }
    let written = Written { timeouts, ..written };
    within_route::rules(table, &written, around);
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

/// Where the route leads, unless it answers itself.
fn upstream(table: &mut Table<'_>) -> Option<Placed<Box<str>>> {
    let instead = ["answer", "redirect"].into_iter().find(|key| answers_by(table, key));
    let upstream = table.maybe("upstream", placed(name));
    // Whether there has to be one, `forward_auth::route` knows.
    let Some(key) = instead else { return upstream };
    for needless in ["upstream", "rewrite", "timeouts", "on_response"] {
        if table.has(needless) {
            let message = format!("`{needless}` does nothing here: `{key}` answers without asking a service");
            table.reader.problem(&table.place(needless), message);
        }
    }
    upstream
}

/// `redirect` is a table where every request is sent elsewhere; as a string it is about browsers that have to log in.
pub fn answers_by(table: &Table<'_>, key: &str) -> bool {
    if key == "redirect" { table.has_table(key) } else { table.has(key) }
}

/// The answer that the route gives itself, where it does. `None` only after a problem was told.
fn answers(table: &mut Table<'_>, path: Option<&str>, hosts: bool) -> Option<Option<Destination>> {
    let redirect = answers_by(table, "redirect")
        .then(|| table.table("redirect", |table| replies::redirect(table, path, hosts)));
    let answer = table.has("answer").then(|| table.table("answer", replies::answer));
    table.exists("answer");
    match (redirect, answer) {
        (Some(_), Some(_)) => {
            table
                .reader
                .problem(&table.place("answer"), "`answer` and `redirect` are both given; one is enough");
            None
        }
        (Some(redirect), None) => redirect.map(|redirect| Some(Destination::Redirect(redirect))),
        (None, Some(answer)) => answer.map(|answer| Some(Destination::Answer(answer))),
        (None, None) => Some(None),
    }
}

/// How denials are told to browsers.
fn denials(table: &mut Table<'_>) -> Option<Denials> {
    let html = table.or("html", boolean, false);
    let to = if table.has_table("redirect") { None } else { table.maybe("redirect", parsed(redirect)) };
    let return_to = table.maybe("return_to", parsed(parameter));
    if table.has("return_to") && (!table.has("redirect") || table.has_table("redirect")) {
        let message =
            "`return_to` tells the login page the way back: say where that is, `redirect = \"/login\"`";
        table.reader.problem(&table.place("return_to"), message);
    }
    Some(Denials { html: html?, login: to.map(|to| Login { to, return_to }) })
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
    let mut names = Names::new(routes.iter().filter_map(|route| route.name.value.as_deref()));
    let mut taken = Taken::default();
    let mut resolved = Vec::with_capacity(routes.len());
    for route in routes {
        let name = match &route.name.value {
            Some(name) => names.given(name).unwrap_or_else(|name| {
                reader.problem(&route.name.at, "two routes have this name");
                name
            }),
            None => names.made(route.path.as_deref().unwrap_or("/")),
        };
        let at = route.at.clone();
        let settings = route.resolve(reader, Arc::clone(&name), on_outage, body_bytes);
        if let Some((other, place)) = settings.as_ref().and_then(|settings| taken.take(settings, &at)) {
            let message = |name| {
                format!("this route matches the same requests as route `{name}`, and no order decides")
            };
            reader.problem(&at, message(&other));
            reader.problem(&place, message(&name));
        }
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
            denials,
            answers,
            handling,
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
            destination: match (answers?, upstream) {
                (Some(answer), _) => answer,
                (None, Some(upstream)) => Destination::Upstream(upstream.value.into()),
                (None, None) => Destination::Asked,
            },
            access,
            client_certificate: client_certificate?,
            denials: denials?,
            handling: handling?,
            timeouts: timeouts?,
            rate_limits: rate_limits?.into_iter().map(|limit| limit.value).collect(),
            observers: observers?,
        })
    }
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

pub fn method(text: &str) -> Result<Method, String> {
    if ["CONNECT", "TRACE", "TRACK"].contains(&text) {
        return Err("this method is refused on every route".into());
    }
    let method = Method::from_bytes(text.as_bytes()).ok();
    method
        .filter(|_| text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'))
        .ok_or_else(|| "expected a method in capital letters, such as \"GET\"".into())
}

/// The name of a query's parameter, which nobody has to escape.
fn parameter(text: &str) -> Result<Box<str>, String> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    plain
        .then(|| text.into())
        .ok_or_else(|| "the name of a parameter is of letters, digits, `-`, `.`, `_` and `~`".into())
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
