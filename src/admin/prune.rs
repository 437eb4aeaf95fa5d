//! `POST /v1/prune`: removes what has expired and can deny nothing any more.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json};

use super::control::{self, Action};
use super::guard::Caller;
use super::input::{Nothing, Strict};
use super::problem::Problem;
use super::{AdminState, Endpoint};
use crate::ledger::Pruned;
use crate::time::Timestamp;

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("post", "/v1/prune", post(prune))
}

async fn prune(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Strict(Nothing {}): Strict<Nothing>,
) -> Result<Json<Pruned>, Problem> {
    let task = tokio::spawn(async move {
        let now = Timestamp::now();
        let pruned = state.ledger().prune(now).await.map_err(|error| Problem::unavailable(&error));
        let action = Action { name: "prune", target: "ledger".to_owned(), detail: None };
        let outcome = pruned.as_ref().map_or_else(Problem::title, |_| "applied");
        control::record(&state, &caller, &action, outcome, None, now);
        pruned
    });
    Ok(Json(task.await.map_err(|error| Problem::unavailable(&error))??))
}
