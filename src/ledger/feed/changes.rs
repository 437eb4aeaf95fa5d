//! `portcullis_changes`: who changed. Triggers write it, and so does every change made through a gateway; each gateway
//! reads it to the end, in order, and misses nothing that commits late.
//!
//! Numbers are drawn when a row is written and become visible when its transaction commits: of two transactions the
//! later number may appear first. So a number that was skipped is looked for again until it appears or is too old.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::schema::{number, text};
use crate::ledger::sql::{Dialect, Row, SqlStore, Transaction};
use crate::ledger::store::StoreError;
use crate::time::Timestamp;

/// Rows read in one go.
pub const BATCH: usize = 1000;
/// How long a skipped number is looked for: longer than any transaction of a service that changes users.
const LATEST: Duration = Duration::from_secs(600);
/// So many skipped numbers are remembered; a bulk load that is rolled back skips more, and none of them ever comes.
const GAPS: usize = 4096;
/// So many before the first that a gateway sees are looked for, too: they were cleared away, or are still to come.
const BEFORE: i64 = 256;
/// How long rows are kept. Only running gateways clear away, and every gateway reads what is left when it starts: what
/// happens while none runs is found by the next.
const KEEP: Duration = Duration::from_secs(3600);

/// How often it is looked at whether numbers go on.
const LOOK_BACK: Duration = Duration::from_secs(30);

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub source: Box<str>,
    /// `None`: anybody may have changed.
    pub subject: Option<Box<str>>,
}

/// Tells the other gateways of a change, in the transaction that makes it. `source` stands for a table's name: whoever
/// bears the same has the same layouts in the same Redis, and need not look for himself what that was told.
pub async fn note(
    open: &mut Transaction,
    source: &str,
    subject: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO portcullis_changes (source, subject, at) VALUES (?, ?, ?)";
    open.execute(sql, &[source.into(), subject.into(), now.millis().into()]).await.map(|_| ())
}

/// How far one gateway has read.
#[derive(Debug, Default)]
pub struct Reader {
    last: i64,
    /// When it was looked at last whether numbers go on.
    looked_back: Option<Instant>,
    /// Skipped numbers, and until when they are looked for.
    gaps: BTreeMap<i64, Instant>,
}

impl Reader {
    /// What has appeared since the last look, at most a [`BATCH`]; and whether there may be more.
    pub async fn look(&mut self, sql: &SqlStore) -> Result<(Vec<Changed>, bool), StoreError> {
        let now = Instant::now();
        if self.looked_back.is_none_or(|at| at + LOOK_BACK <= now) {
            self.look_back(sql).await?;
            self.looked_back = Some(now);
        }
        self.gaps.retain(|_, until| *until > now);
        let late = self.late(sql).await?;
        let statement = format!(
            "SELECT seq, source, subject FROM portcullis_changes WHERE seq > ? ORDER BY seq LIMIT {BATCH}"
        );
        let rows = sql.rows(&statement, &[self.last.into()]).await?;
        let more = rows.len() == BATCH;
        let dialect = sql.dialect();
        for seq in rows.iter().filter_map(|row| number(row, 0)) {
            self.step(seq, dialect, now);
        }
        Ok((late.iter().chain(&rows).filter_map(read).collect(), more))
    }

    /// Where the database was put back to an older copy, or its table emptied in a way that begins to count anew, nothing
    /// would be heard of for as long as numbers are lower than they were: all there is is read again.
    async fn look_back(&mut self, sql: &SqlStore) -> Result<(), StoreError> {
        let rows = sql.rows("SELECT MAX(seq) AS last FROM portcullis_changes", &[]).await?;
        if rows.first().and_then(|row| number(row, 0)).is_some_and(|last| last < self.last) {
            tracing::warn!("Changes are counted anew; those that are there are read again");
            (self.last, self.gaps) = (0, BTreeMap::new());
        }
        Ok(())
    }

    /// The next number that was seen: those between are missing, and some before the first that was ever seen may be,
    /// drawn by who has not committed yet. Not so with SQLite, where one transaction writes at a time and a missing number
    /// never comes.
    fn step(&mut self, seq: i64, dialect: Dialect, now: Instant) {
        if dialect != Dialect::Sqlite {
            let room = i64::try_from(GAPS.saturating_sub(self.gaps.len())).unwrap_or(0);
            let after = if self.last == 0 { seq.saturating_sub(BEFORE).max(0) } else { self.last };
            for missing in (after + 1).max(seq.saturating_sub(room))..seq {
                self.gaps.insert(missing, now + LATEST);
            }
        }
        self.last = self.last.max(seq);
    }

