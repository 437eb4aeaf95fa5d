//! `user-cache`: `user:id:{sub}` = the user's row as JSON for five minutes, and keys that lead to the id: `user:email:…`,
//! `user:username:…`, `user:phone:…`. Behind them the table `users`.

use std::time::Duration;

use super::flagged::{FlagLayout, Flagged};
use super::{
    Condition, Guards, IfAbsent, PresetContext, RedisQuestion, Rule, SqlName, SqlQuestion, Standing,
    UnknownUser, literal, template,
};
use crate::ledger::change::Status;
use crate::ledger::profile::is_secret;
use crate::ledger::redis::RedisWrite;
use crate::ledger::rule::{Flag, Spelling};
use crate::ledger::schema::Column;
use crate::ledger::sql::Cast;
use crate::time::Timestamp;

/// Users as services cache them.
#[derive(Clone, Debug, PartialEq)]
pub struct UserCache {
    pub prefixes: UserPrefixes,
    /// How long an answer is kept.
    pub ttl: Duration,
    /// As what a subject that is no id is looked up, in this order.
    pub aliases: Vec<AliasKind>,
    /// The columns that are cached, besides those below; `None`: all but secrets.
    pub profile: Option<Vec<SqlName>>,
    pub table: SqlName,
    pub columns: UserColumns,
    /// Whether a user without a row in the table is refused (`user_unknown`, the default) or passes.
    pub unknown_user: UnknownUser,
}

/// What a subject can be besides an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasKind {
    Email,
    Username,
    Phone,
}

/// Before the id, and before each kind of alias.
#[derive(Clone, Debug, PartialEq)]
pub struct UserPrefixes {
    pub id: Box<str>,
    pub email: Box<str>,
    pub username: Box<str>,
    pub phone: Box<str>,
}

/// The columns of `users`.
#[derive(Clone, Debug, PartialEq)]
pub struct UserColumns {
    pub id: SqlName,
    pub email: SqlName,
    pub username: SqlName,
    pub phone_number: SqlName,
    pub is_active: SqlName,
}

/// How subjects become ids.
pub(in crate::ledger) struct AliasRules {
    /// As what an id is bound.
    pub id: Cast,
    /// Asks whether `{alias}` is the id of a user.
    pub known: String,
    pub unknown_denied: bool,
    pub kinds: Vec<AliasRule>,
}

/// One kind of alias.
pub(in crate::ledger) struct AliasRule {
    pub kind: AliasKind,
    /// Asks whether `{alias}` still leads to `{sub}`.
    pub rule: Rule,
    /// Asks for the id that `{alias}` leads to, and how many there are.
    pub find: String,
}

