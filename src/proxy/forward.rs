//! What the upstream receives: the client's request less what is not the client's to say, plus what we know.
//!
//! Runs after Pingora has dealt with the fields that `Connection` nominates, so that none of ours can be nominated away
//! (CVE-2024-45410, CVE-2026-105299).

use http::header::{self, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::RequestHeader;

use super::exchange::Exchange;
use crate::token::{self, Place};

// As text, not as `HeaderName`: Pingora keeps the spelling of every name, and static text is kept without a copy.
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_REQUEST_ID: &str = "x-request-id";

/// Makes the upstream's request out of the client's.
pub(super) fn prepare(request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let gate = &exchange.snapshot.gate;
    let forbidden: Vec<HeaderName> =
        gate.identity.forbidden(&request.headers, exchange.trusted).cloned().collect();
    for name in &forbidden {
        request.remove_header(name);
    }
    if !gate.identity.forwards_token() {
        gate.places.iter().try_for_each(|place| take_out(request, place))?;
    }
    provenance(request, exchange)?;
    if let Some(credential) = exchange.grant().and_then(|grant| grant.credential.as_ref()) {
        for (name, value) in gate.identity.headers(&credential.stamps) {
            request.insert_header(name.clone(), value)?;
        }
    }
    Ok(())
}

/// Where the request came from. A trusted proxy's word is kept and ours added; anybody else's is gone by now.
fn provenance(request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let said = |request: &RequestHeader, name: &str| exchange.trusted && request.headers.contains_key(name);
    let client = exchange.client.to_string();
    let before = request.headers.get(X_FORWARDED_FOR).filter(|_| exchange.trusted);
    let path = match before.and_then(|before| before.to_str().ok()) {
        Some(before) => format!("{before}, {client}"),
        None => client,
    };
    request.insert_header(X_FORWARDED_FOR, path)?;
    if !said(request, X_FORWARDED_PROTO) {
        request.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static("http"))?;
    }
    if !said(request, X_FORWARDED_HOST)
        && let Some(host) = request.headers.get(header::HOST).cloned()
    {
        request.insert_header(X_FORWARDED_HOST, host)?;
    }
    if !said(request, X_REQUEST_ID) {
        request.insert_header(X_REQUEST_ID, exchange.id.as_str())?;
    }
    Ok(())
}

/// Takes the token out of a place, and leaves what else is there.
fn take_out(request: &mut RequestHeader, place: &Place) -> Result<()> {
    match place {
        // Another scheme's credentials are not ours to withhold.
        Place::Header(name) if *name == header::AUTHORIZATION => {
            let is_bearer = |value: &HeaderValue| {
                value.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
            };
            if request.headers.get(name).is_some_and(is_bearer) {
                request.remove_header(name);
            }
        }
        Place::Header(name) => drop(request.remove_header(name)),
        Place::Cookie(name) => {
            let lines: Vec<String> = request
                .headers
                .get_all(header::COOKIE)
                .iter()
                .filter_map(|line| token::without_cookie(line.to_str().ok()?, name))
                .collect();
            request.remove_header(&header::COOKIE);
            for line in lines {
                request.append_header(header::COOKIE, line)?;
            }
        }
        Place::Query(name) => {
            let target = String::from_utf8_lossy(request.raw_path()).into_owned();
            if let Some((path, query)) = target.split_once('?') {
                let rest = token::without_parameter(query, name);
                let target = rest.map_or(path.to_owned(), |rest| format!("{path}?{rest}"));
                request.set_raw_path(target.as_bytes())?;
            }
        }
    }
    Ok(())
}
