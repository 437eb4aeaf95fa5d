//! Adopted entries: what services keep in Redis alone, for rules without `sql`, is copied to `portcullis_adopted` as it
//! is pushed, with its value and expiry. Where Redis is not believed the copies answer; where Redis is empty they are
//! written back.
//!
//! A copy is found by the SHA-256 of its key. The key itself is kept as well, since it has to be written back under its
//! name; where that holds a whole token, so does our table, as such services' own tables do. Only strings are copied:
//! of a set or hash a push does not say which member has changed.

mod stock;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Pipeline, Value as Reply};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::condition::{Finding, Moment, Reply as Said};
use super::feed::FeedMetrics;
use super::link::Link;
use super::questions::Compiled;
use super::redis::{Answered, RedisStore};
use super::rule::{Condition, Rule, SqlQuestion};
use super::schema::{number, text};
use super::settings::LedgerSettings;
use super::sql::{Dialect, Row, SqlStore, Value};
use super::store::StoreError;
use super::watermark;
use super::write::upsert;
use crate::template::Template;
use crate::time::Timestamp;

/// Keys dealt with in one go.
const BATCH: usize = 128;
/// Keys that Redis lists, or rows read back, in one go.
const PAGE: usize = 500;
/// Larger values are no flags; their beginning is kept, and that there is one.
const LONGEST_VALUE: usize = 64 * 1024;
const LONGEST_KEY: usize = 64 * 1024;
/// Keys that could not be read when they were pushed.
const UNREAD: usize = 10_000;
/// Two clocks and a round trip apart, expiries differ by less.
const SAME_MILLIS: u64 = 2000;
/// How long a copy outlives its entry.
const GRACE: Duration = Duration::from_secs(3600);
/// How often copies are counted and cleared away.
const TEND: Duration = Duration::from_secs(30);

/// The copies and how complete they are.
pub struct Adoption {
    sql: SqlStore,
    templates: Box<[Template]>,
    /// Whether everything that Redis held, when it was last listened to, has been copied.
    complete: AtomicBool,
    /// Keys that were pushed and could not be read since, by their hashes.
    unread: Mutex<HashMap<String, String>>,
    metrics: FeedMetrics,
}

/// What there is to do, in order.
#[derive(Debug)]
pub enum Work {
    /// A key that may have changed.
    Key(Vec<u8>),
    /// All keys there were when this session began have been named.
    Done(u64),
}

/// Whether a rule's entries are strings that Redis alone holds.
fn is_adoptable(rule: &Rule) -> bool {
    let strings = |condition: &Condition| {
        matches!(
            condition,
            Condition::Exists
                | Condition::Equals(_)
                | Condition::Json { .. }
                | Condition::IssuedBefore { .. }
                | Condition::UserStatus { .. }
        )
    };
    rule.sql.is_none() && rule.redis.as_ref().is_some_and(|redis| strings(&redis.deny_if))
}

/// Whether the operator's own rules have entries to be copied.
pub fn wanted(settings: &LedgerSettings) -> bool {
    settings.adopt && settings.redis.is_some() && settings.rules.iter().any(is_adoptable)
}

fn give_copies(rule: &mut Rule, dialect: Dialect) {
    let Some(redis) = rule.redis.as_ref().filter(|_| is_adoptable(rule)) else { return };
    rule.sql = Some(SqlQuestion { query: query(dialect), deny_if: redis.deny_if.clone() });
}

/// Gives every sound rule that needs them its copies; one that could not be asked at all is told of later, as written.
pub fn give_all(rules: &mut [Rule], settings: &LedgerSettings, dialect: Dialect) {
    if settings.adopt && settings.redis.is_some() {
        rules.iter_mut().filter(|rule| rule.check().is_ok()).for_each(|rule| give_copies(rule, dialect));
    }
}

/// Whether that is the question [`give_all`] gives. Its one placeholder stands for the hash of the rule's own key.
pub fn is_of_copies(query: &str) -> bool {
    query.starts_with("SELECT value FROM portcullis_adopted ")
}

fn query(dialect: Dialect) -> String {
    let clock = dialect.clock().map_or_else(
        || "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)".to_owned(),
        |clock| format!("({clock})"),
    );
    format!(
        "SELECT value FROM portcullis_adopted WHERE key_hash = {{token_sha256}} \
         AND (expires_at IS NULL OR expires_at > {clock})"
    )
}

