//! What callers send, read strictly: a field that is not known or not possible is named, and nothing is done.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

use super::AdminState;
use super::problem::Problem;
use crate::claims::User;

/// Bytes of a body.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of a subject, a session or token id, a reason.
const MAX_TEXT: usize = 1024;

/// A JSON body of exactly this form; no body at all is `{}`.
pub(super) struct Strict<T>(pub T);

/// The body of calls that need none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl<T: DeserializeOwned> FromRequest<Arc<AdminState>> for Strict<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<AdminState>) -> Result<Self, Problem> {
        let media = request.headers().get(header::CONTENT_TYPE).cloned();
        let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is cut off or longer than 64 KiB.")
        })?;
        if body.is_empty() {
            return read(&Bytes::from_static(b"{}")).map(Self);
        }
        let media = media.as_ref().and_then(|media| media.to_str().ok()).unwrap_or_default();
        let essence = media.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "The body must be `Content-Type: application/json`.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        read(&body).map(Self)
    }
}

/// Twice: serde_json calls some wrong types a syntax error, and the caller should hear which of the two it is.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(|error| syntax(&error))?;
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, text) = (error.path().to_string(), error.inner().to_string());
        // "missing field `status`" is about no place in the body, but names the field itself.
        let quoted = text.split('`').nth(1).unwrap_or_default();
        let field = if path == "." || path == "?" { quoted } else { &path };
        Problem::field(field, text.clone())
    })
}

/// Where, not what: the body may hold a token, and this text may be logged by the caller.
fn syntax(error: &serde_json::Error) -> Problem {
    let place = format!("line {}, column {}", error.line(), error.column());
    Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {place}."))
}

/// `{id}` with `?realm=`.
pub(super) struct AddressedUser(pub User);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Realm {
    #[serde(default)]
    realm: String,
}

impl FromRequestParts<Arc<AdminState>> for AddressedUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AdminState>) -> Result<Self, Problem> {
        let subject = PathText::read(parts, "id").await?;
        let query = Query::<Realm>::try_from_uri(&parts.uri);
        let Query(Realm { realm }) = query.map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                format!("The query may hold `realm` only: {}.", error.body_text()),
            )
        })?;
        let known = (state.handles.realms)();
        let Some(realm) = known.iter().find(|known| ***known == *realm) else {
            let names: Vec<_> = known.iter().map(|known| format!("\"{known}\"")).collect();
            let detail = match names.is_empty() {
                true => "There are no `[[issuers]]`: no user's token is believed anyway.".to_owned(),
                false => format!("No issuer has this realm; there are: {}.", names.join(", ")),
            };
            return Err(Problem::field("realm", detail));
        };
        Ok(Self(User { realm: realm.clone(), subject }))
    }
}

/// `{sid}`.
pub(super) struct SessionId(pub Box<str>);

impl FromRequestParts<Arc<AdminState>> for SessionId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<AdminState>) -> Result<Self, Problem> {
        PathText::read(parts, "sid").await.map(Self)
    }
}

struct PathText;

impl PathText {
    /// The only parameter of the path, percent-decoded.
    async fn read(parts: &mut Parts, field: &str) -> Result<Box<str>, Problem> {
        let path = Path::<String>::from_request_parts(parts, &()).await;
        let Path(text) = path
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "The path is not percent-encoded UTF-8."))?;
        identifier(field, &text)
    }
}

/// As strict as the verifier is with the claims it will be compared with.
pub(super) fn identifier(field: &str, text: &str) -> Result<Box<str>, Problem> {
    if text.is_empty() {
        return Err(Problem::field(field, "It is empty."));
    }
    prose(field, text)
}

/// Free text of bounded length.
pub(super) fn prose(field: &str, text: &str) -> Result<Box<str>, Problem> {
    if text.len() > MAX_TEXT {
        return Err(Problem::field(field, format!("It is longer than {MAX_TEXT} bytes.")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::field(field, "It holds control characters."));
    }
    Ok(text.into())
}
