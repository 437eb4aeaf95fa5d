//! Pingora's phases, in the order in which they happen.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderMap};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{ErrorSource, ErrorType};

use super::arrival::Arrival;
use super::dress::{self, Words};
use super::exchange::CLIENT_WENT_AWAY;
use super::exchange::{Exchange, RequestId};
use super::judge::judge;
use super::observe::UNRECORDED;
use super::streams::Kind;
use super::{Proxy, asked, attempts, forward, hop, hygiene, limits, observe, replies};
use crate::answer::{self, Answer, Asked};
use crate::verdict::{Denial, DenyReason};

/// What `request_filter` returns: Pingora's `true` means that an answer was given.
pub(super) const ANSWERED: bool = true;
const GO_ON: bool = false;

/// A refused body this long is read to its end, so that the connection can be used again; a longer one costs it.
const DRAIN_BYTES: u64 = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

#[async_trait]
impl ProxyHttp for Proxy {
    /// Boxed: Pingora moves it from hand to hand, and each of them keeps room for it.
    type CTX = Box<Exchange>;

    fn new_ctx(&self) -> Self::CTX {
        let arrival = Arrival::at_hand();
        arrival.head_was_read();
        Box::new(Exchange::new(self.snapshot.load_full(), arrival))
    }

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {
        // None: what is not there costs nothing and has no bugs. Pingora's default is a compression module, switched off.
    }

    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<()> {
        if self.closing.load(Ordering::Relaxed) {
            // Pingora looks when it begins to wait for a request; this one may have been waited for since before.
            session.set_keepalive(None);
        }
        let limits = &exchange.snapshot.server.limits;
        session.set_read_timeout(Some(limits.idle_timeout));
        session.set_write_timeout(Some(limits.idle_timeout));
        if session.as_mut().is_body_empty() {
            // Nothing more is waited for, however long it takes to find a server.
            exchange.arrival.body_moved(true);
        }
        hop::begin(session);
        let server = &exchange.snapshot.server;
        let peer = exchange.arrival.peer.address;
        exchange.trusted = server.trusts(&peer);
        if exchange.trusted {
            let headers = &session.req_header().headers;
            exchange.client = forward::client(headers, peer, |address| server.trusts(address));
            if let Some(id) = headers.get(forward::X_REQUEST_ID).and_then(RequestId::given) {
                exchange.id = id;
            }
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<bool> {
        if exchange.arrival.scheme.asks() {
            return asked::answer(session, exchange).await;
        }
        let verdict = judge(session, exchange).await;
        exchange.judgment = exchange.began.elapsed();
        let header = session.req_header();
        let (answer, words) = match &verdict {
            Ok(grant) => (replies::own(header, grant, exchange), Words::Operators),
            Err(denial) => (Some(denied(header, exchange, denial)), Words::Gateways),
        };
        // Who frames one request in two ways is not asked for another; nor is there one behind a body that was given up.
        let broken = matches!(
            &verdict,
            Err(Denial { reason: DenyReason::RequestAmbiguous(_) | DenyReason::BodyTimeout, .. })
        );
        exchange.verdict = Some(verdict);
        let Some(answer) = answer else { return Ok(GO_ON) };
        if broken || exchange.arrival.scheme.is_outdated() {
            session.set_keepalive(None);
        }
        send(session, exchange, answer, words).await?;
        Ok(ANSWERED)
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let peer = attempts::choose(session, exchange)?;
        observe::start_over(session, exchange);
        // Between the verdict and here lies nothing that takes time.
        exchange.forwarded.get_or_insert(exchange.began + exchange.judgment);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        exchange: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        attempts::not_connected(exchange, error)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        attempts::broken(session, exchange, error, reused)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        if session.as_mut().is_body_empty() {
            // On the way to a service that speaks HTTP/2 Pingora has no body filtered that is not there.
            observe::hear_out(session, exchange);
        }
        if exchange.talks {
            exchange.arrival.body_moved(true);
        }
        if request.version == http::Version::HTTP_2 && request.headers.contains_key(header::EXPECT) {
            // Interim answers do not come back from there.
            request.remove_header(&header::EXPECT);
            hop::ask_for_body(session).await?;
        }
        // Of a body that is sent once more every byte comes by again.
        exchange.body_bytes = 0;
        forward::prepare(request, session.req_header(), exchange)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        exchange.arrival.body_moved(end);
        let length = body.as_ref().map_or(0, Bytes::len);
        exchange.body_bytes = exchange.body_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        // What follows an upgrade is a conversation, not a body.
        let most = exchange.route().map_or(u64::MAX, |route| route.settings.handling.body_bytes);
        if exchange.body_bytes > most && !session.was_upgraded() {
            return Error::e_explain(
                ErrorType::HTTPStatus(413),
                "the request body is longer than is allowed",
            );
        }
        if end {
            observe::hear_out(session, exchange);
            // A frame of HTTP/2 that is empty and the last: Pingora would write it as a chunk, and one without bytes is the end
            // of a body; then it writes the end. What is left over would stand before the next request on this connection.
            if body.as_ref().is_some_and(Bytes::is_empty) {
                *body = None;
            }
        } else if limits::is_slow(exchange) {
            return Error::e_explain(ErrorType::HTTPStatus(408), "the request body comes too slowly");
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        // What follows a switch nobody asked for has no frame, and nobody judged it.
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS
            && !hygiene::is_websocket(session.req_header())
        {
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "101 without an upgrade");
            return Err(error.into_up());
        }
        if let Err(what) = hygiene::check_answer(response) {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, what).into_up());
        }
        if session.req_header().version < http::Version::HTTP_11
            && response.headers.contains_key(header::TRANSFER_ENCODING)
        {
            // RFC 9112 section 6.1: a client of HTTP/1.0 knows no chunks. The end of the connection ends the body.
            response.remove_header(&header::TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        hop::head(session, response);
        let status = response.status;
        if status == http::StatusCode::SWITCHING_PROTOCOLS {
            exchange.arrival.switched();
        }
        if let Some(watch) = &exchange.watch
            && response.headers.get(header::CONTENT_TYPE).is_some_and(|it| Kind::is_events(it.as_bytes()))
        {
            watch.visit().is_of_events();
        }
        attempts::answered(exchange, status.as_u16());
        exchange
            .arrival
            .body_moved(!status.is_informational() || status == http::StatusCode::SWITCHING_PROTOCOLS);
        // An interim answer says nothing of how the request will end.
        if !status.is_informational() {
            limits::tell(response, exchange)?;
            dress::service(response, session.req_header(), exchange)?;
            observe::answered(session, response, exchange).await?;
        }
        // Of an answer that is held back the client has not heard yet.
        exchange.status = if exchange.held.is_some() { 0 } else { status.as_u16() };
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if end {
            hop::said(session);
        }
        let length = body.as_ref().map_or(0, Bytes::len);
        exchange.answer_bytes =
            exchange.answer_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if exchange.held.is_some() {
            observe::collect(session, body, exchange)?;
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut HeaderMap,
        exchange: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        // Trailers may be left out (RFC 9110 section 6.5.1); before a head that is held back they cannot be written.
        Ok(exchange.held.is_some().then(Bytes::new))
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Self::CTX,
    ) -> FailToProxy {
        let reason = failure(error);
        let grant = exchange.grant();
        let route = grant.map(|grant| &*grant.route.settings.name).unwrap_or_default().to_owned();
        let id = exchange.id;
        if *error.esource() == ErrorSource::Upstream {
            let cause = exchange.attempts.refused.as_deref();
            tracing::warn!(route, request_id = id.as_str(), error = %error.etype().as_str(), cause, upstream = exchange.upstream.map(tracing::field::display), "Upstream failed");
        }
        if reason == Some(DenyReason::BodyTimeout) {
            exchange.snapshot.report.slow_body();
        }
        if reason.is_none() && exchange.status == 0 {
            // Nobody is there to be told. The log and the metrics call it what nginx calls it.
            exchange.status = CLIENT_WENT_AWAY;
        }
        // An interim answer is none.
        let silent = session.response_written().is_none_or(|head| head.status.is_informational());
        if let Some(reason) = reason
            && silent
            && !session.was_upgraded()
        {
            session.set_keepalive(None);
            let denial = Denial { route: exchange.route().cloned(), credential: None, reason };
            let answer = denied(session.req_header(), exchange, &denial);
            // The client may be gone: then nobody is left to be told.
            let _ = send(session, exchange, answer, Words::Gateways).await;
        }
        FailToProxy { error_code: exchange.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Self::CTX) {
        // The service has said everything, and the client has heard nothing of it.
        if let Some(held) = exchange.held.take()
            && error.is_none()
            && matches!(observe::deliver(session, exchange, *held).await, Ok(false))
        {
            let answer = answer::problem(&DenyReason::Unrecorded, exchange.id.as_str());
            let _ = send(session, exchange, answer, Words::Gateways).await;
        }
        exchange.finish(session);
        hop::farewell(session).await;
    }

    /// Pingora's own line holds the query, which may hold a token. Ours says the same with less.
    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }

    fn request_summary(&self, _: &Session, exchange: &Self::CTX) -> String {
        format!("request {}", exchange.id.as_str())
    }
}

/// What the client is told of a failure; `None` when there is nobody to tell.
fn failure(error: &Error) -> Option<DenyReason> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, TLSHandshakeTimedout,
        WriteError, WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(413)) => Some(DenyReason::BodyTooLarge),
        (_, HTTPStatus(408)) | (ErrorSource::Downstream, ReadTimedout) => Some(DenyReason::BodyTimeout),
        (_, other) if *other == UNRECORDED => Some(DenyReason::Unrecorded),
        (ErrorSource::Downstream, ReadError | WriteError | ConnectionClosed | WriteTimedout) => None,
        (ErrorSource::Downstream, _) => Some(DenyReason::RequestAmbiguous("the request is malformed")),
        (_, ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout) => {
            Some(DenyReason::UpstreamTimeout)
        }
        _ => Some(DenyReason::UpstreamUnavailable),
    }
}

