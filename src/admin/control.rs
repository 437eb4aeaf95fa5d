//! How a control action is done: to its end once begun, and with an audit line whatever came of it.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::AdminState;
use super::guard::Caller;
use super::problem::Problem;
use crate::ledger::change::RedisState;
use crate::ledger::{Applied, Change};
use crate::report::AuditLine;
use crate::time::Timestamp;

/// An action with the words its audit line needs.
pub(super) struct Action {
    pub name: &'static str,
    pub target: String,
    pub detail: Option<String>,
}

/// What a change answers.
#[derive(Serialize)]
struct Done {
    version: i64,
    redis: RedisState,
}

/// Makes a change. 200, or 202 while Redis has yet to hear of it.
pub(super) async fn apply(
    state: Arc<AdminState>,
    caller: Caller,
    action: Action,
    change: Change,
) -> Result<Response, Problem> {
    // On a task of its own: a caller who hangs up must not leave a change without its audit line.
    let task = tokio::spawn(async move {
        let now = Timestamp::now();
        let applied = state.ledger().apply(&change, now).await.map_err(Problem::from);
        let (outcome, version) = match &applied {
            Ok(Applied { redis: RedisState::Pending, version }) => ("pending", Some(*version)),
            Ok(applied) => ("applied", Some(applied.version)),
            Err(problem) => (problem.title(), None),
        };
        record(&state, &caller, &action, outcome, version, now);
        applied
    });
    let applied = task.await.map_err(|error| Problem::unavailable(&error))??;
    let status = match applied.redis {
        RedisState::Pending => StatusCode::ACCEPTED,
        RedisState::Applied | RedisState::None => StatusCode::OK,
    };
    Ok((status, Json(Done { version: applied.version, redis: applied.redis })).into_response())
}

/// Writes the audit line of an action.
pub(super) fn record(
    state: &AdminState,
    caller: &Caller,
    action: &Action,
    outcome: &str,
    version: Option<i64>,
    at: Timestamp,
) {
    state.handles.audit.record(&AuditLine {
        at,
        actor: "admin",
        action: action.name,
        target: &action.target,
        outcome,
        detail: action.detail.as_deref(),
        version,
        request_id: &caller.request_id,
        remote: caller.remote,
    });
}
