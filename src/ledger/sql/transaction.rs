//! Several statements that stand or fall together. Dropped without [`Transaction::commit`], nothing has happened.

use sqlx::{MySql, Postgres, Sqlite};

use super::{Dialect, Row, StoreError, Value, all, each, execute, failure};
use crate::time::Timestamp;

/// An open transaction. Its statements are this crate's own, with `?` for each value.
pub enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
    MySql(sqlx::Transaction<'static, MySql>),
}

impl Transaction {
    /// Which SQL is spoken.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }

    /// Changes rows; says how many matched.
    pub async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        let sql = self.dialect().numbered(sql);
        each!(Self, self, open => execute(&mut **open, &sql, values).await)
    }

    /// Reads rows.
    pub async fn rows(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let sql = self.dialect().numbered(sql);
        each!(Self, self, open => all(&mut **open, &sql, values).await)
    }

    /// Reads one whole number.
    pub async fn number(&mut self, sql: &str, values: &[Value]) -> Result<i64, StoreError> {
        let rows = self.rows(sql, values).await?;
        let cell = rows.first().and_then(|row| row.first()).and_then(|(_, value)| value.as_i64());
        cell.ok_or_else(|| StoreError::Malformed("a number was expected".to_owned()))
    }

    /// The one clock all gateways share: the database server's. SQLite has none of its own: `now` stands.
    pub async fn clock(&mut self, now: Timestamp) -> Result<Timestamp, StoreError> {
        match self.dialect().clock() {
            None => Ok(now),
            Some(sql) => self.number(sql, &[]).await.map(Timestamp::from_millis),
        }
    }

    /// Makes it true.
    pub async fn commit(self) -> Result<(), StoreError> {
        each!(Self, self, open => open.commit().await).map_err(|error| failure(&error))
    }
}
