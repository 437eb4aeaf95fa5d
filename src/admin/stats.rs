//! `GET /v1/stats`: how much the ledger holds.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;

use super::problem::Problem;
use super::{AdminState, Endpoint};
use crate::ledger::Stats;

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/v1/stats", get(stats))
}

async fn stats(State(state): State<Arc<AdminState>>) -> Result<Json<Stats>, Problem> {
    Ok(Json(state.ledger().stats().await.map_err(|error| Problem::unavailable(&error))?))
}
