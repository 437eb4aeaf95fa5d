//! A token in the body of a request: read within bounds of size and time, and left where it was for the service.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use pingora::ErrorType;
use pingora::proxy::Session;
use tokio::time::{Instant, timeout_at};

use super::arrival::Arrival;
use super::hop;
use crate::route::Refresh;
use crate::token::{self, Conflict};
use crate::verdict::DenyReason;
use crate::verify::json;

/// What a body is, by its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
}

/// Reads the body and returns the token in it. Pingora keeps what is read here and sends it on, byte for byte; that it
/// keeps no more than 64 KiB is why the bound cannot be higher.
pub(super) async fn token(
    session: &mut Session,
    arrival: &Arrival,
    refresh: &Refresh,
    patience: Duration,
) -> Result<Option<String>, DenyReason> {
    if !has_body(session) {
        return Ok(None);
    }
    let headers = &session.req_header().headers;
    // Before a byte is asked for: whoever waits for `100 Continue` need not send it.
    let kind = match kind(headers) {
        Err(reason) if is_announced(headers) => return Err(reason),
        kind => kind,
    };
    if super::hygiene::length(headers).is_some_and(|length| length > bound(refresh)) {
        return Err(DenyReason::BodyTooLarge);
    }
    let body = timeout_at(Instant::now() + patience, read(session, arrival, refresh.body_bytes))
        .await
        .map_err(|_| DenyReason::BodyTimeout)??;
    if body.is_empty() {
        return Ok(None);
    }
    let found = match kind? {
        Kind::Json => {
            let object = json::object(&body).ok_or(DenyReason::RequestAmbiguous(
                "the body is not one JSON object in which no member occurs twice",
            ))?;
            token::find_in_json(&refresh.bodies, &object)
        }
        Kind::Form => {
            let text = std::str::from_utf8(&body)
                .map_err(|_| DenyReason::RequestAmbiguous("the form is not UTF-8"))?;
            token::find_in_form(&refresh.bodies, text)
        }
    };
    found.map_err(|Conflict(what)| DenyReason::RequestAmbiguous(what))
}

/// Whether a request has a body, or may have one: in HTTP/2 the head need not say so (RFC 9113 section 8.1).
pub(super) fn has_body(session: &mut Session) -> bool {
    let header = session.req_header();
    is_announced(&header.headers)
        || header.version == http::Version::HTTP_2 && !session.as_mut().is_body_empty()
}

/// Whether the head says that there is a body (RFC 9112 section 6).
fn is_announced(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || super::hygiene::length(headers).is_some_and(|length| length > 0)
}

fn bound(refresh: &Refresh) -> u64 {
    u64::try_from(refresh.body_bytes).unwrap_or(u64::MAX)
}

async fn read(session: &mut Session, arrival: &Arrival, most: usize) -> Result<Vec<u8>, DenyReason> {
    const BROKEN: DenyReason = DenyReason::RequestAmbiguous("the body ends before its end, or is malformed");
    if session.req_header().headers.contains_key(header::EXPECT) {
        hop::ask_for_body(session).await.map_err(|_| BROKEN)?;
    }
    session.as_mut().enable_retry_buffering();
    let mut body = Vec::new();
    loop {
        match session.as_mut().read_request_body().await {
            Ok(None) => {
                arrival.body_moved(true);
                return Ok(body);
            }
            Ok(Some(part)) if body.len() + part.len() > most => return Err(DenyReason::BodyTooLarge),
            Ok(Some(part)) => {
                arrival.body_moved(false);
                body.extend_from_slice(&part);
            }
            Err(error) if *error.etype() == ErrorType::ReadTimedout => return Err(DenyReason::BodyTimeout),
            Err(_) => return Err(BROKEN),
        }
    }
}

/// What the service will take the body for. What we could not read as it does is refused: it might find another token.
fn kind(headers: &HeaderMap) -> Result<Kind, DenyReason> {
    const NOMINATED: DenyReason =
        DenyReason::RequestAmbiguous("Connection names a field that says what the body is");
    // The service would not hear of it, and take the body for something else.
    let options =
        headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|it| *it == b','));
    let is_kind =
        |it: &[u8]| it.eq_ignore_ascii_case(b"content-type") || it.eq_ignore_ascii_case(b"content-encoding");
    if options.map(<[u8]>::trim_ascii).any(is_kind) {
        return Err(NOMINATED);
    }
    // Compressed, it would have to be unpacked here as there.
    match only(headers, header::CONTENT_ENCODING)? {
        None => {}
        Some(coding) if coding.eq_ignore_ascii_case("identity") => {}
        Some(_) => return Err(DenyReason::BodyUnreadable),
    }
    let media_type = only(headers, header::CONTENT_TYPE)?.ok_or(DenyReason::BodyUnreadable)?;
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let charset = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let utf8 =
            ["utf-8", "utf8", "us-ascii"].iter().any(|it| value.trim_matches('"').eq_ignore_ascii_case(it));
        !name.trim().eq_ignore_ascii_case("charset") || utf8
    };
    if !parts.all(charset) {
        return Err(DenyReason::BodyUnreadable);
    }
    match essence.as_str() {
        "application/x-www-form-urlencoded" => Ok(Kind::Form),
        "application/json" => Ok(Kind::Json),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(Kind::Json),
        _ => Err(DenyReason::BodyUnreadable),
    }
}

/// The one value of a field, of which a second one might be the one that counts.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, DenyReason> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let twice = DenyReason::RequestAmbiguous("a field that says what the body is occurs twice");
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value.trim())),
        (_, Some(_)) => Err(twice),
        (Err(_), None) => Err(DenyReason::BodyUnreadable),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn kind_of(fields: &[(HeaderName, &'static str)]) -> Result<Kind, DenyReason> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        kind(&headers)
    }

    #[test]
    fn only_what_is_certainly_json_or_a_form_in_utf_8_is_read() {
        for json in ["application/json", "Application/JSON; charset=UTF-8", "application/vnd.api+json"] {
            assert_eq!(kind_of(&[(header::CONTENT_TYPE, json)]), Ok(Kind::Json), "{json}");
        }
        let form = "application/x-www-form-urlencoded;charset=utf-8";
        assert_eq!(kind_of(&[(header::CONTENT_TYPE, form)]), Ok(Kind::Form));
        for other in ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16", ""]
        {
            assert_eq!(kind_of(&[(header::CONTENT_TYPE, other)]), Err(DenyReason::BodyUnreadable), "{other}");
        }
        assert_eq!(kind_of(&[]), Err(DenyReason::BodyUnreadable));
        let json = (header::CONTENT_TYPE, "application/json");
        assert_eq!(kind_of(&[json.clone(), (header::CONTENT_ENCODING, "identity")]), Ok(Kind::Json));
        assert_eq!(
            kind_of(&[json.clone(), (header::CONTENT_ENCODING, "gzip")]),
            Err(DenyReason::BodyUnreadable)
        );
        assert!(matches!(kind_of(&[json.clone(), json]), Err(DenyReason::RequestAmbiguous(_))));
    }
}
