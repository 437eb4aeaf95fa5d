//! `GET /healthz`: 200 while the process lives. Whether it should get traffic is `/readyz`'s business.

use axum::Json;
use axum::routing::get;
use serde_json::{Value, json};

use super::Endpoint;

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/healthz", get(healthz))
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}
