//! What the tests stand on. Everything here cleans up after itself by `Drop`, or by a watchdog when the process dies.
//!
//! A test has three parts, of which one file each is enough to begin with:
//!
//! - **Before the gateway**, clients: [`gateway::Gateway::get`] for a request, [`raw`] for exact bytes, [`https`] for TLS,
//!   [`http2`]; [`load`] never stops asking. Clients of others: [`browser`] (Chromium), [`python`] (gRPC, WebSockets).
//! - **The gateway**: [`gateway::Setup`] writes its configuration, [`gateway::Gateway`] runs it and says what it logged and
//!   counted; [`reloads`] changes it as it runs. Tokens are [`issuer`]'s, certificates [`pki`]'s.
//! - **Behind it**, a service: [`origin`] answers as it is told and keeps what it got, [`scripted`] holds a conversation,
//!   [`service`] speaks TLS and HTTP/2. And stores: [`redis`], [`sentinels`], [`cluster`], [`postgres`], [`mysql`], each by
//!   way of a [`relay`] where it is to vanish. The proxies that people have in front are [`nginx`] and [`peers`].
//!
//! What cannot be seen at once is asked for until it is so: [`eventually`].
#![expect(dead_code, reason = "a helper may be waiting for the test that needs it")]

pub mod browser;
pub mod cluster;
pub mod gateway;
pub mod http2;
pub mod https;
pub mod issuer;
pub mod leaks;
pub mod listening;
pub mod load;
pub mod mysql;
pub mod nginx;
pub mod origin;
pub mod peers;
pub mod pki;
pub mod postgres;
pub mod python;
pub mod raw;
pub mod redis;
pub mod redis_tls;
pub mod relay;
pub mod reloads;
pub mod scripted;
pub mod sentinels;
pub mod server;
pub mod service;

use std::fmt::Debug;
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take before a test gives it up. Only a test that fails waits for it, so it is long enough for
/// two slow cores that have other work, too.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Ok`, and says what was seen last when it never is.
pub fn eventually<T, E: Debug>(what: &str, ask: impl FnMut() -> Result<T, E>) -> T {
    within(DEADLINE, what, ask)
}

/// [`eventually`], with a deadline of one's own.
pub fn within<T, E: Debug>(deadline: Duration, what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > deadline => {
                panic!("{what}: not within {deadline:?}; last seen: {seen:?}")
            }
            Err(_) => pause(Duration::from_millis(5)),
        }
    }
}

/// The breath between two polls, and the delay of an origin that is told to be slow. No test waits by it for a fact.
pub fn pause(length: Duration) {
    std::thread::park_timeout(length);
}

/// A port nobody listens on now. Somebody else may take it first: who uses it retries.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Unix seconds.
#[expect(clippy::disallowed_methods, reason = "tests are a door: they mint tokens for the present")]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Text that no two tests share: for subjects, secrets and names of databases.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}