/// How a denial is told to whoever sent this request, or to whom the proxy that asks will pass it on.
pub(super) fn denied(header: &RequestHeader, exchange: &Exchange, denial: &Denial) -> Answer {
    let asked = Asked {
        method: exchange.asked.as_ref().map_or(&header.method, |asked| &asked.method),
        headers: &header.headers,
        target: &dress::without_tokens(header, exchange),
        request_id: exchange.id.as_str(),
    };
    answer::denial(denial, &asked)
}

/// Writes a whole answer, and keeps the connection where what is left of the request can be read without harm.
pub(super) async fn send(
    session: &mut Session,
    exchange: &mut Exchange,
    answer: Answer,
    words: Words,
) -> Result<()> {
    let request = session.req_header();
    let is_head = request.method == http::Method::HEAD;
    let framed = !request.headers.contains_key(header::TRANSFER_ENCODING)
        && !request.headers.contains_key(header::EXPECT);
    if framed && hygiene::length(&request.headers).unwrap_or(0) <= DRAIN_BYTES {
        session.as_mut().set_close_on_response_before_downstream_finish(false);
        session.as_mut().set_total_drain_timeout(Some(DRAIN_TIME));
    }
    let mut response = ResponseHeader::build(answer.status, Some(answer.headers.len() + 1))?;
    for (name, value) in answer.headers {
        response.append_header(name, value)?;
    }
    dress::own(&mut response, session.req_header(), exchange, words)?;
    // RFC 9110 section 8.6: of what is not there, and of what stands elsewhere, nothing is said.
    if !matches!(answer.status, http::StatusCode::NO_CONTENT | http::StatusCode::NOT_MODIFIED) {
        response.insert_header(header::CONTENT_LENGTH, answer.body.len())?;
    }
    limits::tell(&mut response, exchange)?;
    exchange.status = answer.status.as_u16();
    let body = (!is_head && !answer.body.is_empty()).then_some(answer.body);
    session.write_response_header(Box::new(response), body.is_none()).await?;
    if body.is_some() {
        session.write_response_body(body, true).await?;
    }
    Ok(())
}