/// What a copy is found by.
pub fn hash(key: &str) -> String {
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a copy says, judged as the entry itself would be.
pub fn judge(rule: &Rule, row: Option<&Row>, at: Moment) -> Result<Finding, StoreError> {
    let Some(redis) = &rule.redis else { return Ok(Finding::Absent) };
    match row.and_then(|row| text(row, 0)) {
        Some(value) => redis.deny_if.of_reply(Said::Value(value.as_bytes()), at),
        None => Ok(Finding::Absent),
    }
}

impl Adoption {
    /// `None` where no rule has copies.
    pub fn of<'a>(
        rules: impl Iterator<Item = &'a Compiled>,
        sql: &SqlStore,
        metrics: &FeedMetrics,
    ) -> Option<Self> {
        let keys = rules.filter(|rule| rule.copies).filter_map(|rule| rule.rule.redis.as_ref());
        let templates: Box<[Template]> = keys.map(|redis| redis.key.clone()).collect();
        (!templates.is_empty()).then(|| Self {
            sql: sql.clone(),
            templates,
            complete: AtomicBool::new(false),
            unread: Mutex::default(),
            metrics: metrics.clone(),
        })
    }

    /// Whether a key that has no copy was not there when Redis was last heard of.
    pub fn vouches_for(&self, hash: &str) -> bool {
        self.complete.load(Ordering::Acquire) && !self.unread().contains_key(hash)
    }

    fn unread(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a rule's entries are called so.
    pub fn wants(&self, key: &[u8]) -> bool {
        let key = std::str::from_utf8(key).ok().filter(|key| key.len() <= LONGEST_KEY && !key.contains('\0'));
        key.is_some_and(|key| self.templates.iter().any(|template| template.could_produce(key)))
    }

    /// Copies what is named, for ever. All keys come this way, so that of two looks at one key the later one counts.
    pub async fn follow(&self, redis: &RedisStore, mut work: mpsc::Receiver<Work>, link: &Link) {
        let mut batch = Vec::with_capacity(BATCH);
        let (mut tended, mut failing): (Option<Instant>, bool) = (None, false);
        loop {
            let _ = timeout(Duration::from_secs(1), work.recv_many(&mut batch, BATCH)).await;
            let (mut keys, mut done) = (HashSet::new(), None);
            for work in batch.drain(..) {
                match work {
                    Work::Key(key) => drop(String::from_utf8(key).map(|key| keys.insert(key))),
                    Work::Done(session) => done = Some(session),
                }
            }
            let keys: Vec<String> = keys.into_iter().collect();
            match self.copy(redis, &keys).await {
                Ok(()) => {
                    failing &= keys.is_empty();
                    self.reread(redis).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "Entries that services keep in Redis alone are not copied at present");
                    }
                    self.remember(keys);
                }
            }
            // What was pushed since the list was begun has come this way as well.
            if done.is_some() && done == link.session() {
                self.complete.store(true, Ordering::Release);
                tracing::info!("Entries that services keep in Redis alone are copied as they change");
            }
            if tended.is_none_or(|at| at.elapsed() >= TEND) {
                tended = Some(Instant::now());
                if let Err(error) = self.tend().await {
                    tracing::debug!(%error, "Copies of services' entries not tended");
                }
            }
        }
    }

    /// Too many to remember means that nothing can be said of any key.
    fn remember(&self, keys: Vec<String>) {
        let mut unread = self.unread();
        if unread.len() + keys.len() > UNREAD {
            self.complete.store(false, Ordering::Release);
        } else {
            unread.extend(keys.into_iter().map(|key| (hash(&key), key)));
        }
    }

    async fn reread(&self, redis: &RedisStore) {
        let some: Vec<(String, String)> =
            self.unread().iter().take(BATCH).map(|(hash, key)| (hash.clone(), key.clone())).collect();
        let keys: Vec<String> = some.iter().map(|(_, key)| key.clone()).collect();
        if !keys.is_empty() && self.copy(redis, &keys).await.is_ok() {
            let mut unread = self.unread();
            some.iter().for_each(|(hash, _)| drop(unread.remove(hash)));
        }
    }

    /// Makes the copies say what Redis says now. What is gone from a Redis that has been emptied stays.
    async fn copy(&self, redis: &RedisStore, keys: &[String]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::with_capacity(keys.len() * 2 + 1);
        for key in keys {
            pipeline.cmd("GET").arg(key).cmd("PTTL").arg(key);
        }
        // Asked last: had it been emptied before, the mark would be missing by now.
        pipeline.cmd("EXISTS").arg(watermark::KEY);
        let Answered { replies, believed } = redis.ask(&pipeline).await?;
        let whole = believed && replies.last() == Some(&Reply::Int(1));
        let now = self.sql.clock(Timestamp::now()).await?.millis();
        let hashes: Vec<String> = keys.iter().map(|key| hash(key)).collect();
        let known = self.known(&hashes).await?;
        let mut open = None;
        for ((key, hash), replies) in keys.iter().zip(&hashes).zip(replies.chunks(2)) {
            let copy = known.get(hash);
            let statement = match replies {
                [Reply::BulkString(value), Reply::Int(ttl)] if *ttl != -2 => {
                    let entry = (storable(value), (*ttl >= 0).then(|| now.saturating_add(*ttl)));
                    if copy.is_some_and(|copy| same(copy, &entry)) {
                        continue;
                    }
                    let (value, expires_at) = entry;
                    let values = vec![
                        hash.as_str().into(),
                        key.as_str().into(),
                        value.as_str().into(),
                        expires_at.into(),
                        now.into(),
                    ];
                    let columns = ["key_hash", "name", "value", "expires_at", "adopted_at"];
                    (upsert(self.sql.dialect(), "portcullis_adopted", &columns, 1), values)
                }
                [Reply::Nil, _] | [_, Reply::Int(-2)] if copy.is_some() && whole => {
                    let delete = "DELETE FROM portcullis_adopted WHERE key_hash = ?".to_owned();
                    (delete, vec![hash.as_str().into()])
                }
                [Reply::ServerError(error), _] if error.code() != "WRONGTYPE" => {
                    return Err(StoreError::unavailable(error.code()));
                }
                _ => continue,
            };
            let transaction = match &mut open {
                Some(open) => open,
                None => open.insert(self.sql.begin().await?),
            };
            transaction.execute(&statement.0, &statement.1).await?;
        }
        match open {
            Some(open) => open.commit().await,
            None => Ok(()),
        }
    }

    async fn known(&self, hashes: &[String]) -> Result<HashMap<String, Copy>, StoreError> {
        let slots = vec!["?"; hashes.len()].join(", ");
        let sql =
            format!("SELECT key_hash, value, expires_at FROM portcullis_adopted WHERE key_hash IN ({slots})");
        let values: Vec<Value> = hashes.iter().map(|hash| hash.as_str().into()).collect();
        let rows = self.sql.rows(&sql, &values).await?;
        Ok(rows.iter().filter_map(|row| Some((text(row, 0)?, (text(row, 1)?, number(row, 2))))).collect())
    }

    /// Counts, and clears away what ran out long ago.
    async fn tend(&self) -> Result<(), StoreError> {
        let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
        let before = self.sql.clock(Timestamp::now()).await?.millis().saturating_sub(grace);
        let delete = match self.sql.dialect() {
            Dialect::MySql => format!("DELETE FROM portcullis_adopted WHERE expires_at < ? LIMIT {PAGE}"),
            Dialect::Sqlite | Dialect::Postgres => format!(
                "DELETE FROM portcullis_adopted WHERE key_hash IN \
                 (SELECT key_hash FROM portcullis_adopted WHERE expires_at < ? LIMIT {PAGE})"
            ),
        };
        while self.sql.execute(&delete, &[before.into()]).await? == PAGE as u64 {}
        let rows = self.sql.rows("SELECT COUNT(*) AS entries FROM portcullis_adopted", &[]).await?;
        self.metrics.adopted.set(rows.first().and_then(|row| number(row, 0)).unwrap_or(0));
        Ok(())
    }
}

/// An entry's value and when it ends, in unix milliseconds.
type Copy = (String, Option<i64>);

fn same(copy: &Copy, entry: &Copy) -> bool {
    let ends = match (copy.1, entry.1) {
        (Some(one), Some(other)) => one.abs_diff(other) <= SAME_MILLIS,
        (one, other) => one == other,
    };
    ends && copy.0 == entry.0
}

/// As text that every database takes. Nothing that a rule could compare with is lost by it.
fn storable(value: &[u8]) -> String {
    let start = value.get(..LONGEST_VALUE).unwrap_or(value);
    String::from_utf8_lossy(start).replace('\0', "\u{fffd}")
}