impl UserCache {
    pub(super) fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        let users = self.users(context);
        let query = users.map_or_else(Flagged::stand_in, |users| {
            let told = users.table.columns().filter(|column| {
                let mut names = context.profile.iter();
                self.is_kept(column) && names.any(|name| name.eq_ignore_ascii_case(column.bare()))
            });
            users.query(&told.collect::<Vec<_>>())
        });
        let whole = users.map(|users| {
            users.query(&users.table.columns().filter(|column| self.is_kept(column)).collect::<Vec<_>>())
        });
        let flag = Condition::Flag(Flag {
            member: self.columns.is_active.as_str().into(),
            spelling: Spelling::Row,
            whole: whole.map(Into::into),
            unknown_denied: self.unknown_user == UnknownUser::Deny,
        });
        let rule = template(&format!("{}{{sub}}", literal(&self.prefixes.id))).map(|key| Rule {
            name: "user-cache.user".into(),
            guards: Guards::User,
            redis: Some(RedisQuestion { key, deny_if: flag.clone(), if_absent: IfAbsent::AskDatabase }),
            sql: Some(SqlQuestion { query, deny_if: flag }),
            reason: "user_deactivated".into(),
            status: 403,
            ttl: self.ttl,
        });
        rule.into_iter().collect()
    }

    /// Whether a column is read at all: what is never read cannot get anywhere.
    fn is_kept(&self, column: &Column) -> bool {
        let UserColumns { id, email, username, phone_number, is_active } = &self.columns;
        let known = [id, email, username, phone_number, is_active];
        let is = |name: &SqlName| name.as_str().eq_ignore_ascii_case(column.bare());
        let chosen = self.profile.as_ref().is_none_or(|chosen| chosen.iter().any(is));
        !is_secret(column.bare()) && (chosen || known.into_iter().any(is))
    }

    /// Whether `portcullis_users` stands in for a table of users that does not exist, or has not the columns.
    pub(in crate::ledger) fn stands_in(&self, context: &PresetContext) -> bool {
        self.users(context).is_none()
    }

    /// The kinds of alias for which the table has a column.
    pub(in crate::ledger) fn alias_rules(&self, context: &PresetContext) -> Option<AliasRules> {
        let users = self.users(context)?;
        let kinds = self.aliases.iter().filter_map(|kind| self.alias_rule(*kind, users)).collect();
        let unknown_denied = self.unknown_user == UnknownUser::Deny;
        let known = format!(
            "SELECT 1 AS one FROM {} WHERE {} = {}",
            users.table.name(),
            users.id.name,
            users.id.placeholder("alias")
        );
        Some(AliasRules { id: users.id.cast(), known, unknown_denied, kinds })
    }

    fn alias_rule(&self, kind: AliasKind, users: Flagged<'_>) -> Option<AliasRule> {
        let (prefix, column, name) = match kind {
            AliasKind::Email => (&self.prefixes.email, &self.columns.email, "user-cache.email"),
            AliasKind::Username => (&self.prefixes.username, &self.columns.username, "user-cache.username"),
            AliasKind::Phone => (&self.prefixes.phone, &self.columns.phone_number, "user-cache.phone"),
        };
        let column = users.table.column(column.as_str())?;
        let (table, id, alias) = (users.table.name(), &users.id.name, &column.name);
        let (text, place) = (users.id.readable(), column.placeholder("alias"));
        let leads = format!(
            "SELECT {text} AS id FROM {table} WHERE {alias} = {place} AND {id} = {}",
            users.id.placeholder("sub")
        );
        let find = format!(
            "SELECT {text} AS id, (SELECT COUNT(*) FROM {table} WHERE {alias} = {place}) AS hits FROM {table} \
             WHERE {alias} = {place}"
        );
        let key = template(&format!("{}{{alias}}", literal(prefix)))?;
        let rule = Rule {
            name: name.into(),
            guards: Guards::User,
            redis: Some(RedisQuestion { key, deny_if: Condition::Leads, if_absent: IfAbsent::AskDatabase }),
            sql: Some(SqlQuestion { query: leads, deny_if: Condition::Leads }),
            reason: "user_unknown".into(),
            status: 403,
            ttl: self.ttl,
        };
        Some(AliasRule { kind, rule, find })
    }
}

impl FlagLayout for UserCache {
    fn users<'a>(&self, context: &'a PresetContext) -> Option<Flagged<'a>> {
        Flagged::find(context, &self.table, &self.columns.id, &self.columns.is_active)
    }

    fn unknown_user(&self) -> UnknownUser {
        self.unknown_user
    }

    /// Its keys are taken away only, which needs no renewal.
    fn life(&self, context: &PresetContext) -> Duration {
        context.refresh_lifetime
    }

    /// The row is not known here: its services, and the gateway, read it anew. A security action concerns tokens alone.
    fn keys(&self, standing: &Standing, _now: Timestamp) -> Vec<RedisWrite> {
        match standing.status {
            Status::SecurityAction => Vec::new(),
            _ => vec![RedisWrite::Delete { key: format!("{}{}", self.prefixes.id, standing.user.subject) }],
        }
    }
}
