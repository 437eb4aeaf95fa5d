//! Another proxy asks, and forwards by itself: nginx's `auth_request`, Traefik's `ForwardAuth`, Caddy's `forward_auth`,
//! Envoy's `ext_authz`. The same judgment as for a request that is forwarded here; the answer is the verdict.
//!
//! Nothing can be mended here: the service receives what the proxy received, whatever was judged. So what would have to
//! be rewritten or taken out is refused.

mod original;

use std::sync::Arc;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::dress::Words;
use super::exchange::Exchange;
use super::judge::deny;
use super::limits::Count;
use super::phases::{ANSWERED, denied, send};
use super::settings::Style;
use super::{forward, hygiene};
use crate::answer::Answer;
use crate::gate::{self, Forwarder, Gate};
use crate::target::{Ambiguity, Ambiguous, Target};
use crate::time::Timestamp;
use crate::verdict::{DenyReason, Grant, Verdict};

pub(super) use original::Original;

/// What `auth_request` cannot say by the status, and nginx's configuration reads.
const X_PORTCULLIS_STATUS: HeaderName = HeaderName::from_static("x-portcullis-status");
const X_PORTCULLIS_CHALLENGE: HeaderName = HeaderName::from_static("x-portcullis-challenge");
const X_PORTCULLIS_BODY: HeaderName = HeaderName::from_static("x-portcullis-body");
/// What Envoy takes out of the request that it forwards.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// Judges what is asked about, and answers.
pub(super) async fn answer(session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    let verdict = judge(session, exchange).await;
    exchange.judgment = exchange.began.elapsed();
    let style = exchange.snapshot.forward_auth.as_ref().map(|settings| settings.style);
    let denial = match &verdict {
        Ok(grant) => {
            let response = passed(grant, exchange, style)?;
            exchange.verdict = Some(verdict);
            exchange.status = response.status.as_u16();
            session.write_response_header(Box::new(response), true).await?;
            return Ok(ANSWERED);
        }
        Err(denial) => denial,
    };
    let mut answer = denied(session.req_header(), exchange, denial);
    exchange.verdict = Some(verdict);
    // What the client will hear is what is told of, not what the proxy makes it of.
    let status = answer.status.as_u16();
    if style == Some(Style::Nginx) {
        for_nginx(&mut answer);
    }
    send(session, exchange, answer, Words::Gateways).await?;
    exchange.status = status;
    Ok(ANSWERED)
}

/// One verdict for the request that is asked about.
async fn judge(session: &mut Session, exchange: &mut Exchange) -> Verdict {
    let snapshot = Arc::clone(&exchange.snapshot);
    let settings =
        snapshot.forward_auth.as_ref().filter(|settings| settings.allows(&exchange.arrival.peer.address));
    let settings = settings.ok_or_else(|| deny(DenyReason::AskerRefused))?;
    if let Err(reason) = hygiene::check(session, &snapshot.server.limits) {
        // The question itself may end elsewhere than it says.
        session.set_keepalive(None);
        return Err(deny(reason));
    }
    let request = session.req_header_mut();
    let original = Original::read(request, settings.style).map_err(deny)?;
    // Whose request it is: the proxy appends whom it heard from, and is believed in that.
    if !request.headers.contains_key(forward::X_FORWARDED_FOR) {
        const MISSING: DenyReason = DenyReason::RequestAmbiguous("the proxy does not say X-Forwarded-For");
        return Err(deny(MISSING));
    }
    let server = &snapshot.server;
    exchange.client =
        forward::client(&request.headers, exchange.arrival.peer.address, |address| server.trusts(address));
    let asked = &*exchange.asked.insert(Box::new(original));
    hygiene::method(&asked.method).map_err(deny)?;
    const HOST: DenyReason = DenyReason::RequestAmbiguous("the host is not valid");
    request.insert_header(header::HOST, asked.host.clone()).map_err(|_| deny(HOST))?;

    let headers = &request.headers;
    disguised(&snapshot.gate, headers).map_err(deny)?;
    let target = target(asked).map_err(|Ambiguity(what)| deny(DenyReason::RequestAmbiguous(what)))?;
    let request = gate::Request {
        method: &asked.method,
        target: &target,
        headers,
        websocket: is_websocket(request),
        client: exchange.client,
        // The proxy's own limit is what bounds it.
        body_length: None,
        client_certificate: false,
        in_body: None,
        forwarder: Forwarder::Peer,
    };
    let mut count = Count::new(&snapshot, exchange.client);
    let verdict = match count.anything().await {
        Ok(()) => count.judge(&request, Timestamp::now()).await,
        Err(reason) => Err(deny(reason)),
    };
    let standings = count.told();
    exchange.standings = standings;
    verdict
}

/// A WebSocket handshake, or what is left of one: proxies keep `Upgrade` to themselves, and of one over HTTP/2 there never
/// was a key. No page can keep its browser from sending the rest.
fn is_websocket(question: &RequestHeader) -> bool {
    let left = [header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION];
    left.iter().any(|name| question.headers.contains_key(name)) || hygiene::is_websocket(question)
}

