//! `GET /v1/users/{id}`: status, cut-off, sessions, and what is open on this gateway.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;

use super::input::AddressedUser;
use super::problem::Problem;
use super::user_sessions::{self, Session};
use super::{AdminState, Endpoint};
use crate::ledger::UserRecord;
use crate::proxy::LiveStream;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    record: UserRecord,
    sessions: Vec<Session>,
    streams: Vec<Stream>,
}

/// `since` is RFC 3339; `token` is the fingerprint that access lines show.
#[derive(Serialize)]
struct Stream {
    kind: &'static str,
    since: String,
    sid: Option<Box<str>>,
    token: String,
}

impl From<LiveStream> for Stream {
    fn from(live: LiveStream) -> Self {
        let LiveStream { kind, since, session, fingerprint } = live;
        Self { kind, since: since.to_string(), sid: session, token: fingerprint.to_string() }
    }
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/v1/users/{id}", get(user))
}

async fn user(
    State(state): State<Arc<AdminState>>,
    AddressedUser(user): AddressedUser,
) -> Result<Json<Answer>, Problem> {
    let record = state.ledger().user(&user).await.map_err(|error| Problem::unavailable(&error))?;
    let streams = (state.handles.streams)(&user).into_iter().map(Stream::from).collect();
    let sessions = user_sessions::of(&state, user).await?;
    Ok(Json(Answer { record, sessions, streams }))
}
