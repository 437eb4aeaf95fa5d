//! Work that one gateway does for all: under a lock, not faster than Redis can take it, and not without a word.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::FillError;
use crate::ledger::metrics::ReconcileMetrics;
use crate::ledger::redis::{Link, RedisStore};

/// Keys in a second. Redis runs some 60 000 of these scripts in a second and does nothing else then; so it keeps more
/// than half of its time for whoever else it serves.
const RATE: u32 = 25_000;
/// How long a gateway that has fallen silent keeps others from going on.
pub const LOCK: Duration = Duration::from_secs(10);
/// How often the log says how far it is.
const TELL: Duration = Duration::from_secs(5);

/// The lock, held.
pub struct Keep<'a> {
    pub redis: &'a RedisStore,
    pub link: &'a Arc<Link>,
    pub key: String,
    pub owner: String,
}

impl Keep<'_> {
    pub async fn take(&self, life: Duration) -> Result<bool, FillError> {
        self.redis.lock(self.link, &self.key, &self.owner, life).await.map_err(FillError::Redis)
    }

    pub async fn renew(&self) -> Result<(), FillError> {
        if self.take(LOCK).await? { Ok(()) } else { Err(FillError::Overtaken) }
    }
}

/// Not faster than [`RATE`], and not without a word.
pub struct Pace<'a> {
    metrics: &'a ReconcileMetrics,
    started: Instant,
    told: Instant,
    pub rows: usize,
    pub keys: u32,
}

impl<'a> Pace<'a> {
    pub fn new(metrics: &'a ReconcileMetrics) -> Self {
        let now = Instant::now();
        Self { metrics, started: now, told: now, rows: 0, keys: 0 }
    }

    pub async fn wrote(&mut self, keys: usize) {
        self.keys = self.keys.saturating_add(u32::try_from(keys).unwrap_or(u32::MAX));
        let due = Duration::from_secs_f64(f64::from(self.keys) / f64::from(RATE));
        tokio::time::sleep_until(self.started + due).await;
    }

    pub fn read(&mut self, rows: usize, source: &str) {
        self.rows += rows;
        self.metrics.rows.inc_by(rows as u64);
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            tracing::info!(source, rows = self.rows, keys = self.keys, "Redis is being filled");
        }
    }
}

/// The gauge, for as long as it is true.
pub struct Running<'a>(&'a ReconcileMetrics);

impl<'a> Running<'a> {
    pub fn of(metrics: &'a ReconcileMetrics) -> Self {
        metrics.running.set(1);
        Self(metrics)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(0);
    }
}