/// The target, if it came in the one form that is judged: it will be forwarded as it came.
///
/// Whether the digits of an escape are capitals is the one liberty: no two readers differ by it.
fn target(asked: &Original) -> Result<Target<'_>, Ambiguity> {
    if asked.target.first() != Some(&b'/') {
        return Err(Ambiguity("the request target does not begin with a slash"));
    }
    let target = Target::read(&asked.target, Some(asked.host.as_bytes()), Ambiguous::Reject)?;
    let received = asked.target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if !received.eq_ignore_ascii_case(target.path.as_bytes()) {
        return Err(Ambiguity("the path has an escape for a plain character, or lacks one"));
    }
    Ok(target)
}

/// Fields that a service may take for one of ours, or for the token: the proxy overwrites ours in their own spelling only.
fn disguised(gate: &Gate, headers: &HeaderMap) -> Result<(), DenyReason> {
    const IDENTITY: DenyReason =
        DenyReason::RequestAmbiguous("a header field is an identity header in another spelling");
    const TOKEN: DenyReason =
        DenyReason::RequestAmbiguous("a header field is the token's in another spelling");
    if headers.keys().any(|name| gate.identity.is_mimicked_by(name)) {
        return Err(IDENTITY);
    }
    if headers.keys().any(|name| gate.places.iter().any(|place| place.is_mimicked_by(name))) {
        return Err(TOKEN);
    }
    Ok(())
}

/// 200 with what the service is to be told. `ext_authz` takes no other status for a pass.
fn passed(grant: &Grant, exchange: &Exchange, style: Option<Style>) -> Result<ResponseHeader> {
    let identity = &exchange.snapshot.gate.identity;
    let stamps = grant.credential.as_ref().map(|credential| &credential.stamps);
    let told = grant.told.as_ref().map(|told| &told.stamps);
    let mut response = ResponseHeader::build(StatusCode::OK, Some(8))?;
    for (name, value) in stamps.into_iter().chain(told).flat_map(|stamps| identity.headers(stamps)) {
        response.insert_header(name.clone(), value)?;
    }
    if style == Some(Style::Envoy) {
        // It overwrites what it is told, and would leave a client's own in the place of what it is not told.
        let names = identity.names().filter_map(|name| std::str::from_utf8(name).ok());
        let absent: Vec<&str> = names.filter(|name| !response.headers.contains_key(*name)).collect();
        if !absent.is_empty() {
            response.insert_header(TO_REMOVE, absent.join(","))?;
        }
    }
    response.insert_header(forward::X_REQUEST_ID, exchange.id.as_str())?;
    response.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    response.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("0"))?;
    Ok(response)
}

/// `auth_request` knows 401 and 403, makes 500 of all the rest, and drops the body: what is to be told stands in headers.
/// Where nobody reads those, a refusal still is one, and an outage an error.
fn for_nginx(answer: &mut Answer) {
    let status = HeaderValue::from(answer.status.as_u16());
    answer.headers.push((X_PORTCULLIS_STATUS, status));
    // One of several lines, an operator's own say, cannot stand in a header.
    if let Ok(body) = HeaderValue::from_bytes(answer.body.trim_ascii_end())
        && !body.is_empty()
    {
        answer.headers.push((X_PORTCULLIS_BODY, body));
    }
    answer.body.clear();
    answer.status = match answer.status.as_u16() {
        // A redirect is what a browser gets for a 401.
        300..=399 | 401 => StatusCode::UNAUTHORIZED,
        500..=599 => answer.status,
        _ => StatusCode::FORBIDDEN,
    };
    if answer.status != StatusCode::UNAUTHORIZED {
        // That of a 401 it passes on by itself, and one that is added as well would be there twice.
        for (name, _) in answer.headers.iter_mut().filter(|(name, _)| *name == header::WWW_AUTHENTICATE) {
            *name = X_PORTCULLIS_CHALLENGE;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn original(target: &str) -> Original {
        Original {
            method: Method::GET,
            target: target.as_bytes().into(),
            host: HeaderValue::from_static("api.example.com"),
        }
    }

    #[test]
    fn a_path_is_judged_only_as_it_will_be_forwarded() {
        for good in ["/", "/a?b=/../c", "/a%20b", "/%c3%a4", "/%C3%A4", "/A"] {
            assert!(target(&original(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "*",
            "?a",
            "http://api.example.com/a",
            "/%61dmin",
            "/a/%2e%2e/b",
            "/a/../b",
            "//a",
            "/a;b",
            "/a%2fb",
            "/a\\b",
            "/a#b",
            "/a?b#c",
            "/a b",
        ] {
            assert!(target(&original(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn nginx_is_told_of_a_refusal_by_the_statuses_that_it_knows() {
        for (status, said) in
            [(302, 401), (400, 403), (401, 401), (403, 403), (404, 403), (429, 403), (503, 503)]
        {
            let mut answer = Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: Vec::new(),
                body: "{}\n".into(),
            };
            for_nginx(&mut answer);
            assert_eq!(answer.status.as_u16(), said);
            assert!(answer.headers.contains(&(X_PORTCULLIS_STATUS, HeaderValue::from(status))));
            assert!(answer.headers.contains(&(X_PORTCULLIS_BODY, HeaderValue::from_static("{}"))));
        }
    }
}
