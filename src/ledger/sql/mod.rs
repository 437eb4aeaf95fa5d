//! One database behind one interface: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! The text of every statement comes from the configuration or from this crate, and is vouched for with `AssertSqlSafe`
//! in one place; whatever a token or a control call says is bound to a placeholder, never pasted.

mod mysql;
mod postgres;
mod sqlite;
mod statement;
mod transaction;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Arguments, AssertSqlSafe, Column as _, ConnectOptions as _, Executor, Row as _};
use tokio::time::{Instant, timeout};

use super::settings::{DatabaseSettings, is_in_memory};
use super::store::StoreError;
use crate::time::Timestamp;

pub use statement::{Cast, Statement};
pub use transaction::Transaction;

/// The value of one placeholder, as text; [`Statement`] knows its type.
pub type Argument = Box<str>;

/// Columns in order. Instants are RFC 3339 in UTC, JSON columns are JSON, binary is null; a column declared boolean is
/// a boolean, also where the database keeps 0 and 1.
pub type Row = Vec<(String, serde_json::Value)>;

/// Writing waits for other writers and for disks; a request never waits for a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which SQL is spoken. MariaDB is MySQL here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

impl Dialect {
    /// By the scheme of the URL.
    pub fn of(url: &str) -> Option<Self> {
        match url.split(':').next()? {
            "sqlite" => Some(Self::Sqlite),
            "postgres" | "postgresql" => Some(Self::Postgres),
            "mysql" | "mariadb" => Some(Self::MySql),
            _ => None,
        }
    }
}

/// A value to bind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Text(Box<str>),
    Uuid(uuid::Uuid),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What differs between the databases once a statement is written: how a value is bound and how a cell is read.
trait Engine: sqlx::Database {
    fn bind(arguments: &mut Self::Arguments, value: &Value) -> Result<(), sqlx::error::BoxDynError>;
    fn cell(row: &Self::Row, index: usize) -> Result<serde_json::Value, sqlx::Error>;
    fn changed(result: &Self::QueryResult) -> u64;
}

/// Runs the same expression on whichever database is behind `$on`.
macro_rules! each {
    ($kind:ident, $on:expr, $it:ident => $do:expr) => {
        match $on {
            $kind::Sqlite($it) => $do,
            $kind::Postgres($it) => $do,
            $kind::MySql($it) => $do,
        }
    };
}
use each;

/// A database. Cheap to clone; concurrency is bounded by its pool.
#[derive(Clone)]
pub struct SqlStore {
    pool: Pool,
    timeout: Duration,
}

#[derive(Clone)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    MySql(MySqlPool),
}

impl SqlStore {
    /// Prepares the pool. Connects when first asked, so that a gateway starts (not ready) before its database.
    pub fn open(settings: &DatabaseSettings) -> Result<Self, StoreError> {
        // sqlx's own message would repeat the URL, which holds the password.
        let unusable = |_| StoreError::Unavailable("the database URL cannot be read".to_owned());
        let url = settings.url.as_str();
        let (most, wait) = (settings.max_connections.max(1), settings.timeout.max(WRITE_TIMEOUT));
        let pool = match Dialect::of(url) {
            Some(Dialect::Sqlite) => Pool::Sqlite(Self::sqlite(url, most, wait).map_err(unusable)?),
            Some(Dialect::Postgres) => {
                let options = PgConnectOptions::from_str(url).map_err(unusable)?.disable_statement_logging();
                let pool = PgPoolOptions::new().max_connections(most).acquire_timeout(wait);
                Pool::Postgres(pool.connect_lazy_with(options))
            }
            Some(Dialect::MySql) => {
                let options =
                    MySqlConnectOptions::from_str(url).map_err(unusable)?.disable_statement_logging();
                let pool = MySqlPoolOptions::new().max_connections(most).acquire_timeout(wait);
                Pool::MySql(pool.connect_lazy_with(options))
            }
            None => {
                return Err(StoreError::Unavailable("the database URL names no known database".to_owned()));
            }
        };
        Ok(Self { pool, timeout: settings.timeout })
    }

