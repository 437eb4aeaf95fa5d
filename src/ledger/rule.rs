//! A rule: one question about a credential. Does this deny?

use std::sync::Arc;
use std::time::Duration;

use crate::template::Template;

/// What a rule is about; decides what happens when a claim its key needs is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guards {
    Token,
    Session,
    User,
}

/// One question about a credential, resolved from `[[ledger.rules]]` or from a preset.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: Arc<str>,
    pub guards: Guards,
    /// How Redis is asked. A rule has this, `sql`, or both.
    pub redis: Option<RedisQuestion>,
    /// How the database is asked.
    pub sql: Option<SqlQuestion>,
    pub reason: Arc<str>,
    pub status: u16,
    /// How long an answer of the database is kept in Redis when `if_absent` wrote it back.
    pub ttl: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RedisQuestion {
    pub key: Template,
    pub deny_if: Condition,
    pub if_absent: IfAbsent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfAbsent {
    /// A deny list: silence is innocence.
    Allow,
    /// A cache: silence is ignorance.
    AskDatabase,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SqlQuestion {
    /// As written, with `{placeholders}`; parsed further by the ledger into a bound statement.
    pub query: String,
    pub deny_if: Condition,
}

/// When an answer denies. In Redis it is about the key's value; in SQL about the first column of the first row, or for
/// `Field` about the named column.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Exists,
    Missing,
    Equals(Vec<serde_json::Value>),
    Json {
        pointer: Box<str>,
        equals: Vec<serde_json::Value>,
    },
    Field {
        field: Box<str>,
        equals: Vec<serde_json::Value>,
    },
    Contains(Template),
    Lacks(Template),
    /// `iat` is compared with the instant found at this JSON pointer (empty: the whole value): unix seconds,
    /// milliseconds or RFC 3339.
    IssuedBefore {
        pointer: Box<str>,
    },
    /// The JSON of `pc:user:…`, or a row with the columns `status`, `reason`, `until_at`, `not_before` (unix milliseconds).
    NativeUser,
    /// Presence denies, the value being the status if it is one; in SQL the named columns of a row.
    UserStatus {
        status: Box<str>,
        status_updated_at: Box<str>,
        last_security_action: Box<str>,
    },
}
