//! `POST /v1/sessions/{sid}/revoke`: one device.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;

use super::control::{self, Action};
use super::guard::Caller;
use super::input::{Nothing, SessionId, Strict};
use super::problem::Problem;
use super::{AdminState, Endpoint};
use crate::ledger::Change;

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("post", "/v1/sessions/{sid}/revoke", post(session_revoke))
}

async fn session_revoke(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    SessionId(session): SessionId,
    Strict(Nothing {}): Strict<Nothing>,
) -> Result<Response, Problem> {
    let action = Action { name: "session.revoke", target: session.to_string(), detail: None };
    control::apply(state, caller, action, Change::Session { session }).await
}
