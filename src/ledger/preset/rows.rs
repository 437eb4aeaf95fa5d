//! Rows that are written to services' own tables.

use super::SqlWrite;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::{Dialect, Value};

/// A row that is told apart from others by one column, a token's.
pub(super) struct Insert<'a> {
    table: &'a Table,
    key: &'a Column,
    columns: Vec<(&'a Column, Value)>,
}

impl<'a> Insert<'a> {
    pub fn new(table: &'a Table, key: &'a Column, token: &str) -> Self {
        Self { table, key, columns: vec![(key, token.into())] }
    }

    pub fn set(&mut self, column: &'a Column, value: Value) {
        self.columns.push((column, value));
    }

    /// Inserts it, unless it is there. Two ways to be there already: without a unique key the first half sees it, in a
    /// race with one the second.
    pub fn unless_there(self) -> SqlWrite {
        let Self { table, key, columns } = self;
        let names: Vec<&str> = columns.iter().map(|(column, _)| column.name.as_str()).collect();
        let slots: Vec<String> = columns.iter().map(|(column, _)| column.slot()).collect();
        let (table_name, key_name) = (table.name(), &key.name);
        let (from, or_ignore) = match table.dialect() {
            Dialect::MySql => ("FROM DUAL", format!("ON DUPLICATE KEY UPDATE {key_name} = {key_name}")),
            Dialect::Sqlite | Dialect::Postgres => ("", "ON CONFLICT DO NOTHING".to_owned()),
        };
        let sql = format!(
            "INSERT INTO {table_name} ({}) SELECT {} {from} WHERE NOT EXISTS (SELECT 1 FROM {table_name} \
             WHERE {key_name} = ?) {or_ignore}",
            names.join(", "),
            slots.join(", "),
        );
        let token = columns.first().map_or(Value::Null, |(_, token)| token.clone());
        let values = columns.into_iter().map(|(_, value)| value).chain([token]).collect();
        SqlWrite { sql, values, must_match: false }
    }
}
