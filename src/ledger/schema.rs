//! What a service's tables really look like: presets ask the database instead of assuming.

use serde_json::Value as Json;

use super::sql::{Cast, Dialect, Row, SqlStore, Value};
use super::store::StoreError;
use crate::time::Timestamp;

/// A table as the database describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    dialect: Dialect,
    /// Quoted, with its schema where one was named: fit for a statement.
    name: String,
    columns: Vec<Column>,
}

/// A column as the database describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    bare: String,
    /// Quoted.
    pub name: String,
    /// In the database's words, lower case.
    declared: String,
    pub nullable: bool,
    dialect: Dialect,
}

/// What a column can hold, as far as presets care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer { wide: bool },
    Uuid,
    Instant,
    Text,
}

impl Table {
    /// Looks a table up; `None` when there is none. A name is taken literally first, then as SQL folds it.
    pub async fn find(sql: &SqlStore, table: &str) -> Result<Option<Self>, StoreError> {
        let dialect = sql.dialect();
        let (schema, bare) =
            table.split_once('.').map_or((None, table), |(schema, bare)| (Some(schema), bare));
        let quoted = match schema {
            Some(schema) => format!("{}.{}", quote(dialect, schema), quote(dialect, bare)),
            None => quote(dialect, bare),
        };
        let rows = match dialect {
            Dialect::Sqlite => {
                let columns = "SELECT name, type, \"notnull\" = 0, '' FROM pragma_table_info(?, ?)";
                sql.rows(columns, &[bare.into(), schema.unwrap_or("main").into()]).await?
            }
            Dialect::Postgres => {
                let columns = "SELECT CAST(a.attname AS text), format_type(a.atttypid, NULL), NOT a.attnotnull, \
                               CAST(CAST(a.attrelid AS regclass) AS text) FROM pg_attribute a \
                               WHERE a.attrelid = COALESCE(to_regclass(?), to_regclass(?)) \
                               AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
                sql.rows(columns, &[quoted.as_str().into(), table.into()]).await?
            }
            Dialect::MySql => {
                let columns = "SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), \
                               CASE is_nullable WHEN 'YES' THEN 1 ELSE 0 END, '' \
                               FROM information_schema.columns \
                               WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? ORDER BY ordinal_position";
                sql.rows(columns, &[schema.into(), bare.into()]).await?
            }
        };
        let columns: Vec<Column> = rows.iter().filter_map(|row| column(dialect, row)).collect();
        if columns.is_empty() {
            return Ok(None);
        }
        // PostgreSQL says the name itself: it knows what it folded.
        let said = rows.first().and_then(|row| text(row, 3)).filter(|name| !name.is_empty());
        Ok(Some(Self { dialect, name: said.unwrap_or(quoted), columns }))
    }

    /// A table as the documentation describes it, for showing rules without asking a database.
    pub fn assumed(dialect: Dialect, table: &str, columns: &[&str]) -> Self {
        let column = |name: &&str| Column {
            bare: (*name).to_owned(),
            name: quote(dialect, name),
            declared: if name.ends_with("_at") || name.ends_with("_action") { "timestamp" } else { "text" }
                .to_owned(),
            nullable: true,
            dialect,
        };
        let name = table.split('.').map(|part| quote(dialect, part)).collect::<Vec<_>>().join(".");
        Self { dialect, name, columns: columns.iter().map(column).collect() }
    }

    /// Quoted: fit for a statement.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which SQL its database speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// A column by name; letter case matters only where two differ in nothing else.
    pub fn column(&self, name: &str) -> Option<&Column> {
        let exact = self.columns.iter().find(|column| column.bare == name);
        exact.or_else(|| self.columns.iter().find(|column| column.bare.eq_ignore_ascii_case(name)))
    }
}

impl Column {
    fn kind(&self) -> Kind {
        let declared = self.declared.as_str();
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if has(&["uuid", "binary(16)"]) || (self.dialect == Dialect::Sqlite && declared == "blob") {
            Kind::Uuid
        } else if has(&["time", "date"]) {
            Kind::Instant
        } else if has(&["int", "serial", "numeric", "decimal"]) && !has(&["interval", "point"]) {
            // SQLite's integers are all of 64 bits.
            Kind::Integer { wide: self.dialect == Dialect::Sqlite || has(&["big", "numeric", "decimal"]) }
        } else {
            Kind::Text
        }
    }

    /// How an id in this column is bound. MariaDB's own `uuid` type takes text.
    pub fn cast(&self) -> Cast {
        match self.kind() {
            Kind::Integer { .. } => Cast::Int,
            Kind::Uuid if self.dialect != Dialect::MySql || self.declared.starts_with("binary") => Cast::Uuid,
            Kind::Uuid | Kind::Instant | Kind::Text => Cast::Text,
        }
    }

