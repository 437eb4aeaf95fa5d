//! `[server]`, `[admin]`, `[log]`, `[token]` and `[identity]`: keys that depend on little but themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::kinds::{
    DAY, HOUR, MILLISECOND, MINUTE, SECOND, boolean, duration, header_template, integer, list, parsed, path,
    placed, share, size, socket, some, word,
};
use super::node::Node;
use super::reader::{Placed, Table};
use crate::admin::settings::{AdminSettings, UNGUESSABLE};
use crate::identity::IdentitySettings;
use crate::proxy::settings::{Limits, ServerSettings};
use crate::rate::{By, RateLimit};
use crate::report::settings::{AccessLog, Format, LogSettings};
use crate::target::Ambiguous;
use crate::template::Template;
use crate::token::Place;

/// Pingora parses no more header fields than this.
const MOST_HEADERS: i64 = 256;
/// Pingora keeps no more of a body for a second reading.
const MOST_BODY: u64 = 64 << 10;

/// `alone`: proxies ask here, and nothing is forwarded. `redis`: whether there is one.
pub fn server(table: &mut Table<'_>, alone: bool, redis: bool) -> Option<ServerSettings> {
    let tls = table.tables("tls", None, super::tls::listener);
    let encrypted = !tls.is_empty();
    let tls: Option<Vec<_>> = tls.into_iter().map(|listener| listener.value).collect();
    // Who asks for TLS alone gets TLS alone: a plain listener beside it is a decision.
    let default = if encrypted || alone { Node::from([]) } else { Node::from(["0.0.0.0:8080"]) };
    let listen = table.or("listen", list(placed(socket)), default);
    let h2c = table.or("h2c", boolean, false);
    let threads = table.or("threads", integer::<usize>(0..=1024), 0);
    let trusted = table.or("trusted_proxies", list(placed(parsed(network))), []);
    let drain = table.or("drain", duration(Duration::ZERO..=HOUR), "30s");
    let shutdown_delay = table.or("shutdown_delay", duration(Duration::ZERO..=HOUR), "0s");
    let upgrade_socket = table.maybe("upgrade_socket", path);
    let limits = table.table("limits", limits);
    let rate_limits = rate_limits(table, redis);
    let ambiguous = table.table("paths", |paths| {
        let words = [("reject", Ambiguous::Reject), ("normalize", Ambiguous::Normalize)];
        paths.or("ambiguous", word(&words), "reject")
    });
    if !encrypted && !alone && listen.as_ref().is_some_and(Vec::is_empty) {
        table.reader.problem(&table.place("listen"), "without `[[server.tls]]` this list must not be empty");
    }
    let also =
        tls.iter().flatten().map(|listener| Placed { at: listener.at.clone(), value: listener.value.listen });
    let plain = listen.as_ref().map(Vec::len);
    let listen = listen.map(|listen| distinct(table, listen.into_iter().chain(also).collect()));
    let listen = listen.map(|listen| listen.into_iter().take(plain.unwrap_or_default()).collect());
    for Placed { at, .. } in trusted.iter().flatten().filter(|network| network.value.prefix_len() == 0) {
        table.reader.warn(at, "every address is a trusted proxy now: any client can claim any origin");
    }
    Some(ServerSettings {
        listen: listen?,
        tls: tls?.into_iter().map(|listener| listener.value).collect(),
        h2c: h2c?,
        threads: match threads? {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        trusted_proxies: trusted?.into_iter().map(|network| network.value).collect(),
        limits: limits?,
        rate_limits: rate_limits?,
        ambiguous: ambiguous?,
        drain: drain?,
        shutdown_delay: shutdown_delay?,
        upgrade_socket,
    })
}

/// Of whatever comes, before there is a route: nothing but the address is known.
fn rate_limits(table: &mut Table<'_>, redis: bool) -> Option<Vec<RateLimit>> {
    let limits = super::rate::limits(table, redis)?;
    for limit in limits.iter().filter(|limit| limit.value.by != By::Ip) {
        table
            .reader
            .problem(&limit.at, "here only `by = \"ip\"` is possible: it is asked before there is a route");
    }
    Some(limits.into_iter().map(|limit| limit.value).collect())
}

fn limits(table: &mut Table<'_>) -> Option<Limits> {
    let header_bytes = table.or("header_bytes", size(1 << 10..=1 << 20), "32KiB");
    let headers = table.or("headers", integer(1..=MOST_HEADERS), 100);
    let body_bytes = table.or("body_bytes", size(0..=1 << 40), "10MiB");
    let body_min_rate = table.or("body_min_rate", size(0..=1 << 30), "500B");
    let header_timeout = table.or("header_timeout", duration(100 * MILLISECOND..=5 * MINUTE), "10s");
    let idle_timeout = table.or("idle_timeout", duration(SECOND..=HOUR), "60s");
    let connections = table.or("connections", integer(1..=10_000_000), 100_000);
    let per_address = table.maybe("connections_per_address", integer(1..=10_000_000));
    let has_per_address = table.has("connections_per_address");
    let ipv6_prefix = table.or("ipv6_prefix", integer(16..=128), 64);
    let rate_keys = table.or("rate_keys", integer(1_000..=100_000_000), 200_000);
    let idle_upstreams = table.or("idle_upstreams", integer(1..=1_000_000), 1024);
    let streams = table.or("streams", integer(1..=10_000), 100);
    Some(Limits {
        header_bytes: header_bytes?,
        headers: headers?,
        body_bytes: body_bytes?,
        body_min_rate: body_min_rate?,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        connections: connections?,
        connections_per_address: if has_per_address { per_address? } else { usize::MAX },
        ipv6_prefix: ipv6_prefix?,
        rate_keys: rate_keys?,
        idle_upstreams: idle_upstreams?,
        streams: streams?,
    })
}

/// Listening twice on one address fails at start; better said now.
fn distinct(table: &Table<'_>, listen: Vec<Placed<SocketAddr>>) -> Vec<SocketAddr> {
    let mut seen = Vec::with_capacity(listen.len());
    for Placed { at, value } in listen {
        if value.port() != 0 && seen.contains(&value) {
            table.reader.problem(&at, "this address is listed twice");
        }
        seen.push(value);
    }
    seen
}

pub fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_| "expected a network, such as \"10.0.0.0/8\"".into())
}

