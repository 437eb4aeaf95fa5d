//! The control door: health, metrics, and the calls that ban, log out and revoke. One endpoint, one file;
//! [`client`] is the same API from the other side.

mod attempts;
pub mod client;
mod control;
mod guard;
mod input;
mod problem;
mod server;
pub mod settings;

mod healthz;
mod metrics;
mod openapi;
mod prune;
mod readyz;
mod session_revoke;
mod stats;
mod token_revoke;
mod user;
mod user_logout;
mod user_sessions;
mod user_status;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::routing::MethodRouter;
use futures_util::future::BoxFuture;
use prometheus::Registry;
use sha2::{Digest, Sha256};

use crate::claims::User;
use crate::ledger::{Ledger, StoreError};
use crate::proxy::LiveStream;
use crate::report::Audit;
use crate::time::Timestamp;
use crate::token::{Fingerprint, Token};
use crate::verify::inspect::UnverifiedNames;

pub use server::serve;
pub use settings::AdminSettings;

/// Whether this gateway wants traffic, as `/readyz` tells it.
#[derive(Default)]
pub struct Life(AtomicU8);

impl Life {
    const SERVING: u8 = 1;
    const DRAINING: u8 = 2;

    /// The proxy listens.
    pub fn serving(&self) {
        self.0.store(Self::SERVING, Ordering::Relaxed);
    }

    /// SIGTERM has come: load balancers should look elsewhere while running requests end.
    pub fn draining(&self) {
        self.0.store(Self::DRAINING, Ordering::Relaxed);
    }

    fn is_serving(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::SERVING
    }
}

/// A session: a verified token that this gateway remembers, or one in the services' own table.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenSession {
    /// `sid`, where the token has one.
    pub session: Option<Box<str>>,
    /// `jti`, where the token has one.
    pub token_id: Option<Box<str>>,
    pub issued_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub fingerprint: Fingerprint,
    /// What the ledger holds against it by now, in the word of the denial.
    pub revoked: Option<Box<str>>,
}

/// Reads a token without verifying it.
type ReadToken = Box<dyn Fn(&Token<'_>) -> Option<UnverifiedNames> + Send + Sync>;
type Sessions = Box<dyn Fn(User) -> BoxFuture<'static, Result<Vec<SeenSession>, StoreError>> + Send + Sync>;
type Streams = Box<dyn Fn(&User) -> Vec<LiveStream> + Send + Sync>;
type Provider<T> = Box<dyn Fn() -> T + Send + Sync>;

/// The rest of the gateway, as the control door needs it. What a reload replaces is asked for anew each time.
pub struct AdminHandles {
    /// The ledger in force.
    pub ledger: Provider<Arc<Ledger>>,
    /// The realms of the configured issuers: a change for another realm would bind nobody.
    pub realms: Provider<Vec<Arc<str>>>,
    /// What a token says of itself, read as its issuer is configured; `None` for what is no token.
    pub read_token: ReadToken,
    /// A user's sessions: those that this gateway remembers, and those in the services' own table.
    pub sessions: Sessions,
    /// What a user has open on this gateway.
    pub streams: Streams,
    pub registry: Registry,
    pub audit: Arc<Audit>,
    pub life: Arc<Life>,
}

/// What callers have to hold.
struct ControlToken {
    /// SHA-256; a digest so that comparing tells nothing of the token's length.
    digest: [u8; 32],
    /// Whether it is short enough to be found by trying; the configuration warns of that.
    guessable: bool,
}

/// What the endpoints share.
pub struct AdminState {
    handles: AdminHandles,
    token: ArcSwapOption<ControlToken>,
    attempts: attempts::Attempts,
    calls: governor::DefaultDirectRateLimiter,
}

impl AdminState {
    /// `/v1` does not exist while `settings` hold no token.
    pub fn new(settings: &AdminSettings, handles: AdminHandles) -> Self {
        let state = Self {
            handles,
            token: ArcSwapOption::empty(),
            attempts: attempts::Attempts::default(),
            calls: governor::RateLimiter::direct(guard::CALLS),
        };
        state.set_token(settings.token.as_deref());
        state
    }

    /// Puts the token of a reloaded configuration in force.
    pub fn set_token(&self, token: Option<&str>) {
        let held = |token: &str| ControlToken {
            digest: Sha256::digest(token.as_bytes()).into(),
            guessable: token.len() < settings::UNGUESSABLE,
        };
        self.token.store(token.map(|token| Arc::new(held(token))));
    }

    fn ledger(&self) -> Arc<Ledger> {
        (self.handles.ledger)()
    }
}

/// One endpoint: what the router serves and the OpenAPI document describes.
struct Endpoint {
    #[cfg_attr(not(test), expect(dead_code, reason = "the test of the OpenAPI document reads it"))]
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Arc<AdminState>>,
}

impl Endpoint {
    fn new(method: &'static str, path: &'static str, handler: MethodRouter<Arc<AdminState>>) -> Self {
        Self { method, path, handler }
    }

    /// Whether it lies behind the guard.
    fn is_control(&self) -> bool {
        self.path.starts_with("/v1/")
    }
}

/// Every endpoint there is.
fn endpoints() -> [Endpoint; 12] {
    [
        healthz::endpoint(),
        readyz::endpoint(),
        metrics::endpoint(),
        user_status::endpoint(),
        user_logout::endpoint(),
        user::endpoint(),
        user_sessions::endpoint(),
        token_revoke::endpoint(),
        session_revoke::endpoint(),
        stats::endpoint(),
        prune::endpoint(),
        openapi::endpoint(),
    ]
}

fn router(state: Arc<AdminState>) -> Router {
    let (mut open, mut control) = (Router::new(), Router::new());
    for endpoint in endpoints() {
        match endpoint.is_control() {
            true => control = control.route(endpoint.path, endpoint.handler),
            false => open = open.route(endpoint.path, endpoint.handler),
        }
    }
    let guard = axum::middleware::from_fn_with_state(state.clone(), guard::guard);
    let control = control
        .route("/v1/{*unknown}", axum::routing::any(problem::not_found))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(guard);
    open.method_not_allowed_fallback(problem::method_not_allowed)
        .merge(control)
        .fallback(problem::not_found)
        .layer(axum::middleware::from_fn(guard::identify))
        .with_state(state)
}
