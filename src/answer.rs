//! A denial as HTTP: problem documents (RFC 9457), Bearer challenges (RFC 6750), pages for browsers ([`browser`]).
//!
//! The client hears the standard's word for what is wrong; causes inside the gateway are the operator's business.

mod browser;
pub mod rate;

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use crate::route::{Access, Maintenance};
use crate::verdict::{Denial, DenyReason};
use crate::verify::Unverified;

/// A complete answer, whatever sends it.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// All headers but `Content-Length`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; not sent for `HEAD`.
    pub body: Bytes,
}

/// Who is told: the request, as far as it matters for how it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// Every header, as received.
    pub headers: &'a HeaderMap,
    /// The target, with its query, without the tokens in it: the login may be told of it.
    pub target: &'a str,
    /// What logs call the request.
    pub request_id: &'a str,
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    request_id: &'a str,
    /// RFC 6749 section 5.2, for the clients of a refresh endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<&'a str>,
}

/// How a denial is told to whoever asked.
pub fn denial(denial: &Denial, asked: &Asked<'_>) -> Answer {
    let reason = &denial.reason;
    let denials = denial.route.as_ref().map(|route| &route.settings.denials);
    if let Some(login) = denials.and_then(|denials| denials.login.as_ref())
        && reason.status() == 401
        && let Some(location) = browser::login(login, asked)
    {
        let mut headers = common(asked.request_id);
        headers.push((header::LOCATION, location));
        headers.push((header::VARY, HeaderValue::from_static("Accept")));
        return Answer { status: StatusCode::FOUND, headers, body: Bytes::new() };
    }
    let detail = detail(denial);
    let mut answer = document(reason, &detail, refresh_error(denial), asked.request_id);
    if denials.is_some_and(|denials| denials.html) && browser::prefers_html(asked.headers) {
        answer.headers.retain(|(name, _)| *name != header::CONTENT_TYPE);
        answer.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")));
        answer.body = browser::page(answer.status, &detail, asked.request_id);
    }
    if let DenyReason::Maintenance(maintenance) = reason {
        in_maintenance(&mut answer, maintenance);
    }
    if let Some(challenge) = challenge(denial, &detail) {
        answer.headers.push((header::WWW_AUTHENTICATE, value(&challenge)));
    }
    answer
}

/// The operator's own words, where there are any.
fn in_maintenance(answer: &mut Answer, maintenance: &Maintenance) {
    answer.headers.retain(|(name, _)| *name != header::RETRY_AFTER);
    if let Some(after) = maintenance.retry_after {
        answer.headers.push((header::RETRY_AFTER, HeaderValue::from(after.as_secs())));
    }
    if let Some((content_type, body)) = &maintenance.body {
        answer.headers.retain(|(name, _)| *name != header::CONTENT_TYPE);
        answer.headers.push((header::CONTENT_TYPE, value(content_type)));
        answer.body = body.clone();
    }
}

/// What stands in it is ours or the operator's; what could not stand in a header is left out.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

/// A reason as a problem document, for whoever has no denial: an upstream that failed, a request that was malformed.
pub fn problem(reason: &DenyReason, request_id: &str) -> Answer {
    document(reason, sentence(reason), None, request_id)
}

fn document(reason: &DenyReason, detail: &str, error: Option<&str>, request_id: &str) -> Answer {
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::FORBIDDEN);
    let word = reason.word();
    let problem = Problem {
        r#type: format!("urn:portcullis:problem:{word}"),
        title: status.canonical_reason().unwrap_or("Denied"),
        status: status.as_u16(),
        detail,
        reason: word,
        request_id,
        error,
        error_description: error.map(|_| detail),
    };
    let mut headers = common(request_id);
    if let DenyReason::RateLimited(exceeded) = reason {
        headers.push((header::RETRY_AFTER, HeaderValue::from(rate::seconds(exceeded.wait))));
    }
    let mut say = |name, value| headers.push((name, HeaderValue::from_static(value)));
    say(header::CONTENT_TYPE, "application/problem+json");
    match status {
        StatusCode::SERVICE_UNAVAILABLE => say(header::RETRY_AFTER, "1"),
        // RFC 9110 section 15.5.16.
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            say(header::ACCEPT, "application/json, application/x-www-form-urlencoded");
            say(header::ACCEPT_ENCODING, "identity");
        }
        // RFC 9110 section 15.5.6 asks for a list; what is refused everywhere has the rest allowed somewhere.
        StatusCode::METHOD_NOT_ALLOWED => {
            say(header::ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        }
        _ => {}
    }
    Answer { status, headers, body: Bytes::from(serde_json::to_vec(&problem).unwrap_or_default()) }
}

fn common(request_id: &str) -> Vec<(HeaderName, HeaderValue)> {
    vec![
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("x-request-id"), value(request_id)),
    ]
}

/// One sentence for the client, in the words of the token it has sent.
fn detail(denial: &Denial) -> Cow<'_, str> {
    let sentence = sentence(&denial.reason);
    if !is_refresh(denial) {
        return Cow::Borrowed(sentence);
    }
    let sentence = sentence.replace("access token", "refresh token");
    let told = sentence.contains("log in again");
    Cow::Owned(match denial.reason.status() {
        401 if !told => format!("{}; please log in again.", sentence.trim_end_matches('.')),
        _ => sentence,
    })
}

fn is_refresh(denial: &Denial) -> bool {
    denial.route.as_ref().is_some_and(|route| matches!(route.settings.access, Access::Refresh(_)))
}

