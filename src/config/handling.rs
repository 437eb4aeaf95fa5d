//! What a route does with requests besides judging them: `rewrite`, `cors`, `body_bytes`, `mode`; and how they are put
//! together with what `replies` and `route_headers` read.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::kinds::{DAY, boolean, duration, filled, list, parsed, placed, size, some, text, word};
use super::reader::{Placed, Table};
use super::routes::method;
use super::{replies, route_headers};
use crate::route::cors::{AllowedHeaders, Cors, Origin, Origins};
use crate::route::rewrite::{PathRewrite, Replacement, Rewrite};
use crate::route::{Handling, Maintenance, Mode};

/// What the keys of one route lean on.
pub struct Around<'a> {
    /// The names in `[identity] headers`.
    pub identity: &'a [HeaderName],
    /// `[server.limits] body_bytes`
    pub body_bytes: u64,
    /// `[server] maintenance`
    pub maintenance: Option<&'a Arc<Maintenance>>,
}

/// Every key of a route whose path is `pattern` and which serves these `methods`.
pub fn handling(
    table: &mut Table<'_>,
    pattern: Option<&str>,
    methods: &[Method],
    around: &Around<'_>,
) -> Option<Handling> {
    let mode = table.or("mode", word(&[("enforce", Mode::Enforce), ("observe", Mode::Observe)]), "enforce");
    let default = i64::try_from(around.body_bytes).unwrap_or(i64::MAX);
    let body_bytes = table.or("body_bytes", size(0..=1 << 40), default);
    let maintenance = match table.has("maintenance") {
        true => replies::maintenance(table),
        false => {
            table.exists("maintenance");
            Some(around.maintenance.map(Arc::clone))
        }
    };
    let has_cors = table.has("cors");
    let rewrite = written(table, "rewrite", |table| rewrite(table, pattern));
    let headers =
        written(table, "headers", |table| route_headers::headers(table, pattern, around.identity, has_cors));
    let cors = written(table, "cors", |table| cors(table, methods));
    Some(Handling {
        mode: mode?,
        maintenance: maintenance?,
        body_bytes: body_bytes?,
        rewrite: rewrite?.map(Box::new),
        headers: headers?.map(Box::new),
        cors: cors?.map(Box::new),
    })
}

/// A table that may be left out whole. `None` only after a problem was told.
fn written<'r, T>(
    table: &mut Table<'r>,
    key: &'static str,
    read: impl FnOnce(&mut Table<'r>) -> Option<T>,
) -> Option<Option<T>> {
    if table.has(key) {
        return table.table(key, read).map(Some);
    }
    table.exists(key);
    Some(None)
}

fn rewrite(table: &mut Table<'_>, pattern: Option<&str>) -> Option<Rewrite> {
    let strip = table.maybe("strip_prefix", parsed(prefix));
    let add = table.maybe("add_prefix", parsed(prefix));
    let replace =
        table.maybe("replace", filled(|text| pattern.map(|it| Replacement::parse(text, it)).transpose()));
    let host = table.maybe("host", parsed(host));
    let restore = table.or("restore", boolean, false);
    let tell = |key: &str, message: &str| table.reader.problem(&table.place(key), message);
    if let (Some(strip), Some(pattern)) = (&strip, pattern)
        && !begins_with(pattern, strip)
    {
        tell("strip_prefix", "not every path of this route begins with this");
    }
    let prefixed = table.has("strip_prefix") || table.has("add_prefix");
    if table.has("replace") && prefixed {
        tell("replace", "`replace` says the whole path: leave `strip_prefix` and `add_prefix` out");
    }
    if !prefixed && !table.has("replace") && !table.has("host") {
        table.reader.problem(&table.at, "this rewrites nothing");
    }
    if restore == Some(true) && (table.has("replace") || !prefixed && !table.has("host")) {
        tell("restore", "only what `strip_prefix`, `add_prefix` and `host` do can be undone");
    }
    let path = match replace {
        _ if prefixed => {
            PathRewrite::Prefix { strip: strip.unwrap_or_default(), add: add.unwrap_or_default() }
        }
        Some(replacement) => PathRewrite::Replace(replacement?),
        None => PathRewrite::Keep,
    };
    Some(Rewrite { path, host, restore: restore? })
}

/// Segments, in the form in which paths are compared; a slash at the end makes no difference.
fn prefix(text: &str) -> Result<Box<str>, String> {
    let bare = text.strip_suffix('/').unwrap_or(text);
    match bare.starts_with('/') && super::path::pattern(bare).is_ok() && !bare.contains(['{', '}']) {
        true => Ok(bare.into()),
        false => Err("expected the beginning of a path, such as \"/api\", in its one form".into()),
    }
}

/// Whether every path that a pattern matches begins with these segments: what parameters stand for nobody knows.
fn begins_with(pattern: &str, prefix: &str) -> bool {
    let mut segments = pattern.split('/');
    prefix.split('/').all(|wanted| segments.next() == Some(wanted))
}

