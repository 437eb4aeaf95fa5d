//! `session-store`: a set of tokens for each user, which must hold the token that is presented; the table `sessions` behind it.
//!
//! Absence from the set proves nothing: the table is asked, and a live row's token is put back. `session:{sub}` and
//! `user:profile:{sub}` are the services' own notes: they are written and deleted with the rest, and nobody is denied for them.

use std::time::Duration;

use super::rows::Insert;
use super::track::{SessionLayout, TrackedToken};
use super::{
    Condition, Guards, IfAbsent, Occasion, PresetContext, RedisQuestion, RevokedToken, Rule, SqlName,
    SqlQuestion, SqlWrite, Standing, TableRows, TokenLayout, UserLayout, blacklisted, literal, remaining,
    template,
};
use crate::ledger::change::{Status, TokenKind};
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::Value;
use crate::time::Timestamp;

/// Who is logged in, token by token.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionStore {
    /// `user:tokens:`, `session:`, `blacklist:` and `user:profile:`.
    pub tokens: Box<str>,
    pub session: Box<str>,
    pub blacklist: Box<str>,
    pub profile: Box<str>,
    /// How long a set and a session live: 24 hours.
    pub ttl: Duration,
    pub table: SqlName,
    pub columns: SessionColumns,
}

/// The columns of `sessions`.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionColumns {
    pub token: SqlName,
    pub user_id: SqlName,
    pub expires_at: SqlName,
    pub is_active: SqlName,
}

/// The table with the columns it needs, and those it may have.
struct Sessions<'a> {
    table: &'a Table,
    token: &'a Column,
    user: &'a Column,
    expires: Option<&'a Column>,
    active: Option<&'a Column>,
}

impl Sessions<'_> {
    /// Whether a row is active, as SQL.
    fn truth(&self) -> String {
        self.active.map_or_else(|| "1".to_owned(), Column::truth)
    }

    fn end(&self) -> String {
        self.expires.map_or_else(|| "NULL".to_owned(), Column::millis)
    }

    /// The statement that ends the rows where this column has this value. Rows that cannot say so are deleted.
    fn ends(&self, column: &Column, value: Value) -> SqlWrite {
        let (table, name) = (self.table.name(), &column.name);
        let (sql, values) = match self.active {
            Some(active) => (
                format!("UPDATE {table} SET {} = {} WHERE {name} = ?", active.name, active.slot()),
                vec![active.flag(false), value],
            ),
            None => (format!("DELETE FROM {table} WHERE {name} = ?"), vec![value]),
        };
        SqlWrite { sql, values, must_match: false }
    }
}

impl SessionStore {
    pub(super) fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        let rule = |name: &str, guards, key: String, deny_if: Condition, sql, reason: &str| {
            let if_absent = if deny_if.presence_allows() { IfAbsent::AskDatabase } else { IfAbsent::Allow };
            Some(Rule {
                name: name.into(),
                guards,
                redis: Some(RedisQuestion { key: template(&key)?, deny_if, if_absent }),
                sql,
                reason: reason.into(),
                status: 401,
                ttl: self.ttl,
            })
        };
        let held = template("{token}").and_then(|member| {
            let key = format!("{}{{sub}}", literal(&self.tokens));
            let sql = SqlQuestion { query: self.live(context), deny_if: Condition::LiveSession };
            rule(
                "session-store.token",
                Guards::Token,
                key,
                Condition::Lacks(member),
                Some(sql),
                "session_revoked",
            )
        });
        let ended = self.sessions(context).map(|it| {
            let query = format!(
                "SELECT {} AS active FROM {} WHERE {} = {{token}} ORDER BY 1 DESC",
                it.truth(),
                it.table.name(),
                it.token.name
            );
            SqlQuestion { query, deny_if: Condition::Equals(vec![false.into()]) }
        });
        let key = format!("{}{{token}}", literal(&self.blacklist));
        let listed =
            rule("session-store.blacklist", Guards::Token, key, Condition::Exists, ended, "token_revoked");
        let key = format!("{}{{sub}}", literal(&self.profile));
        let profile =
            rule("session-store.profile", Guards::Session, key, Condition::Profile, None, "profile");
        // The session's word before the list's: both are the same row where Redis is not asked.
        [held, listed, profile].into_iter().flatten().collect()
    }

    /// The session of a token and its user. Without the table it is asked for as documented, so that its absence is an
    /// outage and not a pass.
    fn live(&self, context: &PresetContext) -> String {
        match self.sessions(context) {
            Some(it) => format!(
                "SELECT {} AS active, {} AS expires_at FROM {} WHERE {} = {{token}} AND {} = {} ORDER BY 1 DESC",
                it.truth(),
                it.end(),
                it.table.name(),
                it.token.name,
                it.user.name,
                it.user.placeholder("sub"),
            ),
            None => {
                let SessionColumns { token, user_id, expires_at, is_active } = &self.columns;
                format!(
                    "SELECT {} AS active, {} AS expires_at FROM {} WHERE {} = {{token}} AND {} = {{sub}}",
                    is_active.as_str(),
                    expires_at.as_str(),
                    self.table.as_str(),
                    token.as_str(),
                    user_id.as_str()
                )
            }
        }
    }

    fn sessions<'a>(&self, context: &'a PresetContext) -> Option<Sessions<'a>> {
        let table = context.table(&self.table)?;
        let SessionColumns { token, user_id, expires_at, is_active } = &self.columns;
        Some(Sessions {
            table,
            token: table.column(token.as_str())?,
            user: table.column(user_id.as_str())?,
            expires: table.column(expires_at.as_str()),
            active: table.column(is_active.as_str()),
        })
    }
}

