//! `GET /v1/openapi.json`: the API described, by hand; a test holds it to the endpoints there are.

use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::Endpoint;

pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/v1/openapi.json", get(openapi))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
