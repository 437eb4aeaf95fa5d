//! An answer that is held back until what it opens is stored.
//!
//! Pingora's filter for bodies cannot wait for anything. So the head is passed on as an interim one, which Pingora is
//! told to leave out; the body is collected; and when the service has said everything, and it is stored, both are
//! written by ourselves, as they came.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::tokens::{Encoding, Opened};
use super::{Revocation, Scene};
use crate::ledger::Change;
use crate::proxy::exchange::Exchange;
use crate::report::{Action, Outcome};
use crate::route::Track;

/// The answer so far.
pub(in crate::proxy) struct Held {
    head: ResponseHeader,
    body: BytesMut,
    encoding: Encoding,
    track: Track,
}

impl Held {
    /// Whether an answer is to be held: `Ok(None)` for one that has no body, the error for one that cannot be read.
    pub fn of(
        head: &ResponseHeader,
        request: &RequestHeader,
        track: &Track,
    ) -> Result<Option<Self>, Outcome> {
        let status = head.status;
        if request.method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(None);
        }
        let encoding = Encoding::of(&head.headers).ok_or(Outcome::Unreadable)?;
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > track.max_bytes) {
            return Err(Outcome::TooLong);
        }
        let mut head = head.clone();
        // As Pingora does with what it passes on: whatever the service spoke, the client is answered in its own way.
        head.set_version(Version::HTTP_11);
        Ok(Some(Self { head, body: BytesMut::new(), encoding, track: track.clone() }))
    }
}

/// Makes the head one that is not sent.
pub(super) fn mask(session: &mut Session, head: &mut ResponseHeader) -> Result<()> {
    session.as_mut().set_ignore_info_resp(true);
    *head = ResponseHeader::build(StatusCode::EARLY_HINTS, Some(0))?;
    Ok(())
}

/// Takes a part of the body. One that becomes too long to be read is let go, head first.
pub(in crate::proxy) fn collect(
    session: &mut Session,
    part: &mut Option<Bytes>,
    exchange: &mut Exchange,
) -> Result<()> {
    let (Some(held), Some(bytes)) = (&mut exchange.held, part.take()) else { return Ok(()) };
    held.body.extend_from_slice(&bytes);
    if held.body.len() <= held.track.max_bytes {
        return Ok(());
    }
    let Some(held) = exchange.held.take() else { return Ok(()) };
    let Held { mut head, body, .. } = *held;
    if session.req_header().version == Version::HTTP_11 && !has_frame(&head) {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    exchange.status = head.status.as_u16();
    tell(session, exchange, Outcome::TooLong);
    // There is no waiting here, and next to never a reason to: nothing else has been written since the request was read.
    let written =
        tokio::task::unconstrained(session.write_response_header(Box::new(head), false)).now_or_never();
    match written {
        Some(written) => written?,
        None => {
            return Error::e_explain(ErrorType::WriteError, "the client does not read")
                .map_err(|it: Box<Error>| it.into_down());
        }
    }
    *part = Some(body.freeze());
    Ok(())
}

/// Stores what the answer opens, and then lets the client have it. `false` where it could not be stored, and nothing was
/// written.
pub(in crate::proxy) async fn deliver(
    session: &mut Session,
    exchange: &mut Exchange,
    held: Held,
) -> Result<bool> {
    let Held { mut head, body, encoding, track } = held;
    let body = body.freeze();
    let opened = Opened::read(&body, encoding, &track, &exchange.snapshot.gate.verifiers).await;
    match opened {
        Err(outcome) => {
            tell(session, exchange, outcome);
            if outcome == Outcome::Failed {
                return Ok(false);
            }
        }
        Ok(Opened { user, tokens }) => {
            let Some(grant) = exchange.grant() else { return Ok(false) };
            let scene = Scene::of(session, exchange, grant.route.clone(), Action::Track);
            let target = user.to_string();
            let change = Change::Track { user, tokens };
            if scene.apply(Revocation { change, done: "session.track", target }).await.is_err() {
                return Ok(false);
            }
        }
    }
    exchange.status = head.status.as_u16();
    if !has_frame(&head) {
        // The client may know no chunks, or the service none; and by now the length is known.
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    let empty = body.is_empty();
    session.write_response_header(Box::new(head), empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(true)
}

/// Whether a head says where its body ends. That of HTTP/2 need not, and what closes the connection behind it does not.
fn has_frame(head: &ResponseHeader) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| head.headers.contains_key(name))
}

fn tell(session: &Session, exchange: &Exchange, outcome: Outcome) {
    if let Some(grant) = exchange.grant() {
        Scene::of(session, exchange, grant.route.clone(), Action::Track).tell(outcome);
    }
}
