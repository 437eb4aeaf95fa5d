//! What the layouts of users and sessions say: flags, our own record beside them, rows of sessions.

use serde_json::Value;

use super::held::Standing;
use super::{Finding, Held, Moment, Why, bare, instant, json, standing, truth};
use crate::ledger::rule::{Condition, Flag};
use crate::ledger::store::StoreError;

/// A flag in any of its spellings: `true`, `"true"`, `True`, `1`, `yes`, or a JSON object that holds one. An object without
/// it is silent; whatever is neither up nor down is malformed.
pub(super) fn flag(flag: &Flag, text: &str) -> Result<Finding, StoreError> {
    let found = if text.trim_start().starts_with('{') {
        match json(text)?.get(&*flag.member) {
            None | Some(Value::Null) => return Ok(Finding::Absent),
            Some(found) => found.clone(),
        }
    } else {
        bare(text)
    };
    match truth(&found) {
        Some(true) => Ok(Finding::Clear),
        Some(false) => Ok(Finding::Denied),
        None => Err(StoreError::malformed("the flag is neither up nor down")),
    }
}

/// The row behind a flag: `portcullis_active`, and the word for one that is down.
pub(super) fn flag_row<'a>(column: impl Fn(&str) -> Option<&'a Value>) -> Result<Finding, StoreError> {
    match column("portcullis_active").and_then(truth) {
        Some(true) => Ok(Finding::Clear),
        Some(false) => {
            let word = column("portcullis_status").and_then(Value::as_str).and_then(standing);
            Ok(word.map_or(Finding::Denied, Finding::Because))
        }
        None => Err(StoreError::malformed("the flag is neither up nor down")),
    }
}

/// What it means that the database has no row, where that depends on the rule.
pub(super) fn nobody(condition: &Condition) -> Option<Finding> {
    match condition {
        Condition::Flag(flag) if flag.unknown_denied => Some(Finding::Because(Why::Unknown)),
        Condition::Flag(_) => Some(Finding::Clear),
        Condition::Leads => Some(Finding::Moved),
        _ => None,
    }
}

/// Our own record, as kept in Redis.
pub(super) fn record(decides: bool, text: &str) -> Result<Held, StoreError> {
    Condition::NativeUser.held(super::Reply::Value(text.as_bytes())).map(|held| told(decides, held))
}

/// A cut-off is ours alone to know. Of a status the services' own flag decides; we only remember which word it was.
pub(super) fn told(decides: bool, held: Held) -> Held {
    match held {
        Held::User { standing: Standing::Blocked(why), until, cut_off } if !decides => {
            Held::User { standing: Standing::Told(why), until, cut_off }
        }
        held => held,
    }
}

/// A session's row that is inactive or past its end is as good as none.
pub(super) fn live_session<'a>(
    column: impl Fn(&str) -> Option<&'a Value>,
    at: Moment,
) -> Result<Finding, StoreError> {
    let active = column("active").and_then(truth);
    let active = active.ok_or_else(|| StoreError::malformed("the session is neither active nor not"))?;
    let end = column("expires_at").map_or(Ok(None), instant)?;
    let over = end.is_some_and(|end| end <= at.now);
    Ok(if active && !over { Finding::Clear } else { Finding::Denied })
}
