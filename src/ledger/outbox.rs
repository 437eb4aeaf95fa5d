//! What Redis has yet to be told. A row is written with the change it belongs to, and goes when Redis has it.
//!
//! While a row waits, Redis lacks something that was promised: no gateway believes it then (see [`Outbox::trusted`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{IntGauge, Registry};

use super::redis::{RedisStore, RedisWrite};
use super::schema::{number, text};
use super::sql::{SqlStore, Transaction};
use super::store::StoreError;
use crate::time::Timestamp;

/// Rows delivered in one go.
const BATCH: usize = 500;
/// A row younger than this is most likely on its way already, told by the gateway that wrote it: it is no cause for
/// alarm, nor for telling it twice.
const GRACE: Duration = Duration::from_millis(500);

/// Delivers, and knows whether anything waits. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    sql: SqlStore,
    trusted: Arc<AtomicBool>,
    pending: IntGauge,
}

impl Outbox {
    /// Registers `portcullis_outbox_pending`. Redis is not trusted before the first look.
    pub fn new(sql: SqlStore, registry: &Registry) -> prometheus::Result<Self> {
        let pending = IntGauge::new("portcullis_outbox_pending", "Changes that Redis has yet to be told")?;
        registry.register(Box::new(pending.clone()))?;
        Ok(Self { sql, trusted: Arc::new(AtomicBool::new(false)), pending })
    }

    /// Whether Redis holds every change that was acknowledged: false while something waits, and while nobody can tell.
    pub fn trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    /// To be called by the writer of a change that Redis could not be told: other gateways notice at their next look.
    pub fn distrust(&self) {
        self.trusted.store(false, Ordering::Release);
    }

    /// Looks once, and delivers what waits, oldest first. To be called every second or so, by every gateway; that two
    /// deliver the same row does no harm. Returns how many still wait.
    pub async fn deliver(&self, redis: &RedisStore, now: Timestamp) -> Result<usize, StoreError> {
        let mut waiting = self.waiting(now).await?;
        while !waiting.is_empty() {
            self.distrust();
            for parcel in &waiting {
                redis.write(&parcel.writes_left(now), parcel.version, parcel.restrictive).await?;
                delivered(&self.sql, parcel.version).await?;
            }
            waiting = self.waiting(now).await?;
        }
        self.trusted.store(true, Ordering::Release);
        Ok(waiting.len())
    }

    /// What waits, for longer than the way takes.
    async fn waiting(&self, now: Timestamp) -> Result<Vec<Parcel>, StoreError> {
        // Not knowing is not trusting, unless this is the first failure of a database that Redis stands in for.
        let count = self.sql.rows("SELECT COUNT(*) AS pending FROM portcullis_outbox", &[]).await?;
        self.pending.set(count.first().and_then(|row| number(row, 0)).unwrap_or(0));
        let sql = format!(
            "SELECT version, writes, restrictive, created_at FROM portcullis_outbox WHERE created_at <= ? \
             ORDER BY version LIMIT {BATCH}"
        );
        let before = now.millis().saturating_sub(i64::try_from(GRACE.as_millis()).unwrap_or(0));
        let rows = self.sql.rows(&sql, &[before.into()]).await?;
        rows.iter().map(|row| Parcel::read(row).ok_or_else(unreadable)).collect()
    }
}

/// A row of the outbox.
#[derive(Debug, PartialEq)]
pub struct Parcel {
    pub version: i64,
    pub writes: Vec<RedisWrite>,
    pub restrictive: bool,
    pub created_at: Timestamp,
}

impl Parcel {
    fn read(row: &super::sql::Row) -> Option<Self> {
        Some(Self {
            version: number(row, 0)?,
            writes: serde_json::from_str(&text(row, 1)?).ok()?,
            restrictive: number(row, 2)? != 0,
            created_at: Timestamp::from_millis(number(row, 3)?),
        })
    }

    /// The writes with what is left of their TTLs; those whose time is over would deny nobody any more.
    pub fn writes_left(&self, now: Timestamp) -> Vec<RedisWrite> {
        let waited = self.created_at.until(now);
        let left = |ttl: &Option<Duration>| match ttl {
            None => Some(None),
            Some(ttl) => ttl.checked_sub(waited).filter(|left| !left.is_zero()).map(Some),
        };
        let shortened = |write: &RedisWrite| match write {
            RedisWrite::Set { key, value, ttl } => {
                Some(RedisWrite::Set { key: key.clone(), value: value.clone(), ttl: left(ttl)? })
            }
            RedisWrite::AddMember { key, member, score, ttl } => Some(RedisWrite::AddMember {
                key: key.clone(),
                member: member.clone(),
                score: *score,
                ttl: left(ttl)?,
            }),
            RedisWrite::Delete { .. } | RedisWrite::RemoveMember { .. } => Some(write.clone()),
        };
        self.writes.iter().filter_map(shortened).collect()
    }
}

/// Keeps what Redis is to be told, in the transaction of the change.
pub(super) async fn enqueue(
    open: &mut Transaction,
    version: i64,
    writes: &[RedisWrite],
    restrictive: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO portcullis_outbox (version, writes, restrictive, created_at) VALUES (?, ?, ?, ?)";
    let writes = serde_json::to_string(writes).map_err(|_| unreadable())?;
    let values = [version.into(), writes.as_str().into(), i64::from(restrictive).into(), now.millis().into()];
    open.execute(sql, &values).await.map(|_| ())
}

/// Redis has it.
pub(super) async fn delivered(sql: &SqlStore, version: i64) -> Result<(), StoreError> {
    sql.execute("DELETE FROM portcullis_outbox WHERE version = ?", &[version.into()]).await.map(|_| ())
}

fn unreadable() -> StoreError {
    StoreError::Malformed("an outbox row cannot be read".to_owned())
}