    fn sqlite(url: &str, most: u32, wait: Duration) -> Result<SqlitePool, sqlx::Error> {
        let memory = is_in_memory(url);
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .busy_timeout(wait)
            .journal_mode(if memory { SqliteJournalMode::Memory } else { SqliteJournalMode::Wal })
            // In WAL mode NORMAL may forget the last commits at a power cut: an acknowledged ban must stay.
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new().acquire_timeout(wait);
        if !memory {
            keep_private(options.get_filename());
        }
        // A database in memory belongs to its connection: one, kept for ever.
        let pool = if memory {
            pool.max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None)
        } else {
            pool.max_connections(most)
        };
        Ok(pool.connect_lazy_with(options))
    }

    /// Which SQL is spoken.
    pub fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::Sqlite(_) => Dialect::Sqlite,
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::MySql(_) => Dialect::MySql,
        }
    }

    /// The first row of a rule's query, within the configured time: waiting for a connection counts.
    pub async fn first_row(
        &self,
        statement: &Statement,
        arguments: &[Argument],
    ) -> Result<Option<Row>, StoreError> {
        let values = statement.values(arguments)?;
        let ask = async { each!(Pool, &self.pool, pool => first(pool, statement.sql(), &values).await) };
        timeout(self.timeout, ask).await.map_err(|_| StoreError::Timeout)?
    }

    /// Rows of a statement of this crate's own, `?` for each value.
    pub async fn rows(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let sql = self.dialect().numbered(sql);
        let ask = async { each!(Pool, &self.pool, pool => all(pool, &sql, values).await) };
        timeout(self.timeout.max(WRITE_TIMEOUT), ask).await.map_err(|_| StoreError::Timeout)?
    }

    /// Changes rows by a single statement of this crate's own; says how many.
    pub async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        let sql = self.dialect().numbered(sql);
        let ask = async { each!(Pool, &self.pool, pool => execute(pool, &sql, values).await) };
        timeout(self.timeout.max(WRITE_TIMEOUT), ask).await.map_err(|_| StoreError::Timeout)?
    }

    /// Runs a statement of this crate's own that cannot be prepared: MySQL refuses triggers otherwise.
    pub async fn define(&self, sql: &str) -> Result<(), StoreError> {
        let run = async { each!(Pool, &self.pool, pool => define(pool, sql).await) };
        timeout(self.timeout.max(WRITE_TIMEOUT), run).await.map_err(|_| StoreError::Timeout)?
    }

    /// As [`Transaction::clock`].
    pub async fn clock(&self, now: Timestamp) -> Result<Timestamp, StoreError> {
        let Some(sql) = self.dialect().clock() else { return Ok(now) };
        let rows = self.rows(sql, &[]).await?;
        let cell = rows.first().and_then(|row| row.first()).and_then(|(_, value)| value.as_i64());
        cell.map(Timestamp::from_millis)
            .ok_or_else(|| StoreError::Malformed("the clock says nothing".to_owned()))
    }

    /// Begins a transaction that means to write: SQLite takes its lock at once, because one that reads first and
    /// writes later fails when another has written between.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let begin = async {
            Ok(match &self.pool {
                Pool::Sqlite(pool) => Transaction::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
                Pool::Postgres(pool) => Transaction::Postgres(pool.begin().await?),
                Pool::MySql(pool) => Transaction::MySql(pool.begin().await?),
            })
        };
        let begun = timeout(self.timeout.max(WRITE_TIMEOUT), begin).await.map_err(|_| StoreError::Timeout)?;
        begun.map_err(|error: sqlx::Error| failure(&error))
    }

    /// Whether it answers, and how fast.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let asked = Instant::now();
        let ask = async { each!(Pool, &self.pool, pool => first(pool, "SELECT 1", &[]).await) };
        timeout(self.timeout, ask).await.map_err(|_| StoreError::Timeout)??;
        Ok(asked.elapsed())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        each!(Pool, &self.pool, pool => pool.close().await);
    }
}

impl Dialect {
    /// Asks the database server what time it is, in unix milliseconds. SQLite has no clock of its own.
    pub(super) const fn clock(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => {
                Some("SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)")
            }
            Self::MySql => Some("SELECT CAST(FLOOR(UNIX_TIMESTAMP(SYSDATE(3)) * 1000) AS SIGNED)"),
        }
    }

    /// This crate's own statements are written with `?`; PostgreSQL counts its placeholders.
    pub(super) fn numbered(self, sql: &str) -> String {
        if self != Self::Postgres {
            return sql.to_owned();
        }
        let mut pieces = sql.split('?');
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for (number, piece) in pieces.enumerate() {
            text.push_str(&format!("${}{piece}", number + 1));
        }
        text
    }
}

