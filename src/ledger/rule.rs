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

impl Guards {
    pub const ALL: [Self; 3] = [Self::Token, Self::Session, Self::User];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::User => "user",
        }
    }
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
    /// Of no effect where presence allows ([`Condition::presence_allows`]): there silence always asks the database.
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
/// `Field` about the named column. How values are compared is told in `ledger/condition.rs`.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Exists,
    Missing,
    Equals(Vec<serde_json::Value>),
    /// The member of a JSON document at an RFC 6901 pointer.
    Json {
        pointer: Box<str>,
        equals: Vec<serde_json::Value>,
    },
    /// The field of a hash; in SQL a column.
    Field {
        field: Box<str>,
        equals: Vec<serde_json::Value>,
    },
    /// The set holds this member. Redis only.
    Contains(Template),
    /// The set does not hold this member. Redis only.
    Lacks(Template),
    /// The *sorted* set holds this member. Redis only.
    ContainsSorted(Template),
    /// `iat` is compared with the instant found at this JSON pointer (empty: the whole value): unix seconds,
    /// milliseconds or RFC 3339.
    IssuedBefore {
        pointer: Box<str>,
    },
    /// All that the preset `native` keeps of a user: in Redis JSON with `status`, `reason`, `until`, `not_before`; in
    /// SQL the columns `status`, `until_at`, `not_before`. Finds its own reason.
    NativeUser,
    /// The status of a user in an existing table, by the names of its columns. In Redis presence denies, and the value
    /// is the status where it is such a word. Finds its own reason.
    UserStatus {
        status: Box<str>,
        status_updated_at: Box<str>,
        last_security_action: Box<str>,
    },
    /// A flag that has to be up. In SQL the columns `portcullis_active` (0 or 1) and `portcullis_status`, the word for a flag that is down.
    Flag(Flag),
    /// As [`Condition::NativeUser`]; but unless it `decides`, a status only tells why another rule denies.
    Record {
        decides: bool,
    },
    /// SQL only: the columns `active` (0 or 1) and `expires_at` of a session that has to be live.
    LiveSession,
    /// What an alias has to lead to: the user whom the question is about.
    Leads,
    /// Redis only: a JSON object that tells of the user. Never denies, and nobody misses it.
    Profile,
}

/// A flag, how it is spelled, and what it means when there is no row that could hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The member of a JSON object that is the flag.
    pub member: Box<str>,
    /// How it is written; every spelling is read.
    pub spelling: Spelling,
    /// Asks for all that is written where it is a whole row.
    pub whole: Option<Box<str>>,
    /// Whether a user without a row is refused (`user_unknown`).
    pub unknown_denied: bool,
}

/// How a flag is written to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// `true`
    Plain,
    /// `"true"`
    Quoted,
    /// `1`
    Numeric,
    /// `{"is_active":true}`
    Json,
    /// The user's whole row as a JSON object, less what must not be kept.
    Row,
}

impl Flag {
    /// The flag's value as text; `None` where it is part of a row.
    pub fn text(&self, up: bool) -> Option<String> {
        Some(match self.spelling {
            Spelling::Plain => up.to_string(),
            Spelling::Quoted => format!("\"{up}\""),
            Spelling::Numeric => u8::from(up).to_string(),
            Spelling::Json => serde_json::json!({ &*self.member: up }).to_string(),
            Spelling::Row => return None,
        })
    }
}

impl Condition {
    /// Whether being there is what lets a credential pass, so that not being there proves nothing.
    pub fn presence_allows(&self) -> bool {
        matches!(self, Self::Missing | Self::Lacks(_) | Self::Flag(_) | Self::LiveSession | Self::Leads)
    }

