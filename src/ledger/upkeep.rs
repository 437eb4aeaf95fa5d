//! What must happen although nobody asks: bans end when their time has come.

use super::change::{Change, ChangeError};
use super::redis::RedisStore;
use super::schema::text;
use super::store::StoreError;
use super::write::Writer;
use crate::claims::User;
use crate::time::Timestamp;

/// Users dealt with in one go.
const BATCH: usize = 200;

/// Makes users active again whose `until` has passed. Two gateways may do it at once: the second finds nothing to do.
pub async fn lift(writer: &Writer, redis: Option<&RedisStore>, now: Timestamp) -> Result<(), ChangeError> {
    let unavailable = |error: StoreError| ChangeError::Unavailable(Box::new(error));
    // Binary columns of MySQL are cast to be read as text.
    let sql = format!(
        "SELECT {}, {} FROM portcullis_users WHERE until_at <= ? AND status <> 'active' LIMIT {BATCH}",
        readable(writer, "realm"),
        readable(writer, "subject"),
    );
    let rows = writer.sql.rows(&sql, &[now.millis().into()]).await.map_err(unavailable)?;
    for (realm, subject) in rows.iter().filter_map(|row| Some((text(row, 0)?, text(row, 1)?))) {
        let user = User { realm: realm.into(), subject: subject.into() };
        match writer.apply(redis, &Change::Lift { user }, now).await {
            // Unknown: gone from the services' own table. That must not keep the others waiting.
            Ok(_) | Err(ChangeError::UnknownUser) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn readable(writer: &Writer, column: &str) -> String {
    match writer.sql.dialect() {
        super::sql::Dialect::MySql => format!("CONVERT({column} USING utf8mb4)"),
        _ => column.to_owned(),
    }
}
