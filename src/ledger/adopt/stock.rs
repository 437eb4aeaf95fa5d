//! All copies at once: taking stock of what Redis holds, and writing everything back to a Redis that has been emptied.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Pipeline, Value as Reply};
use tokio::sync::mpsc;

use super::{Adoption, PAGE, Work};
use crate::ledger::redis::{RedisStore, Walk};
use crate::ledger::schema::{number, text};
use crate::ledger::sql::Row;
use crate::ledger::store::StoreError;
use crate::template::Template;
use crate::time::Timestamp;

/// Pause after each page.
const PAUSE: Duration = Duration::from_millis(10);

impl Adoption {
    /// Everything that Redis holds and everything that was copied is looked at: what has changed while nobody told.
    pub async fn take_stock(
        &self,
        redis: &RedisStore,
        work: &mpsc::Sender<Work>,
        session: u64,
    ) -> Result<(), StoreError> {
        self.complete.store(false, Ordering::Release);
        let over = |_| StoreError::unavailable("shutting down");
        let heads: HashSet<&str> = self.templates.iter().map(Template::head).collect();
        for head in heads {
            if head.is_empty() {
                return Err(StoreError::malformed("a key that begins with a placeholder cannot be listed"));
            }
            let (link, mut walk) = (redis.link()?, Some(Walk::default()));
            while let Some(at) = walk {
                let (next, keys) = redis.scan_keys(&link, head, &at).await?;
                for key in keys.into_iter().filter(|key| self.wants(key)) {
                    work.send(Work::Key(key)).await.map_err(over)?;
                }
                walk = next;
                tokio::time::sleep(PAUSE).await;
            }
        }
        let mut after = String::new();
        loop {
            let rows = self.page(&after).await?;
            let Some(last) = rows.last().and_then(|row| text(row, 0)) else { break };
            for name in rows.iter().filter_map(|row| text(row, 1)) {
                work.send(Work::Key(name.into_bytes())).await.map_err(over)?;
            }
            after = last;
            tokio::time::sleep(PAUSE).await;
        }
        work.send(Work::Done(session)).await.map_err(over)
    }

    async fn page(&self, after: &str) -> Result<Vec<Row>, StoreError> {
        let sql = format!(
            "SELECT key_hash, name, value, expires_at FROM portcullis_adopted WHERE key_hash > ? \
             ORDER BY key_hash LIMIT {PAGE}"
        );
        self.sql.rows(&sql, &[after.into()]).await
    }

    /// Writes one page of copies to Redis, each only where there is nothing. To be called with "" first and then with
    /// what it returned, until that is `None`.
    pub async fn restore(&self, redis: &RedisStore, after: &str) -> Result<Option<String>, StoreError> {
        let rows = self.page(after).await?;
        let now = self.sql.clock(Timestamp::now()).await?.millis();
        let mut pipeline = Pipeline::with_capacity(rows.len());
        for row in &rows {
            let (Some(name), Some(value)) = (text(row, 1), text(row, 2)) else { continue };
            match number(row, 3).map(|expires_at| expires_at.saturating_sub(now)) {
                Some(..1) => {}
                Some(ttl) => drop(pipeline.cmd("SET").arg(name).arg(value).arg("PX").arg(ttl).arg("NX")),
                None => drop(pipeline.cmd("SET").arg(name).arg(value).arg("NX")),
            }
        }
        if !pipeline.is_empty() {
            let refused = redis.ask(&pipeline).await?.replies.into_iter().find_map(|reply| match reply {
                Reply::ServerError(error) => Some(StoreError::unavailable(error.code())),
                _ => None,
            });
            if let Some(error) = refused {
                return Err(error);
            }
        }
        Ok(rows.last().and_then(|row| text(row, 0)))
    }
}

