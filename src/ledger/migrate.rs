//! Portcullis's own tables, made and upgraded. Safe to run again, and by several gateways at once.
//!
//! A service's table of users is never made nor altered. `blacklisted_tokens` is made where the preset names a table
//! that does not exist, because then no service can be the worse for it.

use std::time::Duration;

use tokio::time::timeout;

use super::preset::{Preset, TokenBlacklist};
use super::schema::{Table, number};
use super::sql::{Dialect, SqlStore, Transaction};
use super::store::StoreError;
use crate::time::Timestamp;

/// Longest wait for other gateways that migrate, and for the work itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// One step each, in order; a step that has been released is never edited.
fn steps(dialect: Dialect) -> [&'static str; 2] {
    match dialect {
        Dialect::Sqlite => [include_str!("migrate/sqlite.sql"), include_str!("migrate/sqlite-2.sql")],
        Dialect::Postgres => [include_str!("migrate/postgres.sql"), include_str!("migrate/postgres-2.sql")],
        Dialect::MySql => [include_str!("migrate/mysql.sql"), include_str!("migrate/mysql-2.sql")],
    }
}

/// The row of `portcullis_version` that holds the database's own number ([`epoch`]).
const EPOCH: i64 = 2;

/// Makes what is missing. Returns the number of steps taken.
pub async fn migrate(sql: &SqlStore, presets: &[Preset], now: Timestamp) -> Result<usize, StoreError> {
    let work = async {
        let mut open = sql.begin().await?;
        lock(&mut open).await?;
        let taken = upgrade(&mut open, now).await;
        // MySQL's lock belongs to the connection, not to the transaction: it is given back also after a failure.
        if open.dialect() == Dialect::MySql {
            open.number("SELECT RELEASE_LOCK('portcullis_migrate')", &[]).await?;
        }
        open.commit().await?;
        taken
    };
    let taken = timeout(PATIENCE, work).await.map_err(|_| StoreError::Timeout)??;
    for preset in presets {
        if let Preset::TokenBlacklist(preset) = preset {
            blacklist(sql, preset).await?;
        }
    }
    Ok(taken)
}

/// Whether the tables are there and up to date.
pub async fn is_migrated(sql: &SqlStore) -> Result<bool, StoreError> {
    if Table::find(sql, "portcullis_migrations").await?.is_none() {
        return Ok(false);
    }
    let rows = sql.rows("SELECT MAX(version) AS version FROM portcullis_migrations", &[]).await?;
    let reached = rows.first().and_then(|row| row.first()).and_then(|(_, version)| version.as_u64());
    Ok(reached.is_some_and(|reached| reached >= steps(sql.dialect()).len() as u64))
}

/// One gateway at a time. SQLite's `BEGIN IMMEDIATE` is such a lock already.
async fn lock(open: &mut Transaction) -> Result<(), StoreError> {
    match open.dialect() {
        Dialect::Sqlite => {}
        Dialect::Postgres => {
            open.execute("SELECT pg_advisory_xact_lock(7074657234)", &[]).await?;
        }
        Dialect::MySql => {
            if open.number("SELECT GET_LOCK('portcullis_migrate', 50)", &[]).await? != 1 {
                return Err(StoreError::Timeout);
            }
        }
    }
    Ok(())
}