    /// The member whose presence in a set is asked about.
    pub fn member(&self) -> Option<&Template> {
        match self {
            Self::Contains(member) | Self::Lacks(member) | Self::ContainsSorted(member) => Some(member),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), String> {
        let some = |values: &[serde_json::Value]| match values {
            [] => Err("`equals` lists nothing, so the rule would never deny".to_owned()),
            _ if values.iter().any(|value| value.is_null() || value.is_array() || value.is_object()) => {
                Err("`equals` lists words, numbers and booleans only".to_owned())
            }
            _ => Ok(()),
        };
        let pointer = |pointer: &str| match pointer {
            "" => Ok(()),
            _ if pointer.starts_with('/') => Ok(()),
            _ => Err(format!("`{pointer}` is no JSON pointer: it begins with `/`")),
        };
        match self {
            Self::Exists
            | Self::Missing
            | Self::NativeUser
            | Self::UserStatus { .. }
            | Self::Flag(_)
            | Self::Record { .. }
            | Self::LiveSession
            | Self::Leads
            | Self::Profile => Ok(()),
            Self::Equals(values) | Self::Field { equals: values, .. } => some(values),
            Self::Json { pointer: at, equals } => pointer(at).and_then(|()| some(equals)),
            Self::IssuedBefore { pointer: at } => pointer(at),
            Self::Contains(member) | Self::Lacks(member) | Self::ContainsSorted(member) => member.check_key(),
        }
    }
}

impl Rule {
    /// Whether it can deny nobody, and only tells of a user.
    pub fn only_tells(&self) -> bool {
        self.redis.as_ref().is_some_and(|redis| redis.deny_if == Condition::Profile)
    }

    /// Whether its answer tells of a user.
    pub fn tells_profile(&self) -> bool {
        let row = |flag: &Flag| flag.spelling == Spelling::Row;
        match self.redis.as_ref().map(|redis| &redis.deny_if) {
            Some(Condition::Flag(flag)) => row(flag),
            Some(Condition::Profile) => true,
            _ => false,
        }
    }

    /// Whether the rule can be asked and can mean what it says; else the problem, in words for the operator.
    pub fn check(&self) -> Result<(), String> {
        if self.redis.is_none() && self.sql.is_none() {
            return Err("the rule asks nobody: give it a `key`, `sql`, or both".to_owned());
        }
        if !(400..=599).contains(&self.status) {
            return Err(format!("status {} is no refusal: 401 or 403 is usual", self.status));
        }
        if self.reason.is_empty() || !self.reason.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("`reason` is a word of letters, digits and underscores".to_owned());
        }
        if let Some(redis) = &self.redis {
            redis.key.check_key()?;
            redis.deny_if.check()?;
            if self.sql.is_none() && redis.deny_if.presence_allows() {
                // A flushed Redis would otherwise lock everybody out, and a lagging one at random.
                return Err(
                    "presence allows here, and absence alone never denies: add `sql` to ask then".to_owned()
                );
            }
            if self.sql.is_none() && redis.if_absent == IfAbsent::AskDatabase {
                return Err("`if_absent = \"ask_database\"` needs `sql` to ask with".to_owned());
            }
        }
        if let Some(sql) = &self.sql {
            sql.deny_if.check()?;
            if sql.deny_if.member().is_some() {
                return Err(
                    "`contains` and `lacks` are about Redis sets: in `sql` write `exists` or `missing`, \
                            and put the member into the query"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(redis: Option<Condition>, sql: Option<Condition>) -> Rule {
        Rule {
            name: "r".into(),
            guards: Guards::User,
            redis: redis.map(|deny_if| RedisQuestion {
                key: Template::parse("user:{sub}").expect("a key"),
                deny_if,
                if_absent: IfAbsent::Allow,
            }),
            sql: sql.map(|deny_if| SqlQuestion { query: "SELECT 1".to_owned(), deny_if }),
            reason: "user_banned".into(),
            status: 403,
            ttl: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_rule_whose_presence_allows_needs_a_database_to_ask() {
        let member = Template::parse("{token}").expect("a member");
        assert!(rule(Some(Condition::Missing), None).check().is_err());
        assert!(rule(Some(Condition::Lacks(member.clone())), None).check().is_err());
        assert_eq!(rule(Some(Condition::Lacks(member)), Some(Condition::Missing)).check(), Ok(()));
        assert_eq!(rule(Some(Condition::Exists), None).check(), Ok(()));
    }

    #[test]
    fn a_rule_that_could_never_deny_or_ask_is_a_mistake() {
        assert!(rule(None, None).check().is_err());
        assert!(rule(Some(Condition::Equals(vec![])), None).check().is_err());
        assert!(rule(Some(Condition::IssuedBefore { pointer: "not_before".into() }), None).check().is_err());
        let member = Template::parse("{sub}").expect("a member");
        assert!(rule(None, Some(Condition::Contains(member))).check().is_err());
        let mut passing = rule(Some(Condition::Exists), None);
        passing.status = 200;
        assert!(passing.check().is_err());
    }
}