    /// Whether its values are bytes rather than text or numbers.
    pub fn is_binary(&self) -> bool {
        self.kind() == Kind::Uuid && self.dialect != Dialect::Postgres && self.declared != "uuid"
    }

    /// `{sub}`, `{sub:int}` or `{sub:uuid}`.
    pub fn placeholder(&self, field: &str) -> String {
        match self.cast() {
            Cast::Text => format!("{{{field}}}"),
            Cast::Int => format!("{{{field}:int}}"),
            Cast::Uuid => format!("{{{field}:uuid}}"),
        }
    }

    /// The `?` of a statement that writes this column. PostgreSQL is told what it gets and what it shall become: an enum
    /// takes text then, and a NULL does not leave the type of the parameter to a guess that a cached statement keeps.
    pub fn slot(&self) -> String {
        let bound = match self.cast() {
            Cast::Uuid => "uuid",
            Cast::Int => "bigint",
            Cast::Text => "text",
        };
        match self.dialect {
            // `character` alone would be one character, and the rest be cut off without a word.
            Dialect::Postgres if self.declared == "character" => {
                format!("CAST(CAST(? AS {bound}) AS bpchar)")
            }
            Dialect::Postgres => format!("CAST(CAST(? AS {bound}) AS {})", self.declared),
            Dialect::Sqlite | Dialect::MySql => "?".to_owned(),
        }
    }

    /// An instant as this column keeps it: a date, or unix time in seconds where 32 bits are all there is, else
    /// milliseconds.
    pub fn instant(&self, at: Timestamp) -> Value {
        match (self.kind(), self.dialect) {
            (Kind::Integer { wide: true }, _) => Value::Int(at.millis()),
            (Kind::Integer { wide: false }, _) => Value::Int(at.seconds()),
            (_, Dialect::Postgres) => Value::Text(at.to_string().into()),
            // As CURRENT_TIMESTAMP writes it there, so that texts compare as instants.
            (_, Dialect::Sqlite | Dialect::MySql) => {
                Value::Text(at.to_string().replace('T', " ").trim_end_matches('Z').into())
            }
        }
    }

    /// SQL for this column's instant in unix milliseconds; NULL when it holds none.
    pub fn millis(&self) -> String {
        let name = &self.name;
        match (self.kind(), self.dialect) {
            (Kind::Integer { .. }, _) => {
                format!("CASE WHEN {name} < 100000000000 THEN {name} * 1000 ELSE {name} END")
            }
            (_, Dialect::Sqlite) => {
                format!("CAST(round((julianday({name}) - 2440587.5) * 86400000.0) AS INTEGER)")
            }
            (_, Dialect::Postgres) => {
                let instant = if self.kind() == Kind::Text {
                    format!("CAST({name} AS timestamptz)")
                } else {
                    name.clone()
                };
                format!("CAST(floor(extract(epoch FROM {instant}) * 1000) AS bigint)")
            }
            (_, Dialect::MySql) => format!("CAST(FLOOR(UNIX_TIMESTAMP({name}) * 1000) AS SIGNED)"),
        }
    }

    /// SQL for this column as text.
    pub fn as_text(&self) -> String {
        let kind = if self.dialect == Dialect::MySql { "CHAR" } else { "text" };
        format!("CAST({} AS {kind})", self.name)
    }

    /// SQL for this column as lower-case text.
    pub fn word(&self) -> String {
        let kind = if self.dialect == Dialect::MySql { "CHAR" } else { "text" };
        format!("lower(CAST({} AS {kind}))", self.name)
    }
}

fn column(dialect: Dialect, row: &Row) -> Option<Column> {
    let bare = text(row, 0)?;
    let nullable =
        matches!(row.get(2).map(|(_, value)| value), Some(Json::Bool(true))) || number(row, 2) == Some(1);
    let declared = text(row, 1)?;
    // PostgreSQL's type names may need their case: they are quoted then.
    let declared = if dialect == Dialect::Postgres { declared } else { declared.to_ascii_lowercase() };
    Some(Column { name: quote(dialect, &bare), bare, declared, nullable, dialect })
}

/// The text in a row's cell.
pub(super) fn text(row: &Row, index: usize) -> Option<String> {
    row.get(index).and_then(|(_, value)| value.as_str()).map(str::to_owned)
}

/// The whole number in a row's cell.
pub(super) fn number(row: &Row, index: usize) -> Option<i64> {
    row.get(index).and_then(|(_, value)| value.as_i64())
}

/// Names are checked to be letters, digits and underscores where they are configured; those a database tells may be
/// anything.
fn quote(dialect: Dialect, name: &str) -> String {
    let mark = if dialect == Dialect::MySql { '`' } else { '"' };
    format!("{mark}{}{mark}", name.replace(mark, &format!("{mark}{mark}")))
}
