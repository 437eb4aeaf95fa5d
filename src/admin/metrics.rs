//! `GET /metrics`: Prometheus text format 0.0.4.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};

use super::problem::Problem;
use super::{AdminState, Endpoint};

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/metrics", get(metrics))
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Result<Response, Problem> {
    let (encoder, mut text) = (TextEncoder::new(), Vec::with_capacity(32 * 1024));
    encoder.encode(&state.handles.registry.gather(), &mut text).map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The metrics could not be written.")
    })?;
    Ok(([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response())
}
