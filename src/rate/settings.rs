//! `rate_limit`, resolved.

use std::sync::Arc;
use std::time::Duration;

/// How often requests may come.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// What clients, logs and keys in Redis call it; no two limits of a route share one.
    pub name: Arc<str>,
    /// Who has an allowance of their own.
    pub by: By,
    /// So many in each `per`, on the long run.
    pub requests: u64,
    pub per: Duration,
    /// So many at once, from an allowance that has been left alone.
    pub burst: u64,
    /// Whether all gateways count together, in Redis.
    pub shared: bool,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The user; without one, the address.
    Subject,
    /// The client's address, IPv6 by its network.
    Ip,
    /// Everybody's.
    Route,
}
