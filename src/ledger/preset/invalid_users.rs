//! `invalid-users`: Redis lists the users who are denied, as one key each or as one set; the table `users` has a status.
//!
//! Where the table does not exist, `portcullis_users` stands in for it.

use std::time::Duration;

use super::native::USER_QUERY;
use super::{
    Condition, Guards, IfAbsent, InvalidUsers, InvalidUsersLayout, KNOWN_TTL, Listing, Occasion,
    PresetContext, RedisQuestion, Rule, SqlQuestion, SqlWrite, Standing, TableRows, UnknownUser, UserLayout,
    Watched, listed, literal, template,
};
use crate::ledger::change::Status;
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::Value;
use crate::time::Timestamp;

/// Where we keep of a user what the layout of the services has no room for.
const STANDING: &str = "pc:standing:";

impl InvalidUsers {
    pub(super) fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        let query = self.query(context);
        let (key, deny_if) = match &self.layout {
            InvalidUsersLayout::Keys { prefix } => (
                format!("{}{{sub}}", literal(prefix)),
                Some(Condition::UserStatus {
                    status: self.columns.status.as_str().into(),
                    status_updated_at: self.columns.status_updated_at.as_str().into(),
                    last_security_action: self.columns.last_security_action.as_str().into(),
                }),
            ),
            InvalidUsersLayout::Set { key } => (literal(key), template("{sub}").map(Condition::Contains)),
            InvalidUsersLayout::SortedSet { key } => {
                (literal(key), template("{sub}").map(Condition::ContainsSorted))
            }
        };
        let theirs = template(&key).zip(deny_if).map(|(key, deny_if)| Rule {
            name: "invalid-users.user".into(),
            guards: Guards::User,
            redis: Some(RedisQuestion { key, deny_if, if_absent: IfAbsent::Allow }),
            sql: Some(SqlQuestion { query: query.clone(), deny_if: Condition::NativeUser }),
            reason: "user_banned".into(),
            status: 403,
            ttl: self.ttl(context),
        });
        // What their layout cannot say: from when on tokens pass again; and a ban for as long as it lasts, whatever their
        // TTL. The realm is part of the key where it is part of the question.
        let user = if self.users(context).is_some() { "{sub}" } else { "{user}" };
        let ours = listed(
            "invalid-users.standing",
            Guards::User,
            &format!("{STANDING}{user}"),
            Condition::NativeUser,
            (query, Condition::NativeUser),
            ("user_banned", 403),
        );
        [theirs, ours, self.known(context)].into_iter().flatten().collect()
    }

    /// Whether the user has a row at all.
    fn known(&self, context: &PresetContext) -> Option<Rule> {
        let table = self.users(context).filter(|_| self.unknown_user == UnknownUser::Deny)?;
        let id = table.column(self.columns.user_id.as_str())?;
        let query = format!(
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM {} WHERE {} = {}) THEN 'known' ELSE 'unknown' END AS state",
            table.name(),
            id.name,
            id.placeholder("sub"),
        );
        let deny_if = Condition::Equals(vec!["unknown".into()]);
        Some(Rule {
            name: "invalid-users.known".into(),
            guards: Guards::User,
            redis: Some(RedisQuestion {
                key: template("pc:known:{sub}")?,
                deny_if: deny_if.clone(),
                // That somebody is known is not on any deny list: it has to be asked, now and then.
                if_absent: IfAbsent::AskDatabase,
            }),
            sql: Some(SqlQuestion { query, deny_if }),
            reason: "user_unknown".into(),
            status: 403,
            ttl: KNOWN_TTL,
        })
    }

    /// The table, if it has what is needed.
    fn users<'a>(&self, context: &'a PresetContext) -> Option<&'a Table> {
        let complete = |table: &&Table| {
            [&self.columns.user_id, &self.columns.status]
                .iter()
                .all(|name| table.column(name.as_str()).is_some())
        };
        context.table(&self.table).filter(complete)
    }

    /// Whether `portcullis_users` stands in for a table of users that does not exist, or has not the columns.
    pub fn stands_in(&self, context: &PresetContext) -> bool {
        self.users(context).is_none()
    }

    /// The row of `users` in the words of `portcullis_users`. A status that is no known word denies, and so does a
    /// security action without an instant: what cannot be understood must not pass.
    fn query(&self, context: &PresetContext) -> String {
        let Some((table, id, status)) = self.users(context).and_then(|table| {
            let column = |name: &str| table.column(name);
            Some((table, column(self.columns.user_id.as_str())?, column(self.columns.status.as_str())?))
        }) else {
            return USER_QUERY.to_owned();
        };
        let not_before = table.column(self.columns.last_security_action.as_str()).map(Column::millis);
        let not_before = not_before.unwrap_or_else(|| "NULL".to_owned());
        let changed_at = table.column(self.columns.status_updated_at.as_str()).map(Column::millis);
        let changed_at = changed_at.unwrap_or_else(|| "NULL".to_owned());
        let (word, name) = (status.word(), table.name());
        format!(
            "SELECT CASE WHEN u.id IS NULL THEN 'active' WHEN u.word = 'security_action' AND u.not_before IS NULL \
             THEN 'banned' WHEN u.word IN ('active', 'banned', 'deactivated', 'deleted', 'security_action') THEN u.word \
             ELSE 'deactivated' END AS status, NULL AS reason, NULL AS until_at, u.not_before AS not_before, u.changed_at AS changed_at \
             FROM (SELECT 1 AS one) AS always LEFT JOIN (SELECT 1 AS id, {word} AS word, {not_before} AS not_before, \
             {changed_at} AS changed_at FROM {name} WHERE {} = {}) AS u ON 1 = 1",
            id.name,
            id.placeholder("sub"),
        )
    }
}

