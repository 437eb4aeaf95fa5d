//! What one exchange tries with its upstream: which server, what came of it, and whether another one may be asked.
//!
//! Nothing is done twice that a service could notice: a request is repeated where no connection was made, where HTTP/2
//! says that it was not looked at, or where its method is idempotent (RFC 9110 section 9.2.2) and its body still at hand.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use pingora::prelude::*;
use pingora::protocols::ALPN;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{ErrorSource, ErrorType, RetryType};

use super::exchange::Exchange;
use super::streams::Kind;
use super::tunnel;
use crate::upstream::settings::HashBy;
use crate::upstream::{self, Chosen, Upstream};
use crate::verdict::Grant;

/// Kept connections that a server had closed are no fault of anybody's; after so many, one exchange gives up.
const MOST_STALE: usize = 3;

/// The attempts of one exchange.
#[derive(Default)]
pub(super) struct Attempts {
    /// The server that is being asked.
    chosen: Option<Chosen>,
    /// Those that were asked in vain. Allocates only when something fails.
    tried: Vec<SocketAddr>,
    stale: usize,
    /// Whether the server that is being asked has begun to answer.
    answered: bool,
    /// Why there was no connection, for the log: nothing of the request stands in it.
    pub(super) refused: Option<String>,
}

/// Chooses a server and says how it is to be reached.
pub(super) fn choose(session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
    let Exchange { verdict, attempts, client, kind, talks, .. } = exchange;
    let grant = verdict.as_ref().and_then(|verdict| verdict.as_ref().ok());
    let grant = grant.ok_or_else(|| Error::explain(ErrorType::InternalError, "no grant"))?;
    let request = session.req_header();
    let key = |by: &HashBy| key(by, grant, &request.headers, *client);
    attempts.answered = false;
    let upstream = grant.route.upstream.as_ref();
    attempts.chosen = upstream.and_then(|upstream| upstream.choose(&attempts.tried, key));
    let Some(chosen) = &attempts.chosen else {
        attempts.refused.get_or_insert_with(|| "no server is well, or none has an address".to_owned());
        return Err(Error::explain(ErrorType::ConnectNoRoute, "no server can be asked").into_up());
    };
    let mut peer = chosen.peer();
    let patience = &grant.route.settings.timeouts;
    *talks = speaks_both_ways(request, *kind, upstream.is_some_and(|upstream| upstream.settings().http2));
    peer.options.write_timeout = Some(patience.write);
    // Pingora takes the time-out before there is an answer; gRPC has deadlines of its own.
    peer.options.read_timeout = if *kind == Kind::Plain { Some(patience.read) } else { patience.stream };
    if *kind == Kind::WebSocket {
        // Only HTTP/1.1 can be asked for a conversation.
        peer.options.alpn = ALPN::H1;
        tunnel::prepare(&mut peer);
        // The connection itself is watched by TCP.
        session.set_read_timeout(patience.stream);
    }
    exchange.upstream = Some(chosen.address());
    Ok(peer)
}

/// What spreads requests, as a number.
fn key(by: &HashBy, grant: &Grant, headers: &HeaderMap, client: IpAddr) -> u64 {
    let by_client = || match client {
        IpAddr::V4(address) => upstream::hash(&address.octets()),
        IpAddr::V6(address) => upstream::hash(&address.octets()),
    };
    let given = match by {
        HashBy::Ip => None,
        HashBy::Subject => grant.credential.as_ref().map(|credential| credential.claims.subject().as_bytes()),
        HashBy::Header(name) => headers.get(name).map(|value| value.as_bytes()),
    };
    given.map_or_else(by_client, upstream::hash)
}

/// Whether the body is one side of a conversation, which may pause and trickle. Events are asked for with a body like any
/// other; and gRPC speaks both ways over HTTP/2 alone, on either side: by its name alone any upload could take for ever.
fn speaks_both_ways(request: &RequestHeader, kind: Kind, service_speaks_http2: bool) -> bool {
    match kind {
        Kind::Plain | Kind::Events => false,
        Kind::WebSocket => true,
        Kind::Grpc => {
            request.version == http::Version::HTTP_2
                && service_speaks_http2
                && request.headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes()))
        }
    }
}

