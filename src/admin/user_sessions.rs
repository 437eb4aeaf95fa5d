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
use crate::ledger::sessions::StoredSession;
use crate::token::{Fingerprint, Token};

#[derive(Serialize)]
struct Answer {
    sessions: Vec<Session>,
}

/// Times are RFC 3339; `token` is the fingerprint that access lines show.
#[derive(Serialize)]
pub(super) struct Session {
    sid: Option<Box<str>>,
    jti: Option<Box<str>>,
    issued_at: Option<String>,
    expires_at: Option<String>,
    token: String,
}

impl From<SeenSession> for Session {
    fn from(seen: SeenSession) -> Self {
        Self {
            sid: seen.session,
            jti: seen.token_id,
            issued_at: seen.issued_at.map(|at| at.to_string()),
            expires_at: seen.expires_at.map(|at| at.to_string()),
            token: seen.fingerprint.to_string(),
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
    Ok(Json(Answer { sessions: of(&state, &user).await? }))
}

/// Those seen here first; what a table tells of the same token is no second one.
pub(super) async fn of(state: &AdminState, user: &User) -> Result<Vec<Session>, Problem> {
    let mut sessions: Vec<_> = (state.handles.sessions)(user).into_iter().map(Session::from).collect();
    let stored = state.ledger().sessions(user).await.map_err(|error| Problem::unavailable(&error))?;
    for StoredSession { compact, expires_at } in stored {
        let token = Token::new(&compact);
        let fingerprint = Fingerprint::of(&token).to_string();
        if sessions.iter().any(|seen| seen.token == fingerprint) {
            continue;
        }
        let names = (state.handles.read_token)(&token);
        let names = names.as_ref();
        sessions.push(Session {
            sid: names.and_then(|names| names.session.clone()),
            jti: names.and_then(|names| names.token_id.clone()),
            issued_at: names.and_then(|names| names.issued_at).map(|at| at.to_string()),
            expires_at: expires_at.map(|at| at.to_string()),
            token: fingerprint,
        });
    }
    Ok(sessions)
}
