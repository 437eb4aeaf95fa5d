//! The database side as the ledger sees it. Stands in until the real one takes its place; asks nothing.

use std::time::Duration;

use serde_json::Value;

use super::settings::DatabaseSettings;
use super::store::StoreError;
use crate::template::{Field, TemplateError};

pub type Row = Vec<(String, Value)>;
pub type Argument = Box<str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

#[derive(Debug)]
pub struct Statement {
    fields: Vec<Field>,
}

impl Statement {
    pub fn parse(query: &str, _dialect: Dialect) -> Result<Self, TemplateError> {
        Ok(Self { fields: crate::template::Template::parse(query)?.fields().cloned().collect() })
    }

    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter()
    }
}

#[derive(Debug)]
pub struct SqlStore;

impl SqlStore {
    pub fn open(_settings: &DatabaseSettings) -> Result<Self, StoreError> {
        Ok(Self)
    }

    pub fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    pub async fn first_row(
        &self,
        _statement: &Statement,
        _arguments: &[Argument],
    ) -> Result<Option<Row>, StoreError> {
        Err(StoreError::unavailable("no database"))
    }

    pub async fn ping(&self) -> Result<Duration, StoreError> {
        Err(StoreError::unavailable("no database"))
    }
}
