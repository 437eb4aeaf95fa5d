//! `PUT /v1/users/{id}/status`: bans, deactivates, deletes, or lifts it again; for every token of that user, now.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::put;
use serde::Deserialize;

use super::control::{self, Action};
use super::guard::Caller;
use super::input::{self, AddressedUser, Strict};
use super::problem::Problem;
use super::{AdminState, Endpoint};
use crate::ledger::{Change, Status};
use crate::time::Timestamp;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    status: Status,
    reason: Option<String>,
    /// RFC 3339.
    until: Option<String>,
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("put", "/v1/users/{id}/status", put(user_status))
}

async fn user_status(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    AddressedUser(user): AddressedUser,
    Strict(body): Strict<Body>,
) -> Result<Response, Problem> {
    let reason = body.reason.as_deref().map(|reason| input::prose("reason", reason)).transpose()?;
    let until = body.until.as_deref().map(|until| end(until, body.status, Timestamp::now())).transpose()?;
    let word = word(body.status);
    let detail = [
        Some(word.to_owned()),
        reason.as_ref().map(|reason| format!("reason: {reason}")),
        until.map(|until| format!("until: {until}")),
    ];
    let detail = detail.into_iter().flatten().collect::<Vec<_>>().join("; ");
    let action = Action { name: "user.status", target: user.to_string(), detail: Some(detail) };
    let change = Change::Status { user, status: body.status, reason: reason.map(String::from), until };
    control::apply(state, caller, action, change).await
}

/// When a status ends by itself. Only a state that lasts can end.
fn end(until: &str, status: Status, now: Timestamp) -> Result<Timestamp, Problem> {
    if matches!(status, Status::Active | Status::SecurityAction) {
        return Err(Problem::field("until", format!("`{}` does not last: it cannot end.", word(status))));
    }
    let at = Timestamp::parse_rfc3339(until).ok_or_else(|| {
        Problem::field("until", "It is not an RFC 3339 instant such as 2026-12-31T23:59:59Z.")
    })?;
    if at <= now {
        return Err(Problem::field("until", "It is not in the future."));
    }
    Ok(at)
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Banned => "banned",
        Status::Deactivated => "deactivated",
        Status::Deleted => "deleted",
        Status::SecurityAction => "security_action",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_lies_in_the_future_of_a_state_that_lasts() {
        let now = Timestamp::from_seconds(1_700_000_000);
        assert!(end("2030-01-01T00:00:00Z", Status::Banned, now).is_ok());
        assert!(end("2020-01-01T00:00:00Z", Status::Banned, now).is_err());
        assert!(end("2030-01-01T00:00:00Z", Status::Active, now).is_err());
        assert!(end("tomorrow", Status::Deactivated, now).is_err());
    }
}
