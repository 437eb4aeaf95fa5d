//! The refresh tokens of `token-blacklist`: `refresh_token:{token}` and the table `refresh_tokens`.

use std::time::Duration;

use super::rows::Insert;
use super::track::TrackedToken;
use super::{
    Condition, Guards, IfAbsent, PresetContext, RedisQuestion, RevokedToken, Rule, SqlName, SqlQuestion,
    SqlWrite, json_id, literal, remaining, template,
};
use crate::ledger::change::TokenKind;
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::Value;

/// `refresh_token:{token}` = JSON `userId, expiresAt, isRevoked`; table `refresh_tokens`.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshTokens {
    /// Default `refresh_token:`.
    pub prefix: Box<str>,
    pub table: SqlName,
    pub token: SqlName,
    pub user_id: SqlName,
    pub expires_at: SqlName,
    pub is_revoked: SqlName,
}

impl RefreshTokens {
    /// Asked about every token: which are for refreshing is not written on them. `None` without the table: with Redis away
    /// nobody could answer then, and every request would be refused.
    pub(super) fn rule(&self, context: &PresetContext) -> Option<Rule> {
        let (table, token, revoked) = self.found(context)?;
        let query = format!(
            "SELECT {} AS is_revoked FROM {} WHERE {} = {{token}} ORDER BY 1 DESC",
            revoked.truth(),
            table.name(),
            token.name
        );
        let deny_if = Condition::Json { pointer: "/isRevoked".into(), equals: vec![true.into()] };
        Some(Rule {
            name: "token-blacklist.refresh".into(),
            guards: Guards::Token,
            redis: Some(RedisQuestion {
                key: template(&format!("{}{{token}}", literal(&self.prefix)))?,
                deny_if,
                if_absent: IfAbsent::Allow,
            }),
            sql: Some(SqlQuestion { query, deny_if: Condition::Equals(vec![true.into()]) }),
            reason: "token_revoked".into(),
            status: 401,
            ttl: context.refresh_lifetime,
        })
    }

    fn found<'a>(&self, context: &'a PresetContext) -> Option<(&'a Table, &'a Column, &'a Column)> {
        let table = context.table(&self.table)?;
        Some((table, table.column(self.token.as_str())?, table.column(self.is_revoked.as_str())?))
    }

    /// Where the key is there, it is a refresh token, and its services read that key.
    pub(super) fn revoked(&self, token: &RevokedToken<'_>, ttl: Option<Duration>) -> RedisWrite {
        let value = serde_json::json!({
            "userId": json_id(token.subject),
            "expiresAt": token.expires_at.map(|at| at.to_string()),
            "isRevoked": true,
        });
        let key = format!("{}{}", self.prefix, token.compact);
        RedisWrite::Replace { key, value: value.to_string(), ttl }
    }

    pub(super) fn row_write(&self, token: &RevokedToken<'_>, context: &PresetContext) -> Option<SqlWrite> {
        let (table, key, revoked) = self.found(context)?;
        let sql = format!(
            "UPDATE {} SET {} = {} WHERE {} = ?",
            table.name(),
            revoked.name,
            revoked.slot(),
            key.name
        );
        Some(SqlWrite { sql, values: vec![revoked.flag(true), token.compact.into()], must_match: false })
    }

    pub(super) fn tracked_writes(
        &self,
        login: &TrackedToken<'_>,
        context: &PresetContext,
    ) -> Vec<RedisWrite> {
        if login.kind != TokenKind::Refresh {
            return Vec::new();
        }
        let value = serde_json::json!({
            "userId": json_id(Some(&login.user.subject)),
            "expiresAt": login.expires_at.map(|at| at.to_string()),
            "isRevoked": false,
        });
        let ttl = remaining(login.expires_at.map(|end| end.plus(context.leeway)), login.at);
        let key = format!("{}{}", self.prefix, login.compact);
        vec![RedisWrite::Set { key, value: value.to_string(), ttl: ttl.or(Some(context.refresh_lifetime)) }]
    }

    pub(super) fn tracked_rows(
        &self,
        login: &TrackedToken<'_>,
        context: &PresetContext,
    ) -> Result<Vec<SqlWrite>, String> {
        let found = self.found(context).filter(|_| login.kind == TokenKind::Refresh);
        let Some((table, key, revoked)) = found else { return Ok(Vec::new()) };
        let mut row = Insert::new(table, key, login.compact);
        if let Some(column) = table.column(self.user_id.as_str()) {
            let id = column.cast().value(&login.user.subject);
            if id.is_none() && !column.nullable {
                return Err(format!("the column {} holds no such id", column.name));
            }
            row.set(column, id.unwrap_or(Value::Null));
        }
        if let Some(column) = table.column(self.expires_at.as_str()) {
            let end = login.expires_at.unwrap_or_else(|| login.at.plus(context.refresh_lifetime));
            row.set(column, column.instant(end));
        }
        row.set(revoked, revoked.flag(false));
        Ok(vec![row.unless_there()])
    }
}
