//! What the ledger is told, resolved.

use std::time::Duration;

use super::preset::Preset;
use super::rule::Rule;

#[derive(Clone, PartialEq)]
pub struct LedgerSettings {
    pub presets: Vec<Preset>,
    pub rules: Vec<Rule>,
    pub redis: Option<RedisSettings>,
    pub database: DatabaseSettings,
    /// Longest life of an access token and of a refresh token, over all issuers, leeway included.
    pub token_lifetime: Duration,
    pub refresh_lifetime: Duration,
    /// How long past its `exp` some issuer's token is still accepted.
    pub leeway: Duration,
    /// How many answers of each store are kept in memory.
    pub answers: usize,
    /// How long memory may be believed without a sign of life from Redis.
    pub max_staleness: Duration,
    /// How often a sign of life is asked for; shorter than `max_staleness`.
    pub heartbeat: Duration,
}

#[derive(Clone, PartialEq)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`, credentials and database number included.
    pub url: String,
    pub timeout: Duration,
}

#[derive(Clone, PartialEq)]
pub struct DatabaseSettings {
    /// `sqlite:`, `postgres:` or `mysql:`.
    pub url: String,
    pub max_connections: u32,
    pub timeout: Duration,
    /// Create Portcullis's own tables at start; always done for SQLite.
    pub migrate: bool,
}
