//! The sample service: issues tokens at `/login`, says hello everywhere else, and never looks at a token.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::{Json, Router, routing};
use serde_json::{Map, Value, json};

use super::{AUDIENCE, ISSUER, secret};
use crate::time::Timestamp;
use crate::verify::Algorithm;
use crate::verify::issue::{SigningKey, issue};

/// How long a sample token lives.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Starts it on a free port of this machine.
pub(super) async fn start(signing: String) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/login", routing::any(login)).fallback(hello).with_state(signing);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// A token for a user, as a login service would sign it.
pub(super) fn token(
    signing: &str,
    user: &str,
    now: Timestamp,
) -> Result<String, crate::verify::keys::KeyError> {
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": user,
        "iat": now.seconds(),
        "exp": now.plus(LIFETIME).seconds(),
        "jti": secret(9),
        "sid": secret(9),
        "scope": "read write",
    });
    let claims = claims.as_object().cloned().unwrap_or_default();
    issue(&claims, Algorithm::HS256, Some("demo"), &SigningKey::Secret(signing.as_bytes().to_vec()))
}

#[derive(serde::Deserialize)]
struct Login {
    user: String,
}

/// Anybody may log in as anybody: it is a sample. It takes until the next second begins, since a logout voids the whole
/// second it falls into: who pastes both lines at once shall see the login work.
async fn login(State(signing): State<String>, Query(Login { user }): Query<Login>) -> Json<Value> {
    let now = Timestamp::now();
    let next = Timestamp::from_seconds(now.seconds() + 1);
    tokio::time::sleep(now.until(next)).await;
    match token(&signing, &user, next) {
        Ok(token) => Json(json!({ "accessToken": token })),
        Err(error) => Json(json!({ "error": error.to_string() })),
    }
}

/// Tells what the service has seen, which is how one sees what the gateway told it.
async fn hello(method: Method, uri: Uri, headers: HeaderMap) -> Json<Value> {
    let told = |name: &str| name.starts_with("x-") && !name.starts_with("x-forwarded");
    let seen: Map<String, Value> = headers
        .iter()
        .filter(|(name, _)| told(name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    Json(
        json!({ "hello": "from the sample service", "method": method.as_str(), "path": uri.path(), "told": seen }),
    )
}