/// `[admin]`; `taken` are the addresses of the server.
pub fn admin(table: &mut Table<'_>, taken: &[SocketAddr]) -> Option<AdminSettings> {
    let listen = table.or("listen", socket, "127.0.0.1:9900");
    let token = table.secret_or_file("token", "token_file");
    let given = table.has("token") || table.has("token_file");
    if let Some(listen) = listen {
        if !listen.ip().is_loopback() && !given {
            let message = "an address that others can reach needs `token` or `token_file`";
            table.reader.problem(&table.place("listen"), message);
        }
        let clash = |other: &SocketAddr| {
            let everywhere = listen.ip().is_unspecified() || other.ip().is_unspecified();
            other.port() == listen.port() && listen.port() != 0 && (everywhere || other.ip() == listen.ip())
        };
        if taken.iter().any(clash) {
            table.reader.problem(&table.place("listen"), "the server listens on this address already");
        }
    }
    let token = match token {
        Some(Placed { at, value }) => Some(visible(table, &at, value)?),
        None => None,
    };
    Some(AdminSettings { listen: listen?, token })
}

/// A bearer token travels in a header (RFC 6750 section 2.1).
fn visible(table: &Table<'_>, at: &super::problem::Span, token: Vec<u8>) -> Option<Box<str>> {
    if !token.iter().all(u8::is_ascii_graphic) {
        table.reader.problem(at, "the token must be of visible ASCII characters, without blanks");
        return None;
    }
    if token.len() < UNGUESSABLE {
        let message = format!("a control token of fewer than {UNGUESSABLE} characters can be guessed");
        table.reader.warn(at, message);
    }
    String::from_utf8(token).ok().map(Into::into)
}

pub fn log(table: &mut Table<'_>) -> Option<LogSettings> {
    let level = table.or("level", parsed(level), "info");
    let formats = [("json", Format::Json), ("text", Format::Text)];
    let format = table.or("format", word(&formats), "json");
    let words = [("all", AccessLog::All), ("denied", AccessLog::Denied), ("off", AccessLog::Off)];
    let access = table.or("access", word(&words), "all");
    let sample = table.or("sample", share, 1.0);
    let audit_file = table.maybe("audit_file", path);
    if table.has("sample") && matches!(access, Some(AccessLog::Denied | AccessLog::Off)) {
        let message = "`sample` is about passed requests, which only `access = \"all\"` logs";
        table.reader.problem(&table.place("sample"), message);
    }
    Some(LogSettings { level: level?, format: format?, access: access?, sample: sample?, audit_file })
}