impl Adoption {
    /// Writes all copies to a Redis that has lost them, each only where there is nothing, page by page.
    pub async fn restore_all(&self, redis: &RedisStore) -> Result<(), StoreError> {
        let mut after = String::new();
        while let Some(last) = self.restore(redis, &after).await? {
            after = last;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::adopt::{hash, query};
    use crate::ledger::feed::FeedMetrics;
    use crate::ledger::migrate::migrate;
    use crate::ledger::redis::tests::{Server as RedisServer, store};
    use crate::ledger::sql::testing::Server;
    use crate::ledger::sql::{Dialect, Statement};

    async fn adoption(server: &Server) -> Adoption {
        migrate(&server.sql, &[], Timestamp::from_seconds(1)).await.expect("migrated");
        Adoption {
            sql: server.sql.clone(),
            templates: [Template::parse("frozen:{sub}").expect("a key")].into(),
            complete: false.into(),
            unread: std::sync::Mutex::default(),
            metrics: FeedMetrics::register(&prometheus::Registry::new()).expect("metrics"),
        }
    }

    async fn copies_outlive_a_flush_and_are_written_back_where_nothing_is(server: Server) {
        let (redis, adoption) = (RedisServer::start().await, adoption(&server).await);
        let store = store(&redis).await;
        redis.cli(&["HSET", "pc:watermark", "1", "1:x"]).await;
        redis.cli(&["SET", "frozen:7", "so", "PX", "60000"]).await;
        for user in ["8", "9"] {
            redis.cli(&["SET", &format!("frozen:{user}"), "so"]).await;
        }
        let keys = ["7", "8", "9"].map(|user| format!("frozen:{user}"));
        adoption.copy(&store, &keys).await.expect("copied");
        redis.cli(&["DEL", "frozen:9"]).await;
        adoption.copy(&store, &keys).await.expect("copied");
        redis.cli(&["FLUSHALL"]).await;
        adoption.copy(&store, &keys).await.expect("copied");
        let statement = Statement::parse(&query(server.sql.dialect()), server.sql.dialect());
        let statement = statement.expect("our own query");
        let said = async |key: &str| {
            let row = server.sql.first_row(&statement, &[hash(key).into()]).await.expect("an answer");
            row.map(|row| row[0].1.clone())
        };
        assert_eq!(said("frozen:7").await, Some("so".into()));
        assert_eq!(said("frozen:9").await, None, "it was lifted before the flush");
        redis.cli(&["SET", "frozen:8", "newer"]).await;
        let last = adoption.restore(&store, "").await.expect("a page").expect("its end");
        assert_eq!(adoption.restore(&store, &last).await.expect("no page"), None);
        let get = async |key: &str| redis.cli(&["GET", key]).await;
        assert_eq!(get("frozen:7").await, Reply::BulkString(b"so".to_vec()));
        assert_eq!(get("frozen:8").await, Reply::BulkString(b"newer".to_vec()));
        assert_eq!(get("frozen:9").await, Reply::Nil);
        assert!(matches!(redis.cli(&["PTTL", "frozen:7"]).await, Reply::Int(1..=60000)));
        // What has run out is no answer, whether it was cleared away or not.
        server.sql.execute("UPDATE portcullis_adopted SET expires_at = 1", &[]).await.expect("changed");
        assert_eq!(said("frozen:7").await, None);
    }

    #[tokio::test]
    async fn sqlite_keeps_copies() {
        copies_outlive_a_flush_and_are_written_back_where_nothing_is(Server::sqlite()).await;
    }

    #[tokio::test]
    async fn postgres_keeps_copies() {
        copies_outlive_a_flush_and_are_written_back_where_nothing_is(Server::postgres().await).await;
    }

    #[tokio::test]
    async fn mariadb_keeps_copies() {
        copies_outlive_a_flush_and_are_written_back_where_nothing_is(Server::mariadb().await).await;
    }

    #[test]
    fn sqlite_has_no_clock_but_its_own() {
        assert!(query(Dialect::Sqlite).contains("julianday"));
    }
}
