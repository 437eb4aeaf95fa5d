//! What must happen although nobody asks: bans end when their time has come, and keys with a prescribed TTL are renewed
//! while the database says banned.

use std::time::Duration;

use super::change::{Change, ChangeError, Status};
use super::preset::Standing;
use super::redis::RedisStore;
use super::schema::{number, text};
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
        writer.readable("realm"),
        writer.readable("subject"),
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

/// Writes the keys of denied users again whose TTL is half over. The version is the old one: a newer change, however it
/// races with this, stands. Returns how many.
pub async fn renew(writer: &Writer, redis: &RedisStore, now: Timestamp) -> Result<usize, StoreError> {
    let context = &writer.context;
    let shortest = writer.users().map(|preset| preset.ttl(context)).min();
    let half = shortest.unwrap_or(context.refresh_lifetime).min(context.refresh_lifetime) / 2;
    let due =
        now.millis().saturating_sub(i64::try_from(half.max(Duration::from_secs(1)).as_millis()).unwrap_or(0));
    let sql = format!(
        "SELECT {}, {}, status, reason, until_at, not_before, version FROM portcullis_users \
         WHERE status IN ('banned', 'deactivated', 'deleted', 'security_action') AND renewed_at < ? LIMIT {BATCH}",
        writer.readable("realm"),
        writer.readable("subject"),
    );
    let rows = writer.sql.rows(&sql, &[due.into()]).await?;
    let standings = rows.iter().filter_map(|row| {
        Some(Standing {
            user: User { realm: text(row, 0)?.into(), subject: text(row, 1)?.into() },
            status: Status::of(&text(row, 2)?)?,
            reason: text(row, 3),
            until: number(row, 4).map(Timestamp::from_millis),
            not_before: number(row, 5).map(Timestamp::from_millis),
            version: number(row, 6)?,
        })
    });
    let mut renewed = 0;
    for standing in standings.filter(|standing| standing.until.is_none_or(|until| until > now)) {
        redis.write(&writer.renewals(&standing, now).await?, standing.version, true).await?;
        let sql =
            "UPDATE portcullis_users SET renewed_at = ? WHERE realm = ? AND subject = ? AND version = ?";
        let user = &standing.user;
        let values =
            [now.millis().into(), (&*user.realm).into(), (&*user.subject).into(), standing.version.into()];
        writer.sql.execute(sql, &values).await?;
        renewed += 1;
    }
    Ok(renewed)
}