/// What OAuth clients look at when a refresh fails (RFC 6749 section 5.2): `invalid_grant` makes them log in again and
/// forget the token, where a bare 401 sends some of them into a loop; `temporarily_unavailable` makes them keep it.
fn refresh_error(denial: &Denial) -> Option<&'static str> {
    if !is_refresh(denial) {
        return None;
    }
    match denial.reason.status() {
        _ if denial.reason == DenyReason::TokenMissing => Some("invalid_request"),
        401 | 403 => Some("invalid_grant"),
        400..=499 => Some("invalid_request"),
        _ => Some("temporarily_unavailable"),
    }
}

/// One sentence for the client.
fn sentence(reason: &DenyReason) -> &str {
    match reason {
        DenyReason::NoRoute => "Nothing is served here.",
        DenyReason::RequestAmbiguous(what) => what,
        DenyReason::MisdirectedRequest => {
            "This connection was made for another host, or on other terms; please make a new one."
        }
        DenyReason::ClientCertificateMissing => "This needs a client certificate.",
        DenyReason::Maintenance(_) => "The service is being maintained; please try again later.",
        DenyReason::AskerRefused => "This address may not ask here.",
        DenyReason::MethodRefused => "This method is refused.",
        DenyReason::HeadersTooLarge => "The request has more or longer header fields than are allowed.",
        DenyReason::BodyTooLarge => "The request body is longer than is allowed.",
        DenyReason::BodyTimeout => "The request body did not come in time.",
        DenyReason::BodyUnreadable => "The body must be JSON or a form, in UTF-8, and not compressed.",
        DenyReason::Unrecorded => {
            "The service has answered, but what follows from it could not be stored; please try again."
        }
        DenyReason::OriginRefused => "This page may not open a connection here with the user's cookie.",
        DenyReason::TokenMissing => "This needs an access token.",
        DenyReason::Unverified(why) => match why {
            Unverified::Malformed(_) => "The access token is not a well-formed JWT.",
            Unverified::Signature => "The signature of the access token could not be verified.",
            Unverified::Expired => "The access token has expired.",
            Unverified::NotYetValid => "The access token is not valid yet.",
            Unverified::Issuer => "The issuer of the access token is not accepted.",
            Unverified::Audience => "The access token is meant for another audience.",
            Unverified::Algorithm => "The algorithm of the access token is not accepted.",
            Unverified::Claim(_) => "A claim of the access token is missing or has the wrong form.",
            Unverified::KeysUnavailable => "The keys of the issuer are not available at present.",
        },
        DenyReason::Revoked(revocation) => match &*revocation.reason {
            "token_revoked" => "The access token has been revoked.",
            "session_revoked" => "The session has been revoked.",
            "issued_before_cutoff" | "user_security_action" => {
                "The access token is no longer valid; please log in again."
            }
            "user_banned" => "The user is banned.",
            "user_deactivated" => "The user is deactivated.",
            "user_deleted" | "user_unknown" => "The user does not exist.",
            _ => "Access has been withdrawn.",
        },
        DenyReason::LedgerUnavailable(_) => {
            "It could not be determined whether the access token is still good."
        }
        DenyReason::InsufficientScope => "The access token lacks a scope that is needed here.",
        DenyReason::InsufficientRole => "The user lacks a role that is needed here.",
        DenyReason::ClaimMismatch => {
            "A claim of the access token does not have the value that is needed here."
        }
        DenyReason::RateLimited(_) => "These are too many requests; please come back a little later.",
        DenyReason::UpstreamUnavailable => "The service could not be reached.",
        DenyReason::UpstreamTimeout => "The service did not answer in time.",
    }
}

/// The Bearer challenge (RFC 6750 section 3) of a 401 or 403. Without a token there is no error code.
fn challenge(denial: &Denial, detail: &str) -> Option<String> {
    let reason = &denial.reason;
    if !matches!(reason.status(), 401 | 403) {
        return None;
    }
    let error = match reason {
        DenyReason::TokenMissing => return Some("Bearer".to_owned()),
        DenyReason::InsufficientScope | DenyReason::InsufficientRole | DenyReason::ClaimMismatch => {
            "insufficient_scope"
        }
        DenyReason::Unverified(_) | DenyReason::Revoked(_) => "invalid_token",
        DenyReason::NoRoute
        | DenyReason::OriginRefused
        | DenyReason::RequestAmbiguous(_)
        | DenyReason::MisdirectedRequest
        | DenyReason::ClientCertificateMissing
        | DenyReason::Maintenance(_)
        | DenyReason::AskerRefused
        | DenyReason::MethodRefused
        | DenyReason::HeadersTooLarge
        | DenyReason::BodyTooLarge
        | DenyReason::BodyTimeout
        | DenyReason::BodyUnreadable
        | DenyReason::Unrecorded
        | DenyReason::LedgerUnavailable(_)
        | DenyReason::RateLimited(_)
        | DenyReason::UpstreamUnavailable
        | DenyReason::UpstreamTimeout => return None,
    };
    let mut challenge =
        format!("Bearer error=\"{error}\", error_description=\"{}\"", detail.trim_end_matches('.'));
    if *reason == DenyReason::InsufficientScope
        && let Some(policy) = denial.route.as_ref().and_then(|route| route.settings.access.policy())
    {
        challenge.push_str(", scope=\"");
        challenge.push_str(&policy.scopes.join(" "));
        challenge.push('"');
    }
    Some(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_reason_and_nothing_from_inside() {
        let outage = crate::ledger::Outage { rule: "r".into(), cause: "redis://secret".into() };
        let answer = problem(&DenyReason::LedgerUnavailable(outage), "id-1");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(body["reason"], "ledger_unavailable");
        assert_eq!(body["request_id"], "id-1");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
        assert!(answer.headers.contains(&(header::RETRY_AFTER, HeaderValue::from_static("1"))));
    }
}