impl UserLayout for InvalidUsers {
    fn ttl(&self, context: &PresetContext) -> Duration {
        self.ttl.unwrap_or(context.refresh_lifetime)
    }

    /// What the services read. They know no cut-off: a mere logout is not told to them, or it would block the user.
    fn writes(&self, standing: &Standing, context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        let longest = self.ttl(context);
        let ttl = standing.until.map_or(longest, |until| now.until(until).min(longest));
        let denied = standing.status != Status::Active && !ttl.is_zero();
        let member = standing.user.subject.to_string();
        let listed = match (&self.layout, denied) {
            (InvalidUsersLayout::Keys { prefix }, true) => RedisWrite::Set {
                key: format!("{prefix}{member}"),
                value: standing.status.word().to_owned(),
                ttl: Some(ttl),
            },
            (InvalidUsersLayout::Keys { prefix }, false) => {
                RedisWrite::Delete { key: format!("{prefix}{member}") }
            }
            // A set has one TTL for all: none, and members leave when their user is activated.
            (InvalidUsersLayout::Set { key }, true) => {
                RedisWrite::AddMember { key: key.to_string(), member, score: None, ttl: None }
            }
            (InvalidUsersLayout::SortedSet { key }, true) => {
                let score = Some(now.plus(ttl).millis());
                RedisWrite::AddMember { key: key.to_string(), member, score, ttl: None }
            }
            (InvalidUsersLayout::Set { key }, false) => {
                RedisWrite::RemoveMember { key: key.to_string(), member, sorted: false }
            }
            (InvalidUsersLayout::SortedSet { key }, false) => {
                RedisWrite::RemoveMember { key: key.to_string(), member, sorted: true }
            }
        };
        let user = if self.users(context).is_some() {
            standing.user.subject.to_string()
        } else {
            standing.user.to_string()
        };
        vec![listed, standing.write(format!("{STANDING}{user}"), context, now)]
    }

