//! The rows of Portcullis's own tables that a change reads and writes.

use crate::claims::User;
use crate::ledger::change::Status;
use crate::ledger::preset::{Native, PresetContext};
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::text;
use crate::ledger::sql::{Dialect, Transaction};
use crate::ledger::store::StoreError;
use crate::time::Timestamp;

/// A token's row in `portcullis_tokens`.
pub struct Revoked<'a> {
    pub kind: &'static str,
    pub id: &'a str,
    pub user: Option<&'a User>,
    pub expires_at: Option<Timestamp>,
}

impl Revoked<'_> {
    pub async fn write(
        &self,
        open: &mut Transaction,
        version: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let columns = ["kind", "id", "realm", "subject", "expires_at", "revoked_at", "version"];
        let values = [
            self.kind.into(),
            self.id.into(),
            self.user.map(|user| &*user.realm).into(),
            self.user.map(|user| &*user.subject).into(),
            self.expires_at.map(Timestamp::millis).into(),
            now.millis().into(),
            version.into(),
        ];
        let sql = upsert(open.dialect(), "portcullis_tokens", &columns, 2);
        open.execute(&sql, &values).await.map(|_| ())
    }

    pub fn redis(&self, native: &Native, context: &PresetContext, now: Timestamp) -> RedisWrite {
        let kind = if self.kind == "jti" { "jti" } else { "token" };
        let ttl = self.expires_at.map(|end| now.until(end.plus(context.leeway)));
        native.revoked_write(&format!("{kind}:{}", self.id), ttl)
    }
}

/// The status of a user whose `until` has passed; `None` where there is nothing to lift.
pub async fn ended(
    open: &mut Transaction,
    user: &User,
    now: Timestamp,
) -> Result<Option<Status>, StoreError> {
    let sql = "SELECT status FROM portcullis_users \
               WHERE realm = ? AND subject = ? AND until_at <= ? AND status <> 'active'";
    let values = [(&*user.realm).into(), (&*user.subject).into(), now.millis().into()];
    let rows = open.rows(sql, &values).await?;
    Ok(rows.first().and_then(|row| text(row, 0)).and_then(|word| Status::of(&word)))
}

/// A version that was drawn for a change, and the one of the change before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    pub version: i64,
    pub predecessor: i64,
}

/// Versions rise strictly: the row's lock is held until the commit, so that their order is the order of commits, and
/// whoever sees one committed sees all before it. They also follow the database's clock, so that a database restored
/// from a backup does not fall behind Redis.
pub async fn next_version(open: &mut Transaction, now: Timestamp) -> Result<Drawn, StoreError> {
    let lock = match open.dialect() {
        Dialect::Sqlite => "SELECT value FROM portcullis_version WHERE id = 1",
        Dialect::Postgres | Dialect::MySql => "SELECT value FROM portcullis_version WHERE id = 1 FOR UPDATE",
    };
    let predecessor = open.number(lock, &[]).await?;
    let version = now.millis().max(predecessor.saturating_add(1));
    open.execute("UPDATE portcullis_version SET value = ? WHERE id = 1", &[version.into()]).await?;
    Ok(Drawn { version, predecessor })
}

/// Inserts a row, or replaces what is not its key: the first `keys` columns.
pub fn upsert(dialect: Dialect, table: &str, columns: &[&str], keys: usize) -> String {
    let (key, rest) = columns.split_at(keys.min(columns.len()));
    let slots = vec!["?"; columns.len()].join(", ");
    let set = |column: &&str| match dialect {
        Dialect::MySql => format!("{column} = VALUES({column})"),
        Dialect::Sqlite | Dialect::Postgres => format!("{column} = excluded.{column}"),
    };
    let sets = rest.iter().map(set).collect::<Vec<_>>().join(", ");
    let conflict = match dialect {
        Dialect::MySql => "ON DUPLICATE KEY UPDATE".to_owned(),
        Dialect::Sqlite | Dialect::Postgres => format!("ON CONFLICT ({}) DO UPDATE SET", key.join(", ")),
    };
    format!("INSERT INTO {table} ({}) VALUES ({slots}) {conflict} {sets}", columns.join(", "))
}
