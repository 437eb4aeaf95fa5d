//! Tables of tokens, as the presets that read and write them need them, where a service has none.

use crate::ledger::preset::{RefreshTokens, SessionStore};
use crate::ledger::schema::Table;
use crate::ledger::sql::{Dialect, SqlStore};
use crate::ledger::store::StoreError;

/// The refresh tokens of the preset `token-blacklist`.
pub async fn refresh_tokens(sql: &SqlStore, preset: &RefreshTokens) -> Result<(), StoreError> {
    let RefreshTokens { table, token, user_id, expires_at, is_revoked, prefix: _ } = preset;
    let columns = [token, user_id, expires_at, is_revoked].map(|name| name.as_str());
    make(sql, table.as_str(), columns, "false").await
}

/// The sessions of the preset `session-store`.
pub async fn sessions(sql: &SqlStore, preset: &SessionStore) -> Result<(), StoreError> {
    let columns = &preset.columns;
    let columns = [&columns.token, &columns.user_id, &columns.expires_at, &columns.is_active];
    make(sql, preset.table.as_str(), columns.map(|name| name.as_str()), "true").await
}

/// A token, whose it is, its end, and a flag.
async fn make(
    sql: &SqlStore,
    table: &str,
    [token, user, expires, flag]: [&str; 4],
    default: &str,
) -> Result<(), StoreError> {
    if Table::find(sql, table).await?.is_some() {
        return Ok(());
    }
    let index = format!("{}_{user}", table.rsplit('.').next().unwrap_or(table));
    let mut statements = match sql.dialect() {
        Dialect::Sqlite => vec![format!(
            "CREATE TABLE IF NOT EXISTS {table} ({token} TEXT NOT NULL PRIMARY KEY, {user} TEXT NOT NULL, \
             {expires} TIMESTAMP, {flag} BOOLEAN NOT NULL DEFAULT {default})"
        )],
        Dialect::Postgres => vec![format!(
            "CREATE TABLE IF NOT EXISTS {table} ({token} TEXT NOT NULL PRIMARY KEY, {user} TEXT NOT NULL, \
             {expires} TIMESTAMPTZ, {flag} BOOLEAN NOT NULL DEFAULT {default})"
        )],
        // No unique key can hold a whole token here; a long prefix tells tokens apart well enough to find them.
        Dialect::MySql => vec![format!(
            "CREATE TABLE IF NOT EXISTS {table} ({token} MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
             {user} VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL, {expires} DATETIME(3), \
             {flag} BOOLEAN NOT NULL DEFAULT {default}, KEY token_prefix ({token}(2048)), KEY {index} ({user})) \
             ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
        )],
    };
    if sql.dialect() != Dialect::MySql {
        statements.push(format!("CREATE INDEX IF NOT EXISTS {index} ON {table} ({user})"));
    }
    for statement in statements {
        match sql.execute(&statement, &[]).await {
            // Another gateway may have made it in the same instant (PostgreSQL's IF NOT EXISTS is not atomic).
            Err(error) if Table::find(sql, table).await?.is_none() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