/// `application/grpc`, `application/grpc+proto`; not `application/grpc-web`.
fn is_grpc(kind: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let (start, rest) = kind.split_at(GRPC.len().min(kind.len()));
    start.eq_ignore_ascii_case(GRPC) && !rest.starts_with(b"-")
}

/// The head of an answer has come, be it an interim one.
pub(super) fn answered(exchange: &mut Exchange, status: u16) {
    let Some((upstream, attempts)) = parts(exchange) else { return };
    if let Some(chosen) = attempts.chosen.as_ref().filter(|_| !attempts.answered || status >= 200) {
        upstream.answered(chosen, status);
    }
    attempts.answered = true;
    attempts.refused = None;
}

/// No connection: nothing has been sent, so another server may be asked, whatever the method.
pub(super) fn not_connected(exchange: &mut Exchange, mut error: Box<Error>) -> Box<Error> {
    let Some((upstream, attempts)) = parts(exchange) else { return error };
    attempts.refused = Some(error.to_string());
    error.set_retry(match error.etype() {
        // Our own trouble, want of ports or descriptors say, is not the server's.
        ErrorType::InternalError | ErrorType::SocketError | ErrorType::BindError => false,
        // A kept HTTP/2 connection on which no further stream could be opened.
        ErrorType::H2Error => attempts.another_connection(),
        _ => {
            attempts.in_vain(upstream);
            attempts.another_server(upstream)
        }
    });
    if error.retry() {
        upstream.retried();
    }
    error
}

/// An exchange that had begun has failed.
pub(super) fn broken(
    session: &Session,
    exchange: &mut Exchange,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    let Some((upstream, attempts)) = parts(exchange) else { return error };
    let by_server = *error.esource() == ErrorSource::Upstream && !attempts.answered;
    // A kept connection that was closed before anything came back: the server may never have seen the request.
    let stale = reused && matches!(error.retry, RetryType::ReusedOnly);
    // GOAWAY and REFUSED_STREAM (RFC 9113 sections 6.8 and 8.7) promise that nothing was done.
    let unseen = *error.etype() == ErrorType::H2Error && matches!(error.retry, RetryType::Decided(true));
    if by_server && !stale && !unseen {
        attempts.in_vain(upstream);
    }
    let at_hand = !session.as_ref().retry_buffer_truncated() && session.response_written().is_none();
    let repeatable = session.req_header().method.is_idempotent();
    // A server that takes too long may still be at it.
    let gave_up = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    let retry = by_server
        && at_hand
        && match (stale, unseen) {
            (_, true) => attempts.another_connection(),
            (true, _) => repeatable && attempts.another_connection(),
            _ => repeatable && !gave_up && attempts.another_server(upstream),
        };
    error.set_retry(retry);
    if retry {
        upstream.retried();
    }
    error
}

impl Attempts {
    /// The server that is being asked has failed.
    fn in_vain(&mut self, upstream: &Upstream) {
        if let Some(chosen) = self.chosen.take() {
            upstream.failed(&chosen);
            self.tried.push(chosen.address());
        }
    }

    fn another_server(&self, upstream: &Upstream) -> bool {
        self.tried.len() <= upstream.settings().retries && upstream.has_other(&self.tried)
    }

    fn another_connection(&mut self) -> bool {
        self.stale += 1;
        self.stale <= MOST_STALE
    }
}

fn parts(exchange: &mut Exchange) -> Option<(&Upstream, &mut Attempts)> {
    let Exchange { verdict, attempts, .. } = exchange;
    let grant = verdict.as_ref().and_then(|verdict| verdict.as_ref().ok())?;
    Some((grant.route.upstream.as_deref()?, attempts))
}
