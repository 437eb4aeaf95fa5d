//! `GET /v1/users/{id}/sessions`: the sessions of a user that this gateway remembers, and those in the services' own table.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;

use super::input::AddressedUser;
use super::problem::Problem;
use super::{AdminState, Endpoint, SeenSession};
use crate::claims::User;

#[derive(Serialize)]
struct Answer {
    sessions: Vec<Session>,
}

/// Times are RFC 3339; `token` is the fingerprint that access lines show, `revoked` why it would be refused.
#[derive(Serialize)]
pub(super) struct Session {
    sid: Option<Box<str>>,
    jti: Option<Box<str>>,
    issued_at: Option<String>,
    expires_at: Option<String>,
    token: String,
    revoked: Option<Box<str>>,
}

impl From<SeenSession> for Session {
    fn from(seen: SeenSession) -> Self {
        Self {
            sid: seen.session,
            jti: seen.token_id,
            issued_at: seen.issued_at.map(|at| at.to_string()),
            expires_at: seen.expires_at.map(|at| at.to_string()),
            token: seen.fingerprint.to_string(),
            revoked: seen.revoked,
        }
    }
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/v1/users/{id}/sessions", get(user_sessions))
}

async fn user_sessions(
    State(state): State<Arc<AdminState>>,
    AddressedUser(user): AddressedUser,
) -> Result<Json<Answer>, Problem> {
    Ok(Json(Answer { sessions: of(&state, user).await? }))
}

pub(super) async fn of(state: &AdminState, user: User) -> Result<Vec<Session>, Problem> {
    let sessions = (state.handles.sessions)(user).await.map_err(|error| Problem::unavailable(&error))?;
    Ok(sessions.into_iter().map(Session::from).collect())
}
