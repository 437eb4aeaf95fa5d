//! The client's own connection: what is said of it, in what order, and how it ends.

use std::time::Duration;

use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

/// How long more of a body is waited for whose answer has been given in full.
const AFTERWORD: Duration = Duration::from_secs(1);

/// How long what a client goes on sending is read, when its connection is about to be closed.
const LINGER: Duration = Duration::from_secs(3);

/// Sets how this client is spoken to. Pingora keeps it for the requests that follow on the connection.
pub(super) fn begin(session: &mut Session) {
    let request = session.req_header();
    // RFC 9110 section 15.2: a client of HTTP/1.0 knows no interim answers.
    let old = request.version < http::Version::HTTP_11;
    // RFC 9112 section 9.3.2. What follows an upgrade is not another request.
    let pipelines = !request.headers.contains_key(header::UPGRADE);
    session.set_ignore_info_resp(old);
    session.set_pipelining_enabled(pipelines);
}

/// The head of an answer, interim ones included.
pub(super) fn head(session: &mut Session, response: &mut ResponseHeader) {
    let interim = response.status.is_informational();
    // Of an answer that precedes the end of the request Pingora makes the last one, and of an interim one too: who asked
    // whether to go on would lose the connection for it.
    session.as_mut().set_close_on_response_before_downstream_finish(!interim);
    if interim {
        return;
    }
    hop_by_hop(response);
    // RFC 9110 section 2.5: a version is the connection's. A client that took a service's 1.0 for ours would look for no chunks.
    response.set_version(http::Version::HTTP_11);
    let bodiless = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || session.req_header().method == Method::HEAD
        || response.headers.get(header::CONTENT_LENGTH).is_some_and(|it| it == "0");
    if bodiless {
        said(session);
    }
}

/// Asks a client for its body that waits to be asked (RFC 9110 section 10.1.1), in the service's place.
pub(super) async fn ask_for_body(session: &mut Session) -> Result<()> {
    let session = session.as_mut();
    session.set_close_on_response_before_downstream_finish(false);
    let asked = session.write_continue_response().await;
    session.set_close_on_response_before_downstream_finish(true);
    asked
}

/// What the service says of its connection to us (RFC 9110 section 7.6.1): many send `Keep-Alive`, by which some clients
/// would time theirs. `Connection` itself is set by Pingora, and for framing it has been taken account of.
fn hop_by_hop(response: &mut ResponseHeader) {
    // Nearly every answer has at most `Connection: keep-alive`: one look at all fields finds nothing to take out.
    let mut unwanted: Vec<HeaderName> = Vec::new();
    for (name, value) in &response.headers {
        if *name == header::CONNECTION {
            let nominated = value.to_str().unwrap_or_default().split(',').map(str::trim);
            unwanted.extend(nominated.filter(|it| !is_ordinary(it)).filter_map(|it| it.parse().ok()));
        } else if matches!(name.as_str(), "keep-alive" | "proxy-connection") {
            unwanted.push(name.clone());
        }
    }
    for name in &unwanted {
        response.remove_header(name);
    }
}

/// Options of `Connection`, and fields that frame the answer, which nobody can nominate away.
fn is_ordinary(option: &str) -> bool {
    let ordinary = ["keep-alive", "close", "content-length", "transfer-encoding"];
    ordinary.iter().any(|it| it.eq_ignore_ascii_case(option))
}

/// The answer has been said in full. Where the request has not, the client may be waiting to be asked for the rest, and
/// nobody will: Pingora would wait as long as for any body.
pub(super) fn said(session: &mut Session) {
    if !session.as_mut().is_body_done() && !session.was_upgraded() {
        session.set_read_timeout(Some(AFTERWORD));
    }
}

/// Called when all is done. A connection that is closed over bytes nobody has read is reset, and the answer may be lost
/// with it (RFC 9112 section 9.6): where the client may still be sending, what it sends is read for a while.
pub(super) async fn farewell(session: &mut Session) {
    let Some(http1) = session.as_http1() else { return };
    let answered = http1.response_written().is_some_and(|head| !head.status.is_informational());
    let stays = http1.will_keepalive();
    if answered && !stays && !session.was_upgraded() && !session.as_mut().is_body_done() {
        let session = session.as_mut();
        session.shutdown().await;
        session.set_read_timeout(Some(AFTERWORD));
        session.set_total_drain_timeout(Some(LINGER));
        // To the end, to its patience's end, or to nonsense: it is all the same now.
        let _ = session.drain_request_body().await;
    }
}
