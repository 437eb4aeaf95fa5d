//! What an answer of a store says about a credential.
//!
//! Values are compared by what they mean, because services write the same flag in many ways: `false`, `"false"`,
//! `False` (Python), `0`, `"0"` and `no` are one boolean where `equals` lists a boolean; `7` and `"7"` are one number where
//! it lists a number; a listed word is compared exactly with text, or with the spelling of a number or boolean. A value
//! that is neither (the flag says `maybe`) is malformed: an outage of the answer. SQL's `NULL` equals nothing. A JSON
//! document in Redis without the member that is asked about is silent, as if its key were not there.

use serde_json::Value;

use super::rule::Condition;
use super::sql::Row;
use super::store::StoreError;
use crate::time::Timestamp;
use held::{Instant, Standing};

pub(super) use held::{Held, Why};

mod held;

/// What a store said about one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing against the credential.
    Clear,
    /// Nothing at all: what that means is the rule's decision.
    Absent,
    /// Denied, with the rule's own reason.
    Denied,
    /// Denied, with a reason that the answer itself tells.
    Because(Why),
    /// Nothing against the credential by itself; but should another rule deny, this is why.
    Tells(Why),
    /// The alias by which the credential names its user leads to somebody else by now: all has to be asked anew.
    Moved,
}

mod users;

/// What Redis replied to the one command a condition needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    Absent,
    Present,
    Value(&'a [u8]),
}

/// What a judgment depends on besides the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub issued_at: Option<Timestamp>,
    pub now: Timestamp,
}

impl Condition {
    /// Judges a reply of Redis.
    pub(super) fn of_reply(&self, reply: Reply<'_>, at: Moment) -> Result<Finding, StoreError> {
        Ok(self.held(reply)?.judge(at))
    }

    /// What a reply of Redis says to whomever it may concern.
    pub(super) fn held(&self, reply: Reply<'_>) -> Result<Held, StoreError> {
        let same = |finding| Ok(Held::Same(finding));
        let bytes = match (self, reply) {
            (_, Reply::Absent) => return same(Finding::Absent),
            (Self::Missing | Self::Lacks(_), _) => return same(Finding::Clear),
            (Self::Exists | Self::Contains(_) | Self::ContainsSorted(_), _) => return same(Finding::Denied),
            (Self::UserStatus { .. }, Reply::Value(bytes)) => return same(status_word(bytes)),
            (Self::UserStatus { .. }, Reply::Present) => return same(Finding::Denied),
            (_, Reply::Present) => return Err(StoreError::malformed("a value was expected")),
            (_, Reply::Value(bytes)) => bytes,
        };
        let text = std::str::from_utf8(bytes).map_err(|_| StoreError::malformed("the value is not UTF-8"))?;
        match self {
            Self::Flag(flag) => same(users::flag(flag, text)?),
            Self::Record { decides } => users::record(*decides, text),
            Self::Profile => same(Finding::Clear),
            Self::Equals(listed) | Self::Field { equals: listed, .. } => same(equals_text(listed, text)?),
            Self::Json { pointer, equals } => match json(text)?.pointer(pointer) {
                None | Some(Value::Null) => same(Finding::Absent),
                Some(found) => same(equals_value(equals, found)?),
            },
            Self::IssuedBefore { pointer } if pointer.is_empty() => cut_off(&bare(text)),
            Self::IssuedBefore { pointer } => match json(text)?.pointer(pointer) {
                None | Some(Value::Null) => same(Finding::Absent),
                Some(found) => cut_off(found),
            },
            Self::NativeUser => {
                let Value::Object(user) = json(text)? else {
                    return Err(StoreError::malformed("a JSON object was expected"));
                };
                native_user(|name| user.get(name), "until")
            }
            Self::Exists
            | Self::Missing
            | Self::Contains(_)
            | Self::Lacks(_)
            | Self::ContainsSorted(_)
            | Self::UserStatus { .. }
            | Self::LiveSession
            | Self::Leads => same(Finding::Denied),
        }
    }

