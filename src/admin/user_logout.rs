//! `POST /v1/users/{id}/logout`: every token issued up to now is void; new logins work.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;

use super::control::{self, Action};
use super::guard::Caller;
use super::input::{AddressedUser, Nothing, Strict};
use super::problem::Problem;
use super::{AdminState, Endpoint};
use crate::ledger::Change;

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("post", "/v1/users/{id}/logout", post(user_logout))
}

async fn user_logout(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    AddressedUser(user): AddressedUser,
    Strict(Nothing {}): Strict<Nothing>,
) -> Result<Response, Problem> {
    let action = Action { name: "user.logout", target: user.to_string(), detail: None };
    control::apply(state, caller, action, Change::Logout { user }).await
}