async fn upgrade(open: &mut Transaction, now: Timestamp) -> Result<usize, StoreError> {
    let register = "CREATE TABLE IF NOT EXISTS portcullis_migrations (version BIGINT NOT NULL PRIMARY KEY, \
                    applied_at BIGINT NOT NULL)";
    open.execute(register, &[]).await?;
    let reached =
        open.number("SELECT COALESCE(MAX(version), 0) AS version FROM portcullis_migrations", &[]).await?;
    let reached = usize::try_from(reached).unwrap_or(0);
    let mut taken = 0;
    for (number, step) in steps(open.dialect()).into_iter().enumerate().skip(reached) {
        for statement in step.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
            match open.execute(statement, &[]).await {
                Err(error) if open.dialect() == Dialect::MySql && is_there_already(&error) => {}
                done => done.map(|_| ())?,
            }
        }
        let version = i64::try_from(number + 1).unwrap_or(i64::MAX);
        let note = "INSERT INTO portcullis_migrations (version, applied_at) VALUES (?, ?)";
        open.execute(note, &[version.into(), now.millis().into()]).await?;
        taken += 1;
    }
    // Under the lock: the first number stays.
    let number = i64::try_from(rand::random::<u64>() >> 1).unwrap_or(i64::MAX).max(1);
    let draw = "INSERT INTO portcullis_version (id, value) SELECT ?, ? FROM portcullis_version WHERE id = 1 \
                AND NOT EXISTS (SELECT 1 FROM portcullis_version WHERE id = ?)";
    open.execute(draw, &[EPOCH.into(), number.into(), EPOCH.into()]).await?;
    Ok(taken)
}

/// MySQL commits after each statement about a table's form: a step that was cut off half way is taken again whole.
fn is_there_already(error: &StoreError) -> bool {
    let said = error.to_string();
    said.contains("Duplicate column name") || said.contains("Duplicate key name")
}

/// What tells this database from every other that may use the same Redis: drawn once, when the tables were made.
/// `None` where there are no such tables.
pub async fn epoch(sql: &SqlStore) -> Result<Option<i64>, StoreError> {
    if Table::find(sql, "portcullis_version").await?.is_none() {
        return Ok(None);
    }
    let rows = sql.rows("SELECT value FROM portcullis_version WHERE id = ?", &[EPOCH.into()]).await?;
    Ok(rows.first().and_then(|row| number(row, 0)))
}

/// The version of the last change that the database holds.
pub async fn version(sql: &SqlStore) -> Result<i64, StoreError> {
    let rows = sql.rows("SELECT value FROM portcullis_version WHERE id = 1", &[]).await?;
    rows.first()
        .and_then(|row| number(row, 0))
        .ok_or_else(|| StoreError::Malformed("there is no version".to_owned()))
}

/// The table of the preset `token-blacklist`, where there is none.
async fn blacklist(sql: &SqlStore, preset: &TokenBlacklist) -> Result<(), StoreError> {
    if Table::find(sql, preset.table.as_str()).await?.is_some() {
        return Ok(());
    }
    let columns = &preset.columns;
    let (table, token, user) = (preset.table.as_str(), columns.token.as_str(), columns.user_id.as_str());
    let (expires, at) = (columns.expires_at.as_str(), columns.blacklisted_at.as_str());
    let statement = match sql.dialect() {
        Dialect::Sqlite => format!(
            "CREATE TABLE IF NOT EXISTS {table} ({token} TEXT NOT NULL PRIMARY KEY, {user} TEXT, \
             {expires} TIMESTAMP, {at} TIMESTAMP NOT NULL)"
        ),
        Dialect::Postgres => format!(
            "CREATE TABLE IF NOT EXISTS {table} ({token} TEXT NOT NULL PRIMARY KEY, {user} TEXT, \
             {expires} TIMESTAMPTZ, {at} TIMESTAMPTZ NOT NULL)"
        ),
        // No unique key can hold a whole token here; a long prefix tells tokens apart well enough to find them.
        Dialect::MySql => format!(
            "CREATE TABLE IF NOT EXISTS {table} ({token} MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
             {user} VARCHAR(255) CHARACTER SET utf8mb4, {expires} DATETIME(3), {at} DATETIME(3) NOT NULL, \
             KEY token_prefix ({token}(2048))) ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
        ),
    };
    match sql.execute(&statement, &[]).await {
        // Another gateway may have made it in the same instant (PostgreSQL's IF NOT EXISTS is not atomic).
        Err(error) if Table::find(sql, preset.table.as_str()).await?.is_none() => Err(error),
        _ => Ok(()),
    }
}
