//! What the database can tell: a user's standing and counts; and the clearing away of what is over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::change::{Status, UserRecord};
use super::chores::{KeyCounts, MemoryCounts};
use super::schema::{number, text};
use super::sql::{Dialect, Value};
use super::store::StoreError;
use super::write::Writer;
use crate::claims::User;
use crate::time::Timestamp;

/// Rows deleted by one statement, so that no lock is held for long.
const BATCH: usize = 1000;
/// How long a row outlives its token: longer than any leeway.
const GRACE: Duration = Duration::from_secs(3600);

/// `GET /v1/stats`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    pub revoked_tokens: i64,
    pub revoked_sessions: i64,
    /// By status, of the users a change was ever made for.
    pub users: BTreeMap<String, i64>,
    pub outbox_pending: i64,
    /// What is kept in Redis; `None` without one, or while it is away.
    pub redis: Option<KeyCounts>,
    pub memory: MemoryCounts,
    /// How answers are found at present.
    pub mode: &'static str,
}

/// What `prune` removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    pub tokens: u64,
    pub sessions: u64,
    pub blacklisted_tokens: u64,
}

impl Writer {
    /// A user's standing, from our own table and the services' together: the one that denies counts.
    pub async fn record(&self, user: &User, now: Timestamp) -> Result<UserRecord, StoreError> {
        let sql = "SELECT status, reason, until_at, not_before, version FROM portcullis_users \
                   WHERE realm = ? AND subject = ?";
        let rows = self.sql.rows(sql, &[(&*user.realm).into(), (&*user.subject).into()]).await?;
        let own = rows.first();
        let instant = |index| own.and_then(|row| number(row, index)).map(Timestamp::from_millis);
        let until = instant(2);
        let over = until.is_some_and(|until| until <= now);
        let status = own.and_then(|row| text(row, 0)).and_then(|word| Status::of(&word));
        let mut record = UserRecord {
            id: user.subject.to_string(),
            realm: user.realm.to_string(),
            status: status.filter(|_| !over).unwrap_or(Status::Active),
            reason: own.and_then(|row| text(row, 1)).filter(|_| !over),
            until: until.filter(|_| !over).map(|until| until.to_string()),
            not_before: instant(3).map(|at| at.to_string()),
            version: own.and_then(|row| number(row, 4)).unwrap_or(0),
        };
        for preset in self.users() {
            let Some((sql, id)) = preset.row_query(&self.context, &user.subject) else { continue };
            let rows = self.sql.rows(&sql, &[id]).await?;
            let Some(row) = rows.first() else { continue };
            let status = text(row, 0).and_then(|word| Status::of(&word)).unwrap_or(Status::Deactivated);
            if record.status == Status::Active {
                record.status = status;
            }
            if record.not_before.is_none() {
                record.not_before = number(row, 1).map(|at| Timestamp::from_millis(at).to_string());
            }
        }
        Ok(record)
    }

    /// Counts; each is answered by an index.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let count = async |sql: &str| {
            let rows = self.sql.rows(sql, &[]).await?;
            Ok::<_, StoreError>(rows.first().and_then(|row| number(row, 0)).unwrap_or(0))
        };
        let by_status = "SELECT status, COUNT(*) AS users FROM portcullis_users GROUP BY status";
        let users = self.sql.rows(by_status, &[]).await?;
        Ok(Stats {
            revoked_tokens: count("SELECT COUNT(*) AS n FROM portcullis_tokens").await?,
            revoked_sessions: count("SELECT COUNT(*) AS n FROM portcullis_sessions").await?,
            users: users.iter().filter_map(|row| Some((text(row, 0)?, number(row, 1)?))).collect(),
            outbox_pending: count("SELECT COUNT(*) AS n FROM portcullis_outbox").await?,
            ..Stats::default()
        })
    }

    /// Removes what nobody could present any more, in batches.
    pub async fn prune(&self, now: Timestamp) -> Result<Pruned, StoreError> {
        let grace = GRACE.max(self.context.leeway);
        let before = Timestamp::from_millis(
            now.millis().saturating_sub(i64::try_from(grace.as_millis()).unwrap_or(0)),
        );
        let mut pruned = Pruned {
            tokens: self
                .clear("portcullis_tokens", "kind, id", "expires_at < ?", before.millis().into())
                .await?,
            sessions: self
                .clear("portcullis_sessions", "sid", "expires_at < ?", before.millis().into())
                .await?,
            blacklisted_tokens: 0,
        };
        for preset in self.tokens() {
            let Some((table, token, expires)) = preset.expiry(&self.context) else { continue };
            let over = format!("{} < {}", expires.name, expires.slot());
            pruned.blacklisted_tokens += self.clear(table, token, &over, expires.instant(before)).await?;
        }
        Ok(pruned)
    }

    async fn clear(&self, table: &str, key: &str, over: &str, before: Value) -> Result<u64, StoreError> {
        let values = [before];
        let sql = match self.sql.dialect() {
            Dialect::MySql => format!("DELETE FROM {table} WHERE {over} LIMIT {BATCH}"),
            Dialect::Sqlite | Dialect::Postgres => format!(
                "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {over} LIMIT {BATCH})"
            ),
        };
        let mut cleared = 0;
        loop {
            let gone = self.sql.execute(&sql, &values).await?;
            cleared += gone;
            if gone < BATCH as u64 {
                return Ok(cleared);
            }
        }
    }
}