    /// Judges the first row of a query, or that there is none. The database is the truth: here absence is an answer.
    pub(super) fn of_row(&self, row: Option<&Row>, at: Moment) -> Result<Finding, StoreError> {
        let Some(row) = row else {
            if let Some(finding) = users::nobody(self) {
                return Ok(finding);
            }
            return Ok(if self.presence_allows() { Finding::Denied } else { Finding::Clear });
        };
        let column = |name: &str| row.iter().find(|(column, _)| column == name).map(|(_, value)| value);
        let first = || match row.first() {
            Some((_, value)) => Ok(value),
            None => Err(StoreError::malformed("the row has no column")),
        };
        match self {
            Self::Missing => Ok(Finding::Clear),
            Self::Exists => Ok(Finding::Denied),
            Self::Equals(listed) => equals_value(listed, first()?),
            Self::Field { field, equals } => match column(field) {
                Some(value) => equals_value(equals, value),
                None => Err(StoreError::malformed(format_args!("there is no column `{field}`"))),
            },
            Self::Json { pointer, equals } => match document(first()?)?.pointer(pointer) {
                None => Ok(Finding::Clear),
                Some(found) => equals_value(equals, found),
            },
            Self::IssuedBefore { pointer } if pointer.is_empty() => Ok(cut_off(first()?)?.judge(at)),
            Self::IssuedBefore { pointer } => match document(first()?)?.pointer(pointer) {
                None => Ok(Finding::Clear),
                Some(found) => Ok(cut_off(found)?.judge(at)),
            },
            Self::NativeUser => Ok(native_user(column, "until_at")?.judge(at)),
            Self::Flag(_) => users::flag_row(column),
            Self::Record { decides } => Ok(users::told(*decides, native_user(column, "until_at")?).judge(at)),
            Self::LiveSession => users::live_session(column, at),
            Self::Leads | Self::Profile => Ok(Finding::Clear),
            Self::UserStatus { status, status_updated_at, last_security_action } => {
                let wanted = |name: &str| {
                    column(name)
                        .ok_or_else(|| StoreError::malformed(format_args!("there is no column `{name}`")))
                };
                user_status(wanted(status)?, wanted(status_updated_at)?, wanted(last_security_action)?, at)
            }
            // `Rule::check` refuses these for SQL.
            Self::Contains(_) | Self::Lacks(_) | Self::ContainsSorted(_) => {
                Err(StoreError::malformed("a table is not a set"))
            }
        }
    }
}

/// The preset `native`'s own record. A status we did not write is malformed, not harmless.
fn native_user<'a>(get: impl Fn(&str) -> Option<&'a Value>, until: &str) -> Result<Held, StoreError> {
    let status = match get("status") {
        None | Some(Value::Null) => "active",
        Some(Value::String(word)) => word.as_str(),
        Some(_) => return Err(StoreError::malformed("`status` is no word")),
    };
    let instant_of = |name: &str| get(name).map_or(Ok(None), instant).map(Instant::of);
    let (until, cut_off) = (instant_of(until)?, instant_of("not_before")?);
    let standing = match status {
        "active" => Standing::Active,
        _ => match standing(status) {
            Some(Why::SecurityAction) => Standing::SecurityAction,
            Some(why) => Standing::Blocked(why),
            None => return Err(StoreError::malformed("`status` is none of the known words")),
        },
    };
    Ok(Held::User { standing, until, cut_off })
}

/// A row of somebody else's user table. A status that is not among the five refuses with the rule's own reason: a
/// service that invents `suspended` did not mean “let them in”.
fn user_status(
    status: &Value,
    updated_at: &Value,
    action: &Value,
    at: Moment,
) -> Result<Finding, StoreError> {
    let Value::String(word) = status else { return Err(StoreError::malformed("the status is no word")) };
    let action = instant(action)?;
    let word = word.trim().to_ascii_lowercase();
    if let Some(why) = standing(&word).filter(|why| *why != Why::SecurityAction) {
        return Ok(Finding::Because(why));
    }
    match word.as_str() {
        "security_action" => {
            let since = action.max(instant(updated_at)?);
            let voided = since.is_none_or(|since| void(since, at));
            Ok(if voided { Finding::Because(Why::SecurityAction) } else { Finding::Clear })
        }
        // A user who is active again still had that action: tokens from before it stay void.
        "active" if action.is_some_and(|since| void(since, at)) => Ok(Finding::Because(Why::SecurityAction)),
        "active" => Ok(Finding::Clear),
        _ => Ok(Finding::Denied),
    }
}

fn standing(word: &str) -> Option<Why> {
    Some(match word {
        "banned" => Why::Banned,
        "deactivated" => Why::Deactivated,
        "deleted" => Why::Deleted,
        "security_action" => Why::SecurityAction,
        _ => return None,
    })
}

