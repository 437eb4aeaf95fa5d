//! What the upstream receives: the client's request less what is not the client's to say, plus what we know.
//!
//! Runs after Pingora has dealt with the fields that `Connection` nominates, so that none of ours can be nominated away
//! (CVE-2024-45410, CVE-2026-105299).

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::RequestHeader;

use super::exchange::Exchange;
use super::{dress, observe};
use crate::route::{Access, Observer, Route};
use crate::token::{self, Place};

// As text, not as `HeaderName`: Pingora keeps the spelling of every name, and static text is kept without a copy.
pub(super) const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
pub(super) const X_REQUEST_ID: &str = "x-request-id";

/// Makes the upstream's request out of the client's `received`.
pub(super) fn prepare(
    request: &mut RequestHeader,
    received: &RequestHeader,
    exchange: &Exchange,
) -> Result<()> {
    let gate = &exchange.snapshot.gate;
    // Where the service is given its refresh token; that is never taken out.
    let needed = match exchange.grant().map(|grant| &grant.route.settings.access) {
        Some(Access::Refresh(refresh)) => refresh.places.as_slice(),
        Some(Access::Open | Access::Guarded(_)) | None => &[],
    };
    let forbidden = gate.identity.forbidden(&request.headers, exchange.trusted);
    // What a service could take for the token, and nobody has judged.
    let disguised = request
        .headers
        .keys()
        .filter(|name| gate.places.iter().chain(needed).any(|it| it.is_mimicked_by(name)));
    let unwanted: Vec<HeaderName> = forbidden.chain(disguised).cloned().collect();
    for name in &unwanted {
        request.remove_header(name);
    }
    if !gate.identity.forwards_token() {
        gate.places
            .iter()
            .filter(|place| !needed.contains(place))
            .try_for_each(|place| take_out(request, place))?;
    }
    if exchange.body_read {
        // The body was asked for already, and is here.
        request.remove_header(&header::EXPECT);
    }
    if exchange.grant().is_some_and(|grant| tracks(&grant.route))
        && let Some(understood) = observe::accept_encoding(&request.headers)
    {
        request.insert_header(header::ACCEPT_ENCODING, understood)?;
    }
    provenance(request, exchange)?;
    if let Some(grant) = exchange.grant() {
        let stamps = grant.credential.as_ref().map(|credential| &credential.stamps);
        let told = grant.told.as_ref().map(|told| &told.stamps);
        for (name, value) in stamps.into_iter().chain(told).flat_map(|it| gate.identity.headers(it)) {
            request.insert_header(name.clone(), value)?;
        }
        dress::request(request, received, exchange, &grant.route)?;
    }
    Ok(())
}

/// Whether answers of this route may have to be read.
fn tracks(route: &Route) -> bool {
    route.settings.observers.iter().any(|observer| matches!(observer, Observer::Track(..)))
}

/// Where the request came from. A trusted proxy's word is kept and ours added; anybody else's is gone by now.
fn provenance(request: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let said = |request: &RequestHeader, name: &str| exchange.trusted && request.headers.contains_key(name);
    let peer = &exchange.arrival.peer.text;
    if said(request, X_FORWARDED_FOR) {
        // Several lines are one list (RFC 9110 section 5.2): some proxies add one of their own behind the client's.
        let before = request.headers.get_all(X_FORWARDED_FOR).iter().chain([peer]);
        let path = before.filter_map(|line| line.to_str().ok()).collect::<Vec<_>>().join(", ");
        request.insert_header(X_FORWARDED_FOR, path)?;
    } else {
        request.insert_header(X_FORWARDED_FOR, peer.clone())?;
    }
    if !said(request, X_FORWARDED_PROTO) {
        request.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static(exchange.arrival.scheme.word()))?;
    }
    // A trusted proxy's, where it gave one: the same in its log, in ours and in the service's.
    request.insert_header(X_REQUEST_ID, exchange.id.as_str())?;
    Ok(())
}

/// Whose request it is, by the word of trusted proxies: each appends whom it heard from, so the list is read from its
/// end for as long as those who wrote it are trusted (anybody can write its beginning, RFC 7239 section 8.1).
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted: impl Fn(&IpAddr) -> bool) -> IpAddr {
    let lines: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    let named = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    let mut client = peer;
    for name in named {
        let Ok(before) = name.trim().parse::<IpAddr>() else { break };
        client = before.to_canonical();
        if !trusted(&client) {
            break;
        }
    }
    client
}

/// Takes the token out of a place, and leaves what else is there.
fn take_out(request: &mut RequestHeader, place: &Place) -> Result<()> {
    match place {
        // Another scheme's credentials are not ours to withhold.
        Place::Header(name) if *name == header::AUTHORIZATION => {
            if request.headers.get(name).is_some_and(|value| token::is_for_tokens(value.as_bytes())) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let ours = |address: &IpAddr| address.to_string().starts_with("10.");
        let who = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            client(&headers, IpAddr::from([10, 0, 0, 1]), ours).to_string()
        };
        assert_eq!(who(&[]), "10.0.0.1");
        assert_eq!(who(&["192.0.2.7"]), "192.0.2.7");
        assert_eq!(who(&["192.0.2.66, 192.0.2.7, 10.0.0.9"]), "192.0.2.7", "the rest is anybody's word");
        assert_eq!(who(&["192.0.2.66", "192.0.2.7,10.0.0.9", "10.0.0.8"]), "192.0.2.7");
        assert_eq!(who(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(who(&["192.0.2.7, unknown, 10.0.0.9"]), "10.0.0.9", "no further than can be read");
        assert_eq!(who(&["::ffff:192.0.2.7"]), "192.0.2.7");
    }
}