fn host(text: &str) -> Result<HeaderValue, String> {
    let named = crate::target::host(text.as_bytes()).is_some();
    let value = HeaderValue::from_str(text).ok().filter(|_| named);
    value.ok_or_else(|| "expected a host, with a port or without, such as \"app.internal\"".into())
}

fn cors(table: &mut Table<'_>, own: &[Method]) -> Option<Cors> {
    let origins = table.need("origins", some(placed(parsed(origin))));
    let default: Vec<_> = match own {
        [] => ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).to_vec(),
        own => own.iter().map(ToString::to_string).collect(),
    };
    let methods = table.maybe("methods", some(parsed(method)));
    let methods = match table.has("methods") {
        true => methods.map(|methods| methods.iter().map(ToString::to_string).collect::<Vec<_>>()),
        false => Some(default),
    };
    let headers = table.or("headers", list(placed(text)), ["*"]);
    let expose = table.or("expose", list(placed(text)), []);
    let credentials = table.or("credentials", boolean, false);
    let max_age = table.or("max_age", duration(std::time::Duration::ZERO..=DAY), "10m");
    let private_network = table.or("private_network", boolean, false);
    let reader = table.reader;
    let any = |list: &[Placed<String>]| list.iter().any(|name| name.value == "*");
    if credentials == Some(true) {
        if origins.iter().flatten().any(|origin| origin.value.is_none()) {
            let message =
                "with credentials `\"*\"` would let every page use its visitors' cookies: name the origins";
            reader.problem(&table.place("origins"), message);
        }
        if expose.as_deref().is_some_and(any) {
            reader.problem(
                &table.place("expose"),
                "with credentials browsers take `\"*\"` for a name: name the headers",
            );
        }
    }
    let headers = headers?;
    let allowed = match any(&headers) {
        true if headers.len() > 1 => {
            reader.problem(&table.place("headers"), "`\"*\"` stands alone");
            return None;
        }
        true => AllowedHeaders::Asked,
        false => AllowedHeaders::These(names(table, &headers)?),
    };
    let origins = origins?;
    let origins = match origins.iter().find(|origin| origin.value.is_none()) {
        Some(Placed { at, .. }) if origins.len() > 1 => {
            reader.problem(at, "`\"*\"` stands alone");
            return None;
        }
        Some(_) => Origins::Any,
        None => Origins::These(origins.into_iter().filter_map(|origin| origin.value).collect()),
    };
    let expose = expose?;
    let expose = if expose.is_empty() { None } else { Some(names(table, &expose)?) };
    let methods = HeaderValue::from_str(&methods?.join(", ")).ok()?;
    Some(Cors {
        origins,
        credentials: credentials?,
        methods,
        headers: allowed,
        expose,
        max_age: HeaderValue::from(max_age?.as_secs()),
        private_network: private_network?,
    })
}

fn names(table: &Table<'_>, names: &[Placed<String>]) -> Option<HeaderValue> {
    let mut all = true;
    for Placed { at, value } in names {
        if HeaderName::from_bytes(value.as_bytes()).is_err() {
            table.reader.problem(at, "not the name of a header");
            all = false;
        }
    }
    let list: Vec<_> = names.iter().map(|name| name.value.as_str()).collect();
    HeaderValue::from_str(&list.join(", ")).ok().filter(|_| all)
}

/// An origin as browsers write it (RFC 6454 section 6.2): compared byte for byte, another spelling would never match.
/// `None` for `"*"`.
fn origin(text: &str) -> Result<Option<Origin>, String> {
    const FORM: &str = "expected an origin as browsers write it, such as \"https://app.example.com\", \
                        \"https://*.example.com\", \"null\" or \"*\"";
    if text == "*" {
        return Ok(None);
    }
    if text == "null" {
        return Ok(Some(Origin::Exact(text.into())));
    }
    let (scheme, authority) = text.split_once("://").ok_or(FORM)?;
    let wildcard = authority.strip_prefix("*.");
    let authority = wildcard.unwrap_or(authority);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    let host = crate::target::host(authority.as_bytes()).ok_or(FORM)?;
    let bare = authority.strip_suffix('.').is_none() && !authority.contains('@') && !authority.contains('*');
    if !scheme.starts_with(|c: char| c.is_ascii_lowercase())
        || !scheme.bytes().all(plain)
        || !bare
        || !authority.starts_with(&*host)
        || matches!(
            (scheme, authority.rsplit_once(':')),
            ("https", Some((_, "443"))) | ("http", Some((_, "80")))
        )
    {
        return Err(FORM.to_owned());
    }
    Ok(Some(match wildcard {
        Some(below) => {
            Origin::Below { scheme: format!("{scheme}://").into(), suffix: format!(".{below}").into() }
        }
        None => Origin::Exact(text.into()),
    }))
}