/// Presence denies; the value only tells why.
fn status_word(bytes: &[u8]) -> Finding {
    let word = std::str::from_utf8(bytes).unwrap_or_default().trim().trim_matches('"').to_ascii_lowercase();
    standing(&word).map_or(Finding::Denied, Finding::Because)
}

/// `iat <= cut-off` in whole seconds is void: a login in the very second of the cut-off must be repeated. A token that
/// does not say when it was issued cannot show that it is newer.
fn void(cut_off: Timestamp, at: Moment) -> bool {
    at.issued_at.is_none_or(|issued_at| issued_at.seconds() <= cut_off.seconds())
}

fn cut_off(value: &Value) -> Result<Held, StoreError> {
    Ok(Held::CutOff(Instant::of(instant(value)?)))
}

/// Unix seconds or milliseconds (told apart by size: 10¹¹ seconds lie in the year 5138, 10¹¹ milliseconds in 1973), as
/// a number or its text, or RFC 3339. `None` for null.
fn instant(value: &Value) -> Result<Option<Timestamp>, StoreError> {
    const FIRST_MILLISECONDS: i64 = 100_000_000_000;
    let unknown = || StoreError::malformed("an instant was expected");
    let whole = |number: i64| match number {
        ..FIRST_MILLISECONDS => Timestamp::from_seconds(number),
        _ => Timestamp::from_millis(number),
    };
    // Python's `time.time()` has a fraction: whole seconds are what is compared in any case.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float cast saturates, and such dates are refused above"
    )]
    let float = |number: f64| {
        let plausible = number.is_finite() && (0.0..1e15).contains(&number);
        plausible.then(|| whole(number.floor() as i64)).ok_or_else(unknown)
    };
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Ok(Some(whole(number))),
            None => float(number.as_f64().ok_or_else(unknown)?).map(Some),
        },
        Value::String(text) => {
            let text = text.trim();
            if let Ok(number) = text.parse::<i64>() {
                return Ok(Some(whole(number)));
            }
            if let Ok(number) = text.parse::<f64>() {
                return float(number).map(Some);
            }
            Timestamp::parse_rfc3339(text).map(Some).ok_or_else(unknown)
        }
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(unknown()),
    }
}

fn json(text: &str) -> Result<Value, StoreError> {
    // serde_json's own words could repeat part of the value.
    serde_json::from_str(text).map_err(|_| StoreError::malformed("JSON was expected"))
}

/// A JSON column comes as a document or as its text.
fn document(value: &Value) -> Result<Value, StoreError> {
    match value {
        Value::String(text) => json(text),
        other => Ok(other.clone()),
    }
}

/// Text, or what is in it where it is a quoted JSON string.
fn bare(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::String(inner)) => Value::String(inner),
        _ => Value::String(text.to_owned()),
    }
}

fn equals_text(listed: &[Value], text: &str) -> Result<Finding, StoreError> {
    equals_value(listed, &bare(text))
}

fn equals_value(listed: &[Value], found: &Value) -> Result<Finding, StoreError> {
    if found.is_null() {
        return Ok(Finding::Clear);
    }
    let compared: Vec<_> = listed.iter().map(|listed| same(listed, found)).collect();
    if compared.contains(&Some(true)) {
        return Ok(Finding::Denied);
    }
    if compared.contains(&None) {
        return Err(StoreError::malformed("the value is not of the kind that `equals` lists"));
    }
    Ok(Finding::Clear)
}

/// `None` when the two cannot be compared.
fn same(listed: &Value, found: &Value) -> Option<bool> {
    match listed {
        Value::Bool(listed) => truth(found).map(|found| found == *listed),
        Value::Number(listed) => number(found).map(|found| Some(found) == listed.as_f64()),
        Value::String(listed) => match found {
            Value::String(found) => Some(found == listed),
            Value::Bool(_) | Value::Number(_) => {
                let spelled = found.to_string();
                Some(spelled == *listed || flag(listed, found))
            }
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether a listed word is one of a found boolean's spellings: `equals = ["0"]` finds `false`.
fn flag(listed: &str, found: &Value) -> bool {
    found.as_bool().is_some_and(|found| truth(&Value::String(listed.to_owned())) == Some(found))
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "yes" | "y" | "on" => Some(true),
            "false" | "0" | "f" | "no" | "n" | "off" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

mod changed;

#[cfg(test)]
mod tests;
