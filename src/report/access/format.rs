//! How an access line looks. Everything that came from a client is escaped, and what looks like a token is taken out.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::{Line, Outcome};
use crate::verdict::DenyReason;

/// The same leading fields as the other lines of the log, so that one parser reads both.
#[derive(Serialize)]
struct Fields<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    request_id: &'a str,
    client: std::net::IpAddr,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    route: Option<&'a str>,
    status: u16,
    verdict: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    realm: &'a str,
    token: Option<String>,
    upstream: Option<std::net::SocketAddr>,
    total_ms: f64,
    upstream_ms: Option<f64>,
    judgment_us: f64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked_by: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn of(line: &'a Line) -> Self {
        let (verdict, reason, detail) = match &line.outcome {
            Outcome::Allowed => ("allow", "none", None),
            Outcome::AllowedUnasked(why) => ("allow", "ledger_unavailable", Some(Cow::Borrowed(&**why))),
            Outcome::Denied(reason) => ("deny", reason.word(), detail(reason)),
        };
        let user = line.credential.as_ref().map(|credential| credential.claims.user());
        Self {
            timestamp: line.at.to_string(),
            level: "INFO",
            target: "access",
            request_id: line.request_id(),
            client: line.client,
            method: without_tokens(line.method.as_str()),
            path: without_tokens(line.path()),
            route: line.route.as_ref().map(|route| &*route.settings.name),
            status: line.status,
            verdict,
            reason,
            detail,
            sub: user.map(|user| &*user.subject),
            realm: user.map_or("", |user| &user.realm),
            token: line.credential.as_ref().map(|credential| credential.fingerprint.to_string()),
            upstream: line.upstream,
            total_ms: thousandths(line.total, 1e3),
            upstream_ms: line.upstream_time.map(|time| thousandths(time, 1e3)),
            judgment_us: thousandths(line.judgment, 1e6),
            bytes: line.bytes,
            asked_by: line.asked_by,
        }
    }
}

/// What the operator hears beyond the word. Nothing in it comes from the request.
fn detail(reason: &DenyReason) -> Option<Cow<'_, str>> {
    match reason {
        DenyReason::RequestAmbiguous(what) => Some(Cow::Borrowed(what)),
        DenyReason::Unverified(why) => Some(Cow::Owned(why.to_string())),
        DenyReason::Revoked(revocation) => Some(Cow::Owned(format!("rule `{}`", revocation.rule))),
        DenyReason::LedgerUnavailable(outage) => Some(Cow::Owned(outage.to_string())),
        DenyReason::RateLimited(exceeded) => Some(Cow::Owned(format!("limit `{}`", exceeded.limit))),
        DenyReason::NoRoute
        | DenyReason::MisdirectedRequest
        | DenyReason::ClientCertificateMissing
        | DenyReason::AskerRefused
        | DenyReason::MethodRefused
        | DenyReason::HeadersTooLarge
        | DenyReason::BodyTooLarge
        | DenyReason::OriginRefused
        | DenyReason::TokenMissing
        | DenyReason::InsufficientScope
        | DenyReason::InsufficientRole
        | DenyReason::ClaimMismatch
        | DenyReason::UpstreamUnavailable
        | DenyReason::UpstreamTimeout
        | DenyReason::BodyTimeout
        | DenyReason::BodyUnreadable
        | DenyReason::Unrecorded => None,
    }
}

/// In units of `1 / per_second` of a second, rounded to three places.
fn thousandths(time: Duration, per_second: f64) -> f64 {
    (time.as_secs_f64() * per_second * 1000.0).round() / 1000.0
}

/// One JSON object and a line feed.
pub(super) fn json(line: &Line, buffer: &mut Vec<u8>) {
    let length = buffer.len();
    match serde_json::to_writer(&mut *buffer, &Fields::of(line)) {
        Ok(()) => buffer.push(b'\n'),
        // Strings and numbers into memory: cannot fail. Half a line would spoil the next one too.
        Err(_) => buffer.truncate(length),
    }
}

/// For eyes: `2026-11-21T04:20:56.123Z 200 GET /api/things api allow 7 1.204ms`.
pub(super) fn text(line: &Line, buffer: &mut Vec<u8>) {
    let fields = Fields::of(line);
    let mut text = String::with_capacity(160);
    let path = fields.path.escape_debug();
    // Writing into a `String` cannot fail.
    let _ = write!(text, "{} {} {} {path}", fields.timestamp, fields.status, fields.method);
    let _ = write!(text, " route={} {}", fields.route.unwrap_or("-"), fields.verdict);
    if fields.reason != "none" {
        let _ = write!(text, " reason={}", fields.reason.escape_debug());
    }
    if let Some(sub) = fields.sub {
        let _ = write!(text, " sub={}", sub.escape_debug());
    }
    if let Some(token) = &fields.token {
        let _ = write!(text, " token={token}");
    }
    if let Some(upstream) = fields.upstream {
        let _ = write!(text, " upstream={upstream}");
    }
    if let Some(peer) = fields.asked_by {
        let _ = write!(text, " asked_by={peer}");
    }
    let _ = write!(text, " total={}ms judgment={}us", fields.total_ms, fields.judgment_us);
    let _ = writeln!(text, " client={} id={}", fields.client, fields.request_id.escape_debug());
    buffer.extend_from_slice(text.as_bytes());
}

/// Takes out everything that looks like a compact JWS: it starts as base64url of `{"` and goes on in its alphabet.
///
/// Clients put tokens into paths, whether or not anybody reads them there; the log is no place for them.
fn without_tokens(path: &str) -> Cow<'_, str> {
    const START: &str = "eyJ";
    if !path.contains(START) {
        return Cow::Borrowed(path);
    }
    let mut clean = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, from)) = rest.split_once(START) {
        let belongs = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let after = from.trim_start_matches(belongs);
        clean.push_str(before);
        clean.push_str("[token]");
        rest = after;
    }
    clean.push_str(rest);
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_token_is_taken_out_of_a_path() {
        assert_eq!(without_tokens("/a/b"), "/a/b");
        assert_eq!(without_tokens("/a/eyJhbGciOi.eyJzdWIi.c-_i/b"), "/a/[token]/b");
        assert_eq!(without_tokens("/a%3Ftoken=eyJhbGciOi.eyJzdWIi.c&x=eyJ"), "/a%3Ftoken=[token]&x=[token]");
    }

    #[test]
    fn times_keep_three_places() {
        assert!((thousandths(Duration::from_nanos(1_234_567), 1e3) - 1.235).abs() < 1e-9);
    }
}
