//! `GET /v1/users/{id}`: status, cut-off, and sessions.

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

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    record: UserRecord,
    sessions: Vec<Session>,
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/v1/users/{id}", get(user))
}

async fn user(
    State(state): State<Arc<AdminState>>,
    AddressedUser(user): AddressedUser,
) -> Result<Json<Answer>, Problem> {
    let record = state.ledger().user(&user).await.map_err(|error| Problem::unavailable(&error))?;
    let sessions = user_sessions::of(&state, user).await?;
    Ok(Json(Answer { record, sessions }))
}
