//! What Redis has yet to be told. A row is written with the change it belongs to, and goes when Redis has it.
//!
//! While a row waits, Redis lacks something that was promised: no gateway believes it then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus::IntGauge;

use super::redis::{self, Marked, RedisStore, RedisWrite};
use super::schema::{number, text};
use super::sql::{SqlStore, Transaction, Value};
use super::store::StoreError;
use crate::time::Timestamp;

/// Rows delivered in one round trip: some milliseconds of Redis's time.
const BATCH: usize = 100;
/// The gauge counts no further: of a long queue only its length is of interest, and counting it is work.
const COUNTED: usize = 100_000;
/// Rows that Redis refused are tried again; so many at a time, and the next ones the next time.
const REFUSED: usize = 100;
/// Where trying them again begins.
const FIRST: i64 = i64::MIN;

/// Delivers what waits. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    sql: SqlStore,
    pending: IntGauge,
    refused: IntGauge,
    /// Up to which version refused rows have been tried in this round.
    tried: Arc<AtomicI64>,
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
    /// `pending` shows how many changes wait, `refused` how many of them Redis refused.
    pub fn new(sql: SqlStore, pending: IntGauge, refused: IntGauge) -> Self {
        Self { sql, pending, refused, tried: Arc::new(AtomicI64::new(FIRST)) }
    }

    /// Looks once, and delivers what waits, oldest first. To be called every second or so, by every gateway; that two
    /// deliver the same row does no harm, and a row that is on its way already is simply told twice. Returns how many
    /// were delivered.
    pub async fn deliver(&self, redis: &RedisStore) -> Result<usize, Undelivered> {
        let mut told = self.deliver_refused(redis).await?;
        loop {
            // Before looking: what is told below is all that lies between this mark and the last row.
            let mark = redis.mark().await;
            let waiting = self.waiting().await.map_err(Undelivered::ByDatabase)?;
            let Some(last) = waiting.last().map(|parcel| parcel.version) else { return Ok(told) };
            let refused = self.tell(redis, &waiting).await?;
            let marked = match mark.map_err(Undelivered::ByRedis)? {
                Some(mark) => redis.raise(&mark, last).await.map_err(Undelivered::ByRedis)?,
                None if redis.authority.wants_mark() => Marked::Unbelieved,
                None => Marked::Yes,
            };
            // Somebody else has raised it meanwhile: the next look finds out how far.
            match marked {
                Marked::Gap if waiting.len() < BATCH => return Ok(told),
                Marked::Gap => continue,
                // It is filled before long. Until there is a mark that speaks for them the rows stay: somebody may put
                // an older copy in its place, with a mark of its own.
                Marked::Unbelieved => {
                    let cause = StoreError::unavailable("it has no mark that could speak for them");
                    return Err(Undelivered::ByRedis(cause));
                }
                Marked::Yes => {}
            }
            park(&self.sql, &refused).await.map_err(Undelivered::ByDatabase)?;
            let gone: Vec<i64> =
                waiting.iter().map(|parcel| parcel.version).filter(|it| !refused.contains(it)).collect();
            delivered(&self.sql, &gone).await.map_err(Undelivered::ByDatabase)?;
            told += gone.len();
        }
    }

    /// What waits because some key holds a value of another type. The rule that reads such a key cannot either, and asks
    /// the database: nothing is lost, and nobody else has to wait.
    async fn deliver_refused(&self, redis: &RedisStore) -> Result<usize, Undelivered> {
        let count = self.count("refused_at IS NOT NULL").await.map_err(Undelivered::ByDatabase)?;
        self.refused.set(count);
        if count == 0 {
            return Ok(0);
        }
        let sql = format!(
            "SELECT version, writes, restrictive, created_at FROM portcullis_outbox \
             WHERE refused_at IS NOT NULL AND version > ? ORDER BY version LIMIT {REFUSED}"
        );
        let before = self.tried.load(Ordering::Relaxed).into();
        let waiting = self.read(&sql, &[before]).await.map_err(Undelivered::ByDatabase)?;
        // Those that stay refused are not tried before the others have been.
        let last = waiting.last().filter(|_| waiting.len() == REFUSED);
        self.tried.store(last.map_or(FIRST, |parcel| parcel.version), Ordering::Relaxed);
        if waiting.is_empty() {
            return Ok(0);
        }
        let refused = self.tell(redis, &waiting).await?;
        let gone: Vec<i64> =
            waiting.iter().map(|parcel| parcel.version).filter(|it| !refused.contains(it)).collect();
        delivered(&self.sql, &gone).await.map_err(Undelivered::ByDatabase)?;
        Ok(gone.len())
    }

    /// One round trip. Returns the versions that were refused.
    async fn tell(&self, redis: &RedisStore, waiting: &[Parcel]) -> Result<Vec<i64>, Undelivered> {
        // Rows were stamped by the database's clock: only by that clock is it known how long they waited.
        let now = self.sql.clock(Timestamp::now()).await.map_err(Undelivered::ByDatabase)?;
        let left: Vec<_> = waiting.iter().map(|parcel| parcel.writes_left(now)).collect();
        let parcels: Vec<_> = waiting.iter().zip(&left).map(|(parcel, writes)| parcel.with(writes)).collect();
        let link = redis.link().map_err(Undelivered::ByRedis)?;
        let told = redis.write_on(&link, &parcels).await.map_err(Undelivered::ByRedis)?;
        Ok(told.refused)
    }

    /// Whether anything of those versions waits.
    pub async fn is_waiting_up_to(&self, version: i64) -> Result<bool, StoreError> {
        let sql = "SELECT version FROM portcullis_outbox WHERE refused_at IS NULL AND version <= ? LIMIT 1";
        Ok(!self.sql.rows(sql, &[version.into()]).await?.is_empty())
    }

    /// Whether something has waited for longer than a change takes that goes well.
    pub async fn is_overdue(&self, after: Duration) -> Result<bool, StoreError> {
        let now = match self.sql.dialect().clock() {
            Some(clock) => format!("({clock})"),
            None => Timestamp::now().millis().to_string(),
        };
        let sql = format!(
            "SELECT version FROM portcullis_outbox WHERE refused_at IS NULL AND created_at < {now} - ? LIMIT 1"
        );
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        Ok(!self.sql.rows(&sql, &[after.into()]).await?.is_empty())
    }

    /// What waits, oldest first.
    pub async fn waiting(&self) -> Result<Vec<Parcel>, StoreError> {
        let count = self.count("refused_at IS NULL").await?;
        self.pending.set(count);
        if count == 0 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT version, writes, restrictive, created_at FROM portcullis_outbox \
             WHERE refused_at IS NULL ORDER BY version LIMIT {BATCH}"
        );
        self.read(&sql, &[]).await
    }

    async fn count(&self, which: &str) -> Result<i64, StoreError> {
        let sql = format!(
            "SELECT COUNT(*) AS pending FROM (SELECT version FROM portcullis_outbox \
             WHERE {which} LIMIT {COUNTED}) AS waiting"
        );
        let count = self.sql.rows(&sql, &[]).await?;
        Ok(count.first().and_then(|row| number(row, 0)).unwrap_or(0))
    }

    async fn read(&self, sql: &str, values: &[Value]) -> Result<Vec<Parcel>, StoreError> {
        let rows = self.sql.rows(sql, values).await?;
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

    fn with<'a>(&self, writes: &'a [RedisWrite]) -> redis::Parcel<'a> {
        redis::Parcel { writes, version: self.version, restrictive: self.restrictive, strict: false }
    }

    /// The writes with what is left of their TTLs; it may be nothing.
    pub fn writes_left(&self, now: Timestamp) -> Vec<RedisWrite> {
        let waited = self.created_at.until(now);
        let mut writes = self.writes.clone();
        writes.iter_mut().for_each(|write| write.age(waited));
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

/// Redis has them.
pub(super) async fn delivered(sql: &SqlStore, versions: &[i64]) -> Result<(), StoreError> {
    let Some(list) = list(versions) else { return Ok(()) };
    sql.execute(&format!("DELETE FROM portcullis_outbox WHERE version IN ({list})"), &[]).await.map(|_| ())
}

/// Redis does not take them, whatever else it takes: set aside, so that nothing waits for them.
pub(super) async fn park(sql: &SqlStore, versions: &[i64]) -> Result<(), StoreError> {
    let Some(list) = list(versions) else { return Ok(()) };
    tracing::error!(
        versions = list,
        "Redis holds a value of another type under a key of these changes; they are tried again"
    );
    let park = format!(
        "UPDATE portcullis_outbox SET refused_at = ? WHERE version IN ({list}) AND refused_at IS NULL"
    );
    sql.execute(&park, &[Timestamp::now().millis().into()]).await.map(|_| ())
}

fn list(versions: &[i64]) -> Option<String> {
    let words: Vec<String> = versions.iter().map(i64::to_string).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn unreadable() -> StoreError {
    StoreError::Malformed("an outbox row cannot be read".to_owned())
}