    fn denied_rows<'a>(&self, context: &'a PresetContext) -> Option<TableRows<'a>> {
        let table = self.users(context)?;
        let column = |name: &super::SqlName| table.column(name.as_str());
        let (key, status) = (column(&self.columns.user_id)?, column(&self.columns.status)?.word());
        let cut_off = column(&self.columns.last_security_action);
        let not_before = cut_off.map_or_else(|| "NULL".to_owned(), Column::millis);
        let since = cut_off.map_or_else(String::new, |at| format!(" OR {} IS NOT NULL", at.name));
        Some(TableRows {
            table: table.name(),
            key,
            columns: format!("{status}, {not_before}"),
            wanted: format!("{status} IS NULL OR {status} <> 'active'{since}"),
            values: Vec::new(),
        })
    }

    fn listings(&self) -> Vec<Listing> {
        let theirs = match &self.layout {
            InvalidUsersLayout::Keys { prefix } => Listing::Keys { prefix: prefix.clone() },
            InvalidUsersLayout::Set { key } => Listing::Set { key: key.clone(), sorted: false },
            InvalidUsersLayout::SortedSet { key } => Listing::Set { key: key.clone(), sorted: true },
        };
        vec![theirs, Listing::Keys { prefix: STANDING.into() }]
    }

    /// A user without a row is refused: so whoever is banned has one.
    fn decides_alone(&self, context: &PresetContext) -> bool {
        self.unknown_user == UnknownUser::Deny && self.users(context).is_some()
    }

    /// A logout sets the instant and leaves the status. A status
    /// that has ended is only replaced where it still stands: the service may have written another one since.
    fn row_write(
        &self,
        standing: &Standing,
        occasion: Occasion,
        context: &PresetContext,
        now: Timestamp,
    ) -> Result<Option<SqlWrite>, String> {
        let Some(table) = self.users(context) else { return Ok(None) };
        let column = |name: &super::SqlName| table.column(name.as_str());
        let ended = match occasion {
            Occasion::Lift(ended) => Some(ended),
            Occasion::Status | Occasion::Logout => None,
        };
        let must_match = self.unknown_user == UnknownUser::Deny && ended.is_none();
        let logout = occasion == Occasion::Logout;
        let Some(id) = column(&self.columns.user_id) else { return Ok(None) };
        let Some(subject) = id.cast().value(&standing.user.subject) else {
            return Err(format!("the column {} holds no such id", id.name));
        };
        let mut sets: Vec<(String, Value)> = Vec::new();
        if let Some(status) = column(&self.columns.status).filter(|_| !logout) {
            sets.push((format!("{} = {}", status.name, status.slot()), standing.status.word().into()));
            if let Some(at) = column(&self.columns.status_updated_at) {
                sets.push((format!("{} = {}", at.name, at.slot()), at.instant(now)));
            }
        }
        if let Some(at) = column(&self.columns.last_security_action)
            && (logout || standing.status == Status::SecurityAction)
        {
            sets.push((format!("{} = {}", at.name, at.slot()), at.instant(now)));
        }
        if sets.is_empty() {
            return Ok(None);
        }
        let (sets, mut values): (Vec<String>, Vec<Value>) = sets.into_iter().unzip();
        values.push(subject);
        let mut sql = format!("UPDATE {} SET {} WHERE {} = ?", table.name(), sets.join(", "), id.name);
        if let Some((ended, status)) = ended.zip(column(&self.columns.status)) {
            sql.push_str(&format!(" AND {} = ?", status.word()));
            values.push(ended.word().into());
        }
        Ok(Some(SqlWrite { sql, values, must_match }))
    }

    /// The table can carry it, or ours stands in.
    fn carries_cut_off(&self, context: &PresetContext) -> bool {
        self.users(context)
            .is_none_or(|table| table.column(self.columns.last_security_action.as_str()).is_some())
    }

    fn watched<'a>(&self, context: &'a PresetContext) -> Option<Watched<'a>> {
        let table = self.users(context)?;
        let column = |name: &super::SqlName| table.column(name.as_str());
        let columns = [&self.columns.status, &self.columns.last_security_action];
        Some(Watched {
            table,
            id: column(&self.columns.user_id)?,
            columns: columns.into_iter().filter_map(column).collect(),
            changed_at: column(&self.columns.status_updated_at),
        })
    }

    fn row_query(&self, context: &PresetContext, subject: &str) -> Option<(String, Value)> {
        let table = self.users(context)?;
        let (id, status) =
            (table.column(self.columns.user_id.as_str())?, table.column(self.columns.status.as_str())?);
        let cut_off = table.column(self.columns.last_security_action.as_str()).map(Column::millis);
        let cut_off = cut_off.unwrap_or_else(|| "NULL".to_owned());
        let (word, name) = (status.word(), table.name());
        let sql =
            format!("SELECT {word} AS status, {cut_off} AS not_before FROM {name} WHERE {} = ?", id.name);
        Some((sql, id.cast().value(subject)?))
    }
}
