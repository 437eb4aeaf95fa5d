//! What Redis has yet to be told. A row is written with the change it belongs to, and goes when Redis has it.
//!
//! While a row waits, Redis lacks something that was promised: no gateway believes it then.

use prometheus::IntGauge;

use super::redis::{RedisStore, RedisWrite};
use super::schema::{number, text};
use super::sql::{SqlStore, Transaction};
use super::store::StoreError;
use crate::time::Timestamp;

/// Rows delivered in one go.
const BATCH: usize = 500;

/// Delivers what waits. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    sql: SqlStore,
    pending: IntGauge,
}

/// Why a look at the outbox did not leave it empty.
#[derive(Debug)]
pub enum Undelivered {
    /// Something waits, and Redis did not take it: Redis is not to be believed.
    ByRedis(StoreError),
    /// The database did not say whether anything waits. Nothing new can be waiting while nothing can be written.
    ByDatabase(StoreError),
}

impl Outbox {
    /// `pending` shows how many changes wait.
    pub fn new(sql: SqlStore, pending: IntGauge) -> Self {
        Self { sql, pending }
    }

    /// Looks once, and delivers what waits, oldest first. To be called every second or so, by every gateway; that two
    /// deliver the same row does no harm, and a row that is on its way already is simply told twice. Returns how many
    /// were delivered.
    pub async fn deliver(&self, redis: &RedisStore) -> Result<usize, Undelivered> {
        let mut told = 0;
        loop {
            let waiting = self.waiting().await.map_err(Undelivered::ByDatabase)?;
            if waiting.is_empty() {
                return Ok(told);
            }
            // Rows were stamped by the database's clock: only by that clock is it known how long they waited.
            let now = self.sql.clock(Timestamp::now()).await.map_err(Undelivered::ByDatabase)?;
            for parcel in &waiting {
                let writes = parcel.writes_left(now);
                redis
                    .write(&writes, parcel.version, parcel.restrictive)
                    .await
                    .map_err(Undelivered::ByRedis)?;
                delivered(&self.sql, parcel.version).await.map_err(Undelivered::ByDatabase)?;
                told += 1;
            }
        }
    }

    /// What waits, oldest first.
    pub async fn waiting(&self) -> Result<Vec<Parcel>, StoreError> {
        let count = self.sql.rows("SELECT COUNT(*) AS pending FROM portcullis_outbox", &[]).await?;
        self.pending.set(count.first().and_then(|row| number(row, 0)).unwrap_or(0));
        let sql = format!(
            "SELECT version, writes, restrictive, created_at FROM portcullis_outbox ORDER BY version LIMIT {BATCH}"
        );
        let rows = self.sql.rows(&sql, &[]).await?;
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

    /// The writes with what is left of their TTLs; it may be nothing.
    pub fn writes_left(&self, now: Timestamp) -> Vec<RedisWrite> {
        let waited = self.created_at.until(now);
        let mut writes = self.writes.clone();
        for write in &mut writes {
            if let RedisWrite::Set { ttl: Some(ttl), .. }
            | RedisWrite::Replace { ttl: Some(ttl), .. }
            | RedisWrite::AddMember { ttl: Some(ttl), .. } = write
            {
                *ttl = ttl.saturating_sub(waited);
            }
        }
        writes
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
