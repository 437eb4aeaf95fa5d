//! `active-flag-cache`: `user:{sub}:active` = `true` or `false` for five minutes, before the column `is_active` of `users`.

use std::time::Duration;

use super::TableRows;
use super::flagged::{Flagged, is_down};
use super::{
    Condition, Guards, IfAbsent, Occasion, PresetContext, RedisQuestion, Rule, SqlName, SqlQuestion,
    SqlWrite, Standing, UnknownUser, UserLayout, literal, template,
};
use crate::ledger::change::Status;
use crate::ledger::redis::RedisWrite;
use crate::ledger::rule::{Flag, Spelling};
use crate::ledger::sql::Value;
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

    fn users<'a>(&self, context: &'a PresetContext) -> Option<Flagged<'a>> {
        Flagged::find(context, &self.table, &self.user_id, &self.is_active)
    }

    /// Whether `portcullis_users` stands in for a table of users that does not exist, or has not the columns.
    pub(in crate::ledger) fn stands_in(&self, context: &PresetContext) -> bool {
        self.users(context).is_none()
    }
}

impl UserLayout for ActiveFlagCache {
    /// A flag that is down is written, and renewed while the database says so; one that may be up is asked for.
    fn writes(&self, standing: &Standing, _context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        let key = format!("{}{}{}", self.prefix, standing.user.subject, self.suffix);
        let ttl = standing.until.map_or(self.ttl, |until| now.until(until).min(self.ttl));
        match self.flag().text(false) {
            Some(value) if is_down(standing) => vec![RedisWrite::Set { key, value, ttl: Some(ttl) }],
            _ if standing.status == Status::Active => vec![RedisWrite::Delete { key }],
            _ => Vec::new(),
        }
    }

    fn row_write(
        &self,
        standing: &Standing,
        occasion: Occasion,
        context: &PresetContext,
        _now: Timestamp,
    ) -> Result<Option<SqlWrite>, String> {
        self.users(context).map_or(Ok(None), |users| users.write(standing, occasion, self.unknown_user))
    }

    /// The record beside it does.
    fn carries_cut_off(&self, _context: &PresetContext) -> bool {
        false
    }

    fn row_query(&self, context: &PresetContext, subject: &str) -> Option<(String, Value)> {
        self.users(context)?.standing_query(subject)
    }

    fn denied_rows<'a>(&self, context: &'a PresetContext) -> Option<TableRows<'a>> {
        self.users(context).map(Flagged::denied)
    }

    /// A user without a row is refused: so whoever is banned has one.
    fn decides_alone(&self, context: &PresetContext) -> bool {
        self.unknown_user == UnknownUser::Deny && self.users(context).is_some()
    }

    fn ttl(&self, _context: &PresetContext) -> Duration {
        self.ttl
    }
}
