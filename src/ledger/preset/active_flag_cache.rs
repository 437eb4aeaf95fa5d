//! `active-flag-cache`: `user:{sub}:active` = `true` or `false` for five minutes, before the column `is_active` of `users`.

use std::time::Duration;

use super::flagged::{FlagLayout, Flagged, is_down};
use super::{
    Condition, Guards, IfAbsent, PresetContext, RedisQuestion, Rule, SqlName, SqlQuestion, Standing,
    UnknownUser, literal, template,
};
use crate::ledger::change::Status;
use crate::ledger::redis::RedisWrite;
use crate::ledger::rule::{Flag, Spelling};
use crate::time::Timestamp;

/// A flag for each user who was asked about lately. Absence asks the database.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveFlagCache {
    /// Before the user in the key, and behind: `user:` and `:active`.
    pub prefix: Box<str>,
    pub suffix: Box<str>,
    /// How long an answer is kept.
    pub ttl: Duration,
    /// How the flag is written.
    pub encoding: Spelling,
    pub table: SqlName,
    pub user_id: SqlName,
    pub is_active: SqlName,
    /// Whether a user without a row in the table is refused (`user_unknown`, the default) or passes.
    pub unknown_user: UnknownUser,
}

impl ActiveFlagCache {
    pub(super) fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        let flag = Condition::Flag(self.flag());
        let query = self.users(context).map_or_else(Flagged::stand_in, |users| users.query(&[]));
        let key = format!("{}{{sub}}{}", literal(&self.prefix), literal(&self.suffix));
        let rule = template(&key).map(|key| Rule {
            name: "active-flag-cache.user".into(),
            guards: Guards::User,
            redis: Some(RedisQuestion { key, deny_if: flag.clone(), if_absent: IfAbsent::AskDatabase }),
            sql: Some(SqlQuestion { query, deny_if: flag }),
            reason: "user_deactivated".into(),
            status: 403,
            ttl: self.ttl,
        });
        rule.into_iter().collect()
    }

    fn flag(&self) -> Flag {
        Flag {
            member: self.is_active.as_str().into(),
            spelling: self.encoding,
            whole: None,
            unknown_denied: self.unknown_user == UnknownUser::Deny,
        }
    }

    /// Whether `portcullis_users` stands in for a table of users that does not exist, or has not the columns.
    pub(in crate::ledger) fn stands_in(&self, context: &PresetContext) -> bool {
        self.users(context).is_none()
    }
}

impl FlagLayout for ActiveFlagCache {
    fn users<'a>(&self, context: &'a PresetContext) -> Option<Flagged<'a>> {
        Flagged::find(context, &self.table, &self.user_id, &self.is_active)
    }

    fn unknown_user(&self) -> UnknownUser {
        self.unknown_user
    }

    fn life(&self, _context: &PresetContext) -> Duration {
        self.ttl
    }

    /// A flag that is down is written, and renewed while the database says so; one that may be up is asked for.
    fn keys(&self, standing: &Standing, now: Timestamp) -> Vec<RedisWrite> {
        let key = format!("{}{}{}", self.prefix, standing.user.subject, self.suffix);
        let ttl = standing.until.map_or(self.ttl, |until| now.until(until).min(self.ttl));
        match self.flag().text(false) {
            Some(value) if is_down(standing) => vec![RedisWrite::Set { key, value, ttl: Some(ttl) }],
            _ if standing.status == Status::Active => vec![RedisWrite::Delete { key }],
            _ => Vec::new(),
        }
    }
}
