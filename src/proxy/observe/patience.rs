//! A page that logs out is often left at once: what the service answers is heard all the same.
//!
//! On HTTP/1.1 Pingora is told not to look whether the client is still there. On HTTP/2 it always looks, and a stream that
//! is reset ends the exchange with the service, unless a cache waits for the answer. So a cache is made to wait, in
//! which nothing is ever looked up or kept: Pingora leaves it out again at the head of the answer, which by its default
//! may not be cached, and by then what had to be heard has been heard.

use std::sync::LazyLock;

use pingora::cache::{MemCache, NoCacheReason};
use pingora::proxy::Session;

use crate::proxy::exchange::Exchange;
use crate::proxy::hygiene;

/// Always empty.
static NOTHING: LazyLock<MemCache> = LazyLock::new(MemCache::new);

/// Called when a server is about to be asked: what an earlier attempt has left is taken back, lest it change the request.
pub(in crate::proxy) fn start_over(session: &mut Session, exchange: &Exchange) {
    if session.cache.enabled() {
        session.cache.disable(NoCacheReason::Custom("another attempt"));
    }
    if is_observed(session, exchange) {
        session.as_mut().set_abort_on_close(false);
    }
}

/// Called when the service has been sent the whole request. Earlier than that, a client that leaves takes it back.
pub(in crate::proxy) fn hear_out(session: &mut Session, exchange: &Exchange) {
    // After the head of an answer Pingora would ask the cache to keep the body.
    let unanswered = exchange.status == 0 && exchange.held.is_none();
    let is_http2 = session.req_header().version == http::Version::HTTP_2;
    if unanswered && is_http2 && !session.cache.enabled() && is_observed(session, exchange) {
        session.cache.enable(&*NOTHING, None, None, None, None);
    }
}

fn is_observed(session: &Session, exchange: &Exchange) -> bool {
    exchange.grant().is_some_and(|grant| !grant.route.settings.observers.is_empty())
        && !hygiene::is_websocket(session.req_header())
}
