//! `GET /readyz`: whether this gateway should get traffic, and how each store does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::Serialize;

use super::{AdminState, Endpoint};
use crate::ledger::{Health, Mode, StoreHealth};

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    mode: &'static str,
    redis: Store,
    database: Store,
}

#[derive(Serialize)]
struct Store {
    state: &'static str,
    latency_ms: Option<f64>,
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("get", "/readyz", get(readyz))
}

async fn readyz(State(state): State<Arc<AdminState>>) -> (StatusCode, Json<Readiness>) {
    let (status, readiness) = judge(state.handles.life.is_serving(), &state.ledger().health());
    (status, Json(readiness))
}

/// A gateway that can ask nobody is not ready, even where `on_outage` lets requests pass: another may do better.
fn judge(serving: bool, health: &Health) -> (StatusCode, Readiness) {
    let all_up = health.database.up && health.redis.as_ref().is_none_or(|redis| redis.up);
    let (code, status) = match (serving, &health.mode) {
        (false, _) | (true, Mode::Blind) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        (true, Mode::Coherent | Mode::Direct | Mode::Database) if all_up => (StatusCode::OK, "ready"),
        (true, Mode::Coherent | Mode::Direct | Mode::Database) => (StatusCode::OK, "degraded"),
    };
    let none = Store { state: "none", latency_ms: None };
    let redis = health.redis.as_ref().map_or(none, Store::of);
    (code, Readiness { status, mode: health.mode.word(), redis, database: Store::of(&health.database) })
}

impl Store {
    fn of(health: &StoreHealth) -> Self {
        // Of a store that is down the last latency says nothing about now.
        let latency = health.up.then(|| (health.latency.as_secs_f64() * 1e6).round() / 1e3);
        Self { state: if health.up { "up" } else { "down" }, latency_ms: latency }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(serving: bool, mode: Mode, redis: Option<bool>, database: bool) -> &'static str {
        let store = |up| StoreHealth { up, latency: Duration::from_micros(1500) };
        let health = Health { mode, redis: redis.map(store), database: store(database) };
        let (code, readiness) = judge(serving, &health);
        assert_eq!(code == StatusCode::OK, readiness.status != "not_ready");
        assert_eq!(readiness.database.latency_ms, database.then_some(1.5));
        readiness.status
    }

    #[test]
    fn readiness_follows_the_stores_and_the_life_of_the_process() {
        assert_eq!(status(true, Mode::Coherent, Some(true), true), "ready");
        assert_eq!(status(true, Mode::Direct, Some(true), true), "ready");
        assert_eq!(status(true, Mode::Database, None, true), "ready");
        assert_eq!(status(true, Mode::Database, Some(false), true), "degraded");
        assert_eq!(status(true, Mode::Direct, Some(true), false), "degraded");
        assert_eq!(status(true, Mode::Blind, Some(false), false), "not_ready");
        assert_eq!(status(false, Mode::Direct, Some(true), true), "not_ready");
    }
}
