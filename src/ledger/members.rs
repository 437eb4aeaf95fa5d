//! A live session that the database knows goes back into the set from which it was missing.

use super::condition::{Finding, Moment};
use super::database::Database;
use super::questions::{Bound, Compiled};
use super::redis::RedisStore;
use super::sql::{Row, Statement};
use crate::time::Timestamp;

/// A member that is to be kept, and what has to be known of it.
pub(super) struct Member<'a> {
    pub key: &'a str,
    pub member: &'a str,
    pub issued_at: Option<Timestamp>,
    /// When the token itself ends.
    pub ends: Option<Timestamp>,
}

/// Asks the database once more, after the versions were read: an answer from before a change must not be kept after it.
pub(super) async fn keep(
    redis: &RedisStore,
    database: &Database,
    rule: &Compiled,
    (statement, bound): (&Statement, &Bound),
    member: Member<'_>,
) {
    let Some(sql) = &rule.rule.sql else { return };
    let Ok(seen) = redis.member_version(member.key, member.member).await else { return };
    let Ok(row) = database.query(statement, bound).await else { return };
    let at = Moment { issued_at: member.issued_at, now: Timestamp::now() };
    if sql.deny_if.of_row(row.as_deref(), at) != Ok(Finding::Clear) {
        return;
    }
    // The set would say so for longer than the row does.
    let kept_until = at.now.plus(rule.rule.ttl);
    let needed_until = member.ends.map_or(kept_until, |ends| ends.min(kept_until));
    if row.as_deref().and_then(end_of).is_some_and(|end| end < needed_until) {
        return;
    }
    if let Err(error) = redis.write_back_member(member.key, member.member, rule.rule.ttl, &seen).await {
        tracing::debug!(ledger.rule = %rule.rule.name, %error, "Answer not kept in Redis");
    }
}

fn end_of(row: &Row) -> Option<Timestamp> {
    let (_, end) = row.iter().find(|(column, _)| column == "expires_at")?;
    end.as_i64().map(Timestamp::from_millis)
}