impl UserLayout for SessionStore {
    /// A cut-off that is made now ends every session. A ban does not: its sessions are there again when it is lifted, and
    /// until then the record, or another layout, denies.
    fn writes(&self, standing: &Standing, _context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        let subject = &standing.user.subject;
        let profile = RedisWrite::Delete { key: format!("{}{subject}", self.profile) };
        if standing.not_before != Some(now) {
            return vec![profile];
        }
        let ended = [&self.tokens, &self.session].map(|prefix| format!("{prefix}{subject}"));
        ended.into_iter().map(|key| RedisWrite::Delete { key }).chain([profile]).collect()
    }

    fn row_write(
        &self,
        standing: &Standing,
        occasion: Occasion,
        context: &PresetContext,
        _now: Timestamp,
    ) -> Result<Option<SqlWrite>, String> {
        let ends = match occasion {
            Occasion::Logout => true,
            Occasion::Status => standing.status == Status::SecurityAction,
            Occasion::Lift(_) => false,
        };
        let Some(sessions) = self.sessions(context).filter(|_| ends) else { return Ok(None) };
        let id = sessions.user.cast().value(&standing.user.subject);
        Ok(id.map(|id| sessions.ends(sessions.user, id)))
    }

    /// It ends the sessions; the record beside it says since when.
    fn carries_cut_off(&self, _context: &PresetContext) -> bool {
        false
    }
}

impl TokenLayout for SessionStore {
    fn sets(&self) -> Option<&str> {
        Some(&self.tokens)
    }

    fn writes(&self, token: &RevokedToken<'_>, context: &PresetContext) -> Vec<RedisWrite> {
        let member = |subject: &str| RedisWrite::RemoveMember {
            key: format!("{}{subject}", self.tokens),
            member: token.compact.to_owned(),
            sorted: false,
        };
        let ttl = remaining(token.expires_at.map(|end| end.plus(context.leeway)), token.at);
        let key = format!("{}{}", self.blacklist, token.compact);
        let listed = RedisWrite::Set { key, value: blacklisted(token), ttl };
        [listed].into_iter().chain(token.subject.map(member)).collect()
    }

    /// Rows that were ended before their time.
    fn revoked_rows<'a>(&self, context: &'a PresetContext, now: Timestamp) -> Option<TableRows<'a>> {
        let sessions = self.sessions(context)?;
        let active = sessions.active?.truth();
        let columns = format!("{}, {}, NULL", sessions.user.readable(), sessions.end());
        let (wanted, values) = match sessions.expires {
            Some(end) => {
                // The table's clock may be another zone's: a day more does no harm.
                let since = Timestamp::from_millis(now.millis() - 86_400_000);
                let wanted = format!("{active} = 0 AND ({0} IS NULL OR {0} > {1})", end.name, end.slot());
                (wanted, vec![end.instant(since)])
            }
            None => (format!("{active} = 0"), Vec::new()),
        };
        Some(TableRows { table: sessions.table.name(), key: sessions.token, columns, wanted, values })
    }

    fn row_write(
        &self,
        token: &RevokedToken<'_>,
        context: &PresetContext,
    ) -> Result<Option<SqlWrite>, String> {
        Ok(self.sessions(context).map(|it| it.ends(it.token, token.compact.into())))
    }
}

/// Access tokens: the others are no sessions here.
impl SessionLayout for SessionStore {
    /// As services do at a login: `SADD`, the session, the row.
    fn tracked_writes(&self, login: &TrackedToken<'_>, _context: &PresetContext) -> Vec<RedisWrite> {
        if login.kind != TokenKind::Access {
            return Vec::new();
        }
        let (subject, compact) = (&login.user.subject, login.compact.to_owned());
        let session = serde_json::json!({
            "userId": super::json_id(Some(subject)),
            "createdAt": login.at.to_string(),
            "expiresAt": login.expires_at.map(|end| end.to_string()),
        });
        vec![
            RedisWrite::AddMember {
                key: format!("{}{subject}", self.tokens),
                member: compact,
                score: None,
                ttl: Some(self.ttl),
            },
            RedisWrite::Set {
                key: format!("{}{subject}", self.session),
                value: session.to_string(),
                ttl: Some(self.ttl),
            },
        ]
    }

    fn tracked_rows(
        &self,
        login: &TrackedToken<'_>,
        context: &PresetContext,
    ) -> Result<Vec<SqlWrite>, String> {
        let access = login.kind == TokenKind::Access;
        let Some(sessions) = self.sessions(context).filter(|_| access) else { return Ok(Vec::new()) };
        let Some(user) = sessions.user.cast().value(&login.user.subject) else {
            return Err(format!("the column {} holds no such id", sessions.user.name));
        };
        let mut row = Insert::new(sessions.table, sessions.token, login.compact);
        row.set(sessions.user, user);
        if let Some(expires) = sessions.expires {
            let end = login.expires_at.unwrap_or_else(|| login.at.plus(self.ttl));
            row.set(expires, expires.instant(end));
        }
        if let Some(active) = sessions.active {
            row.set(active, active.flag(true));
        }
        Ok(vec![row.unless_there()])
    }

    fn sessions_query(&self, context: &PresetContext, subject: &str) -> Option<(String, Value)> {
        let sessions = self.sessions(context)?;
        let sql = format!(
            "SELECT {} AS token, {} AS expires_at FROM {} WHERE {} = ? AND {} = 1",
            sessions.token.readable(),
            sessions.end(),
            sessions.table.name(),
            sessions.user.name,
            sessions.truth(),
        );
        Some((sql, sessions.user.cast().value(subject)?))
    }
}
