//! `POST /v1/tokens/revoke`: one token, given whole or by its id.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;

use super::control::{self, Action};
use super::guard::Caller;
use super::input::{self, Strict};
use super::problem::Problem;
use super::{AdminState, Endpoint};
use crate::claims::User;
use crate::ledger::Change;
use crate::ledger::change::TokenFacts;
use crate::time::Timestamp;
use crate::token::{Fingerprint, Token};

/// The last second of the year 9999: later instants cannot be written in RFC 3339.
const LAST_SECOND: i64 = 253_402_300_799;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    token: Option<String>,
    jti: Option<String>,
    /// `NumericDate`: seconds (RFC 7519 section 2).
    exp: Option<i64>,
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint::new("post", "/v1/tokens/revoke", post(token_revoke))
}

async fn token_revoke(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Strict(body): Strict<Body>,
) -> Result<Response, Problem> {
    let (target, change) = match body {
        Body { token: Some(token), jti: None, exp: None } => whole(&state, &token)?,
        Body { token: None, jti: Some(jti), exp } => by_id(&jti, exp)?,
        Body { token: Some(_), .. } => {
            return Err(Problem::field("token", "It stands alone, or `jti` does."));
        }
        Body { token: None, jti: None, .. } => {
            return Err(Problem::field("token", "Either `token` or `jti` is needed."));
        }
    };
    let action = Action { name: "token.revoke", target, detail: None };
    control::apply(state, caller, action, change).await
}

/// The signature is not looked at: the caller holds the control token, and a key may have been rotated away.
fn whole(state: &AdminState, compact: &str) -> Result<(String, Change), Problem> {
    let token = Token::new(compact);
    let names =
        (state.handles.read_token)(&token).ok_or_else(|| Problem::field("token", "It is not a JWT."))?;
    let claims = match (names.realm, names.subject) {
        (Some(realm), Some(subject)) => Some(TokenFacts {
            user: User { realm, subject },
            token_id: names.token_id,
            expires_at: names.expires_at,
        }),
        _ => {
            return Err(Problem::field(
                "token",
                "Its issuer is not configured here, or it names no subject.",
            ));
        }
    };
    let target = Fingerprint::of(&token).to_string();
    Ok((target, Change::Token { compact: compact.into(), claims }))
}

fn by_id(jti: &str, exp: Option<i64>) -> Result<(String, Change), Problem> {
    let token_id = input::identifier("jti", jti)?;
    if exp.is_some_and(|exp| !(0..=LAST_SECOND).contains(&exp)) {
        return Err(Problem::field("exp", "It is not a NumericDate: seconds since 1970."));
    }
    let target = format!("jti:{token_id}");
    Ok((target, Change::TokenId { token_id, expires_at: exp.map(Timestamp::from_seconds) }))
}