    /// Rows whose numbers were skipped and that have appeared since.
    async fn late(&mut self, sql: &SqlStore) -> Result<Vec<Row>, StoreError> {
        let gaps: Vec<i64> = self.gaps.keys().copied().collect();
        let mut found = Vec::new();
        for some in gaps.chunks(BATCH) {
            // Numbers of our own making: nothing to bind.
            let list = some.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            let statement =
                format!("SELECT seq, source, subject FROM portcullis_changes WHERE seq IN ({list})");
            found.extend(sql.rows(&statement, &[]).await?);
        }
        for seq in found.iter().filter_map(|row| number(row, 0)) {
            self.gaps.remove(&seq);
        }
        Ok(found)
    }
}

fn read(row: &Row) -> Option<Changed> {
    Some(Changed { source: text(row, 1)?.into(), subject: text(row, 2).map(Into::into) })
}

/// Clears away what every running gateway has read long ago.
pub async fn prune(sql: &SqlStore, now: Timestamp) -> Result<u64, StoreError> {
    // Rows bear the database's time.
    let now = sql.clock(now).await?;
    let keep = i64::try_from(KEEP.as_millis()).unwrap_or(i64::MAX);
    let before = now.millis().saturating_sub(keep);
    let statement = match sql.dialect() {
        Dialect::MySql => format!("DELETE FROM portcullis_changes WHERE at < ? LIMIT {BATCH}"),
        Dialect::Sqlite | Dialect::Postgres => format!(
            "DELETE FROM portcullis_changes WHERE seq IN (SELECT seq FROM portcullis_changes WHERE at < ? LIMIT {BATCH})"
        ),
    };
    let mut cleared = 0;
    loop {
        let gone = sql.execute(&statement, &[before.into()]).await?;
        cleared += gone;
        if gone < BATCH as u64 {
            return Ok(cleared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::migrate::migrate;
    use crate::ledger::sql::testing::Server;

    async fn write(sql: &SqlStore, subject: &str) {
        let mut open = sql.begin().await.expect("a transaction");
        note(&mut open, "portcullis", Some(subject), Timestamp::from_seconds(1)).await.expect("noted");
        open.commit().await.expect("committed");
    }

    async fn seen(reader: &mut Reader, sql: &SqlStore) -> Vec<String> {
        let (rows, _) = reader.look(sql).await.expect("a look");
        rows.into_iter().filter_map(|row| row.subject).map(String::from).collect()
    }

    async fn what_commits_late_is_seen_once(server: Server) {
        let sql = &server.sql;
        migrate(sql, &[], Timestamp::from_seconds(1)).await.expect("migrated");
        let mut reader = Reader::default();
        write(sql, "a").await;
        assert_eq!(seen(&mut reader, sql).await, ["a"]);
        let mut slow = sql.begin().await.expect("a transaction");
        note(&mut slow, "portcullis", Some("slow"), Timestamp::from_seconds(1)).await.expect("noted");
        let gone = sql.begin().await.expect("a transaction");
        let mut gone = gone;
        note(&mut gone, "portcullis", Some("gone"), Timestamp::from_seconds(1)).await.expect("noted");
        drop(gone);
        write(sql, "b").await;
        assert_eq!(seen(&mut reader, sql).await, ["b"]);
        slow.commit().await.expect("committed");
        assert_eq!(seen(&mut reader, sql).await, ["slow"]);
        assert!(seen(&mut reader, sql).await.is_empty());
        assert_eq!(prune(sql, Timestamp::now()).await.expect("pruned"), 3);
        write(sql, "c").await;
        assert_eq!(seen(&mut reader, sql).await, ["c"], "numbers go on after everything was cleared away");
        // As after a restore, or a restart of a MySQL that forgets where it had come to.
        sql.execute("UPDATE portcullis_changes SET seq = 1", &[]).await.expect("changed");
        reader.looked_back = None;
        assert_eq!(seen(&mut reader, sql).await, ["c"], "whatever its number is by now");
        assert!(seen(&mut reader, sql).await.is_empty());
    }

    #[tokio::test]
    async fn postgres_shows_every_change_once_whatever_commits_first() {
        what_commits_late_is_seen_once(Server::postgres().await).await;
    }

    #[tokio::test]
    async fn mariadb_shows_every_change_once_whatever_commits_first() {
        what_commits_late_is_seen_once(Server::mariadb().await).await;
    }
}