fn bound<E: Engine>(values: &[Value]) -> Result<E::Arguments, StoreError> {
    let mut arguments = E::Arguments::default();
    for value in values {
        let bound = E::bind(&mut arguments, value);
        bound.map_err(|_| StoreError::Malformed("a value could not be bound".to_owned()))?;
    }
    debug_assert_eq!(arguments.len(), values.len());
    Ok(arguments)
}

async fn first<'c, E: Engine>(
    on: impl Executor<'c, Database = E>,
    sql: &str,
    values: &[Value],
) -> Result<Option<Row>, StoreError>
where
    E::Arguments: sqlx::IntoArguments<E>,
{
    let query = sqlx::query_with::<E, _>(AssertSqlSafe(sql), bound::<E>(values)?);
    let row = query.fetch_optional(on).await.map_err(|error| failure(&error))?;
    row.map(|row| read::<E>(&row)).transpose()
}

async fn all<'c, E: Engine>(
    on: impl Executor<'c, Database = E>,
    sql: &str,
    values: &[Value],
) -> Result<Vec<Row>, StoreError>
where
    E::Arguments: sqlx::IntoArguments<E>,
{
    let query = sqlx::query_with::<E, _>(AssertSqlSafe(sql), bound::<E>(values)?);
    let rows = query.fetch_all(on).await.map_err(|error| failure(&error))?;
    rows.iter().map(read::<E>).collect()
}

async fn execute<'c, E: Engine>(
    on: impl Executor<'c, Database = E>,
    sql: &str,
    values: &[Value],
) -> Result<u64, StoreError>
where
    E::Arguments: sqlx::IntoArguments<E>,
{
    let query = sqlx::query_with::<E, _>(AssertSqlSafe(sql), bound::<E>(values)?);
    query.execute(on).await.map(|result| E::changed(&result)).map_err(|error| failure(&error))
}

async fn define<'c, E: Engine>(on: impl Executor<'c, Database = E>, sql: &str) -> Result<(), StoreError> {
    let done = on.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
    done.map(|_| ()).map_err(|error| failure(&error))
}

fn read<E: Engine>(row: &E::Row) -> Result<Row, StoreError> {
    let cell = |column: &E::Column| {
        let value = E::cell(row, column.ordinal()).map_err(|_| {
            let name = column.name();
            StoreError::Malformed(format!(
                "the column `{name}` has a type that cannot be read: cast it in the query"
            ))
        })?;
        Ok((column.name().to_owned(), value))
    };
    row.columns().iter().map(cell).collect()
}

/// What may be said of a failure. Messages about the statement's form name tables and columns; messages about
/// values repeat the values, which may be tokens: of those only the code is told.
fn failure(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::PoolTimedOut => StoreError::Timeout,
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let form = ["42", "28", "3D", "3F", "57", "53"].iter().any(|class| code.starts_with(class));
            let said = if form || database.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                format!("{} ({code})", database.message())
            } else {
                format!("the database answered with the error {code}")
            };
            if code.starts_with("42") || code.starts_with("22") {
                StoreError::Malformed(said)
            } else {
                StoreError::Unavailable(said)
            }
        }
        sqlx::Error::Io(error) => StoreError::Unavailable(error.kind().to_string()),
        sqlx::Error::Tls(_) => StoreError::Unavailable("no secured connection could be made".to_owned()),
        sqlx::Error::PoolClosed => StoreError::Unavailable("it is closed".to_owned()),
        sqlx::Error::WorkerCrashed => StoreError::Unavailable("its worker crashed".to_owned()),
        sqlx::Error::Protocol(_) => {
            StoreError::Unavailable("the connection's protocol was violated".to_owned())
        }
        sqlx::Error::Configuration(_) => {
            StoreError::Unavailable("the connection is misconfigured".to_owned())
        }
        _ => StoreError::Malformed("the answer cannot be read".to_owned()),
    }
}

/// What services keep in Redis alone is copied, and may be whole tokens: a new file is its owner's alone, and what SQLite lays
/// beside it takes after it. Where none can be made, SQLite says why.
fn keep_private(file: &Path) {
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
