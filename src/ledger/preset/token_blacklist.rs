//! `token-blacklist`: one key per token, with the whole token in its name, and the table `blacklisted_tokens`.

use std::time::Duration;

use super::{
    Condition, Guards, IfAbsent, PresetContext, RedisQuestion, RevokedToken, Rule, SqlQuestion, SqlWrite,
    TableRows, TokenBlacklist, TokenLayout, literal, remaining, template,
};
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::Column;
use crate::ledger::sql::{Dialect, Value};
use crate::time::Timestamp;

impl TokenBlacklist {
    pub(super) fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        let listed = template(&format!("{}{{token}}", literal(&self.prefix))).map(|key| Rule {
            name: "token-blacklist.token".into(),
            guards: Guards::Token,
            redis: Some(RedisQuestion { key, deny_if: Condition::Exists, if_absent: IfAbsent::Allow }),
            sql: self.row(context).map(|query| SqlQuestion { query, deny_if: Condition::Exists }),
            reason: "token_revoked".into(),
            status: 401,
            ttl: context.token_lifetime,
        });
        listed.into_iter().collect()
    }

    fn row(&self, context: &PresetContext) -> Option<String> {
        let table = context.table(&self.table)?;
        let token = &table.column(self.columns.token.as_str())?.name;
        Some(format!("SELECT 1 FROM {} WHERE {token} = {{token}}", table.name()))
    }
}

impl TokenLayout for TokenBlacklist {
    /// As services write it: `{"userId":…,"expiresAt":"…","blacklistedAt":"…"}`, for the rest of the token's life.
    fn writes(&self, token: &RevokedToken<'_>, context: &PresetContext) -> Vec<RedisWrite> {
        let RevokedToken { compact, subject, expires_at, at, .. } = *token;
        // An id that is a number in the database is a number to the services.
        let number =
            subject.and_then(|subject| subject.parse::<i64>().ok().filter(|id| id.to_string() == subject));
        let user_id = number.map_or_else(|| serde_json::json!(subject), |id| serde_json::json!(id));
        let value = serde_json::json!({
            "userId": user_id,
            "expiresAt": expires_at.map(|at| at.to_string()),
            "blacklistedAt": at.to_string(),
        });
        let ttl = remaining(expires_at.map(|end| end.plus(context.leeway)), at);
        let key = format!("{}{compact}", self.prefix);
        vec![RedisWrite::Set { key, value: value.to_string(), ttl }]
    }

    /// All but those that are over; a table without an expiry lists for ever.
    fn revoked_rows<'a>(&self, context: &'a PresetContext, now: Timestamp) -> Option<TableRows<'a>> {
        let table = context.table(&self.table)?;
        let column = |name: &super::SqlName| table.column(name.as_str());
        let millis = |name| column(name).map_or_else(|| "NULL".to_owned(), Column::millis);
        let user = column(&self.columns.user_id).map_or_else(|| "NULL".to_owned(), Column::as_text);
        let columns =
            format!("{user}, {}, {}", millis(&self.columns.expires_at), millis(&self.columns.blacklisted_at));
        let (wanted, values) = match column(&self.columns.expires_at) {
            Some(end) => {
                // Compared as its own index has it. The table's clock may be another zone's: a day more does no harm.
                let since = Timestamp::from_millis(now.millis() - 86_400_000);
                (format!("{0} IS NULL OR {0} > {1}", end.name, end.slot()), vec![end.instant(since)])
            }
            None => ("1 = 1".to_owned(), Vec::new()),
        };
        Some(TableRows { table: table.name(), key: column(&self.columns.token)?, columns, wanted, values })
    }

    fn expiry<'a>(&self, context: &'a PresetContext) -> Option<(&'a str, &'a str, &'a Column)> {
        let table = context.table(&self.table)?;
        let token = table.column(self.columns.token.as_str())?;
        Some((table.name(), &token.name, table.column(self.columns.expires_at.as_str())?))
    }

    /// The row, unless it is there.
    fn row_write(
        &self,
        token: &RevokedToken<'_>,
        context: &PresetContext,
    ) -> Result<Option<SqlWrite>, String> {
        let Some(table) = context.table(&self.table) else { return Ok(None) };
        let named = |name: &str| table.column(name);
        let (Some(key), user_id) = (named(self.columns.token.as_str()), named(self.columns.user_id.as_str()))
        else {
            return Ok(None);
        };
        let mut columns: Vec<(&Column, Value)> = vec![(key, token.compact.into())];
        if let Some(column) = user_id {
            let id = token.subject.and_then(|subject| column.cast().value(subject));
            if id.is_none() && !column.nullable {
                return Err(format!("the table {} wants to know whose token it is", table.name()));
            }
            columns.push((column, id.unwrap_or(Value::Null)));
        }
        if let Some(column) = named(self.columns.expires_at.as_str()) {
            // A token without end is written as one that ends far from now, where an end is demanded.
            let far = token.at.plus(Duration::from_secs(100 * 365 * 86_400));
            let end = token.expires_at.or((!column.nullable).then_some(far));
            columns.push((column, end.map_or(Value::Null, |end| column.instant(end))));
        }
        if let Some(column) = named(self.columns.blacklisted_at.as_str()) {
            columns.push((column, column.instant(token.at)));
        }
        let names: Vec<&str> = columns.iter().map(|(column, _)| column.name.as_str()).collect();
        let slots: Vec<String> = columns.iter().map(|(column, _)| column.slot()).collect();
        let (table_name, token_name) = (table.name(), &key.name);
        // Two ways to be there already: without a unique key the first half sees it, in a race with one the second.
        let (from, or_ignore) = match table.dialect() {
            Dialect::MySql => ("FROM DUAL", format!("ON DUPLICATE KEY UPDATE {token_name} = {token_name}")),
            Dialect::Sqlite | Dialect::Postgres => ("", "ON CONFLICT DO NOTHING".to_owned()),
        };
        let sql = format!(
            "INSERT INTO {table_name} ({}) SELECT {} {from} WHERE NOT EXISTS (SELECT 1 FROM {table_name} \
             WHERE {token_name} = ?) {or_ignore}",
            names.join(", "),
            slots.join(", "),
        );
        let mut values: Vec<Value> = columns.into_iter().map(|(_, value)| value).collect();
        values.push(token.compact.into());
        Ok(Some(SqlWrite { sql, values, must_match: false }))
    }
}
