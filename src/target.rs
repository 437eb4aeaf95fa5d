//! The one canonicaliser: raw target and Host in; the path that is routed, judged and forwarded out, or "ambiguous".
//!
//! Routers, policies and upstreams that read a path differently are the oldest hole of proxies (CVE-2019-9901,
//! CVE-2021-29492, CVE-2026-33494). Here the path is read once. Whatever two parsers could read differently is
//! refused, or, if the operator says so, resolved, and then the upstream receives the resolved bytes.

mod host;
mod path;

use std::borrow::Cow;

/// What is done with a path that two parsers could read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// 400.
    Reject,
    /// Resolved once, here; the upstream receives the resolved form.
    Normalize,
}

/// Why a request has no single reading. The text is for the client: it names the thing, never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguity(pub &'static str);

/// Where a request goes, in the one form every later step uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Lower case, without port or trailing dot; empty only for HTTP/1.0 without a Host.
    pub host: Cow<'a, str>,
    /// Begins with `/`. Unreserved characters are plain, escapes are upper case.
    pub path: Cow<'a, str>,
    /// As received, without the `?`.
    pub query: Option<&'a str>,
    /// Whether the target on the wire reads `path?query` already.
    pub as_received: bool,
}

impl<'a> Target<'a> {
    /// Reads a request target (RFC 9112 section 3.2) and the Host field or `:authority`.
    pub fn read(target: &'a [u8], host: Option<&'a [u8]>, ambiguous: Ambiguous) -> Result<Self, Ambiguity> {
        let (authority, origin_form) = split_authority(target)?;
        let host = match (authority, host) {
            (Some(authority), Some(host)) => {
                let (in_target, in_field) = (host::canonical(authority)?, host::canonical(host)?);
                if in_target != in_field || host::port(authority) != host::port(host) {
                    return Err(Ambiguity("the target and the Host field name different hosts"));
                }
                in_target
            }
            (Some(only), None) | (None, Some(only)) => host::canonical(only)?,
            (None, None) => Cow::Borrowed(""),
        };
        let (path, query) = match origin_form.iter().position(|byte| *byte == b'?') {
            Some(at) => {
                let (path, rest) = origin_form.split_at(at);
                (path, Some(path::query(rest.get(1..).unwrap_or_default())?))
            }
            None => (origin_form, None),
        };
        // `http://host` and `http://host?query` are the only forms whose path may be empty (RFC 9110 section 4.2.3).
        let path = match (path, authority) {
            ([], Some(_)) => Cow::Borrowed("/"),
            _ => path::canonical(path, ambiguous)?,
        };
        let as_received = authority.is_none() && matches!(path, Cow::Borrowed(_));
        Ok(Self { host, path, query, as_received })
    }

    /// The target as upstreams receive it, in origin form.
    pub fn origin_form(&self) -> String {
        match self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }
}

/// Whether a path is in the one form that [`Target::read`] gives: nothing else is ever sent to an upstream.
pub fn is_canonical(path: &str) -> bool {
    matches!(path::canonical(path.as_bytes(), Ambiguous::Reject), Ok(Cow::Borrowed(_)))
}

/// The host that a Host field names, in the form in which routes know it.
pub fn host(field: &[u8]) -> Option<Cow<'_, str>> {
    host::canonical(field).ok()
}

/// Splits the absolute form into authority and the rest; the origin form has no authority.
fn split_authority(target: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Ambiguity> {
    if target.first() == Some(&b'/') {
        return Ok((None, target));
    }
    let lower = |length: usize| target.get(..length).map(<[u8]>::to_ascii_lowercase);
    let rest = if lower(7).as_deref() == Some(b"http://") {
        target.get(7..)
    } else if lower(8).as_deref() == Some(b"https://") {
        target.get(8..)
    } else {
        None
    };
    // `admin`, `?q`, `a:b` and `*` all have the path `/` to a URI parser, and go out as they came in.
    let rest = rest.ok_or(Ambiguity("the request target does not begin with a slash"))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    Ok((Some(authority), rest))
}

#[cfg(test)]
mod tests;