fn level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A lone misspelled level would parse as the name of a module, and silence everything.
    let plain = !text.contains(['=', ',']);
    if plain && !LEVELS.contains(&text) || tracing_subscriber::EnvFilter::try_new(text).is_err() {
        return Err(format!(
            "expected one of {}, or directives such as \"info,portcullis=debug\"",
            LEVELS.join(", ")
        ));
    }
    Ok(text.to_owned())
}

/// `[token]`, resolved.
pub struct TokenSettings {
    pub places: Vec<Place>,
    pub max_bytes: usize,
    pub types: Vec<Box<str>>,
    /// Longest body in which a token is looked for.
    pub body_bytes: usize,
}

pub fn token(table: &mut Table<'_>) -> Option<TokenSettings> {
    let everywhere = ["header:authorization", "cookie:access_token", "query:access_token"];
    let places = table.or("from", some(placed(parsed(place))), everywhere);
    let max_bytes = table.or("max_bytes", size(256..=64 << 10), "16KiB");
    let types = table.or("types", list(parsed(media_type)), ["JWT", "at+jwt"]);
    let body_bytes = table.or("body_bytes", size(256..=MOST_BODY), "64KiB");
    let places = places?.into_iter().fold(Vec::new(), |mut seen, Placed { at, value }| {
        if seen.contains(&value) {
            table.reader.problem(&at, "this place is listed twice");
        }
        seen.push(value);
        seen
    });
    Some(TokenSettings { places, max_bytes: max_bytes?, types: types?, body_bytes: body_bytes? })
}

pub fn place(text: &str) -> Result<Place, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let checked = || match name {
        "" => Err(format!("`{kind}:` needs a name behind it")),
        name if name.chars().all(plain) => Ok(name.into()),
        _ => Err("a name here is of letters, digits, `_`, `-` and `.`".to_owned()),
    };
    match kind {
        "header" => checked().and_then(|name: Box<str>| {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| "not the name of a header".to_owned())?;
            Ok(Place::Header(name))
        }),
        "cookie" => checked().map(Place::Cookie),
        "query" => checked().map(Place::Query),
        _ => Err("expected `header:NAME`, `cookie:NAME` or `query:NAME`".into()),
    }
}

/// RFC 7515 section 4.1.9: `application/` may be left out, and case does not count.
pub fn media_type(text: &str) -> Result<Box<str>, String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_prefix("application/").unwrap_or(&lower);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("expected the type of a token, such as \"at+jwt\"".into());
    }
    Ok(name.into())
}

/// Headers that make a message what it is; stamping one of them would break it, or the judgment.
const NOT_IDENTITY: [&str; 13] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub fn identity(table: &mut Table<'_>) -> Option<IdentitySettings> {
    let written = table.has("headers");
    let headers = if written { table.map("headers", header_template) } else { default_headers(table) };
    let forward_token = table.or("forward_token", boolean, true);
    let mut named: Vec<(HeaderName, _)> = Vec::new();
    for (Placed { at, value }, template) in headers? {
        let Ok(name) = HeaderName::from_bytes(value.as_bytes()) else {
            table.reader.problem(&at, "not the name of a header");
            continue;
        };
        // What upstreams map to one variable is one header: `x_user_id` is `X-User-Id`.
        let alias = |name: &HeaderName| name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        if NOT_IDENTITY.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-") {
            table.reader.problem(&at, "this header has a meaning of its own and cannot carry identity");
        } else if named.iter().any(|(other, _)| alias(other) == alias(&name)) {
            table.reader.problem(&at, "this header is named twice, in two spellings");
        }
        named.push((name, template));
    }
    named.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    Some(IdentitySettings { headers: named, forward_token: forward_token? })
}

type Headers = Vec<(Placed<&'static str>, Template)>;

/// What an upstream needs to know and no more.
fn default_headers(table: &mut Table<'_>) -> Option<Headers> {
    const DEFAULT: [(&str, &str); 3] =
        [("x-session-id", "{sid}"), ("x-user-id", "{sub}"), ("x-user-roles", "{roles}")];
    // Asked for all the same, so that the key is known and what is in effect is shown.
    table.map("headers", header_template);
    let shown: toml::Table = DEFAULT.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    table.in_effect("headers", shown);
    DEFAULT
        .iter()
        .map(|(name, value)| {
            let template = header_template(table.reader, &(*value).into())?;
            Some((Placed { at: table.at.clone(), value: *name }, template))
        })
        .collect()
}

/// How long tokens may live at most.
pub const LONGEST_LIFE: Duration = Duration::from_secs(366 * DAY.as_secs());
