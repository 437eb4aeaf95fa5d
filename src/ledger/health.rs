//! How the ledger and its stores are, for those who watch over them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Ledger, Mode, RedisStore};

/// How the ledger and its stores are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    pub mode: Mode,
    /// `None` where no Redis is configured.
    pub redis: Option<StoreHealth>,
    pub database: StoreHealth,
}

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoreHealth {
    /// Whether it is being asked.
    pub up: bool,
    /// Of the last probe it answered; at most a second old while it is up.
    pub latency: Duration,
}

impl Ledger {
    /// How the ledger and its stores are, by the last probes: costs nothing.
    pub fn health(&self) -> Health {
        let redis =
            |redis: &Arc<RedisStore>| StoreHealth { up: !redis.breaker.is_open(), latency: redis.latency() };
        Health {
            mode: self.mode(),
            redis: self.redis.as_ref().map(redis),
            database: StoreHealth {
                up: !self.database.breaker.is_open(),
                latency: Duration::from_micros(self.database_latency_micros.load(Ordering::Relaxed)),
            },
        }
    }

    pub(super) fn note_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.database_latency_micros.store(micros, Ordering::Relaxed);
    }

    /// Whether the database answers just now.
    pub async fn database_answers(&self) -> bool {
        self.database.sql.ping().await.is_ok()
    }
}
