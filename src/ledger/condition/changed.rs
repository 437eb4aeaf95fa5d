//! What a row says to a token that begets others: it must not be from before the last change of its user's status.
//!
//! A user who was banned and is active again was perhaps not the only one who held the old tokens. Short-lived ones have
//! ended by then; one that is good for a week is void, and its user logs in once more.

use super::{Condition, Finding, Moment, Why, instant};
use crate::ledger::sql::Row;
use crate::ledger::store::StoreError;
use crate::time::Timestamp;

/// The column of `portcullis_users` queries that tells when the status last changed.
const CHANGED_AT: &str = "changed_at";

impl Condition {
    /// As [`Condition::of_row`], and denies what was issued before the status changed, where the row tells when.
    pub(in crate::ledger) fn of_row_strictly(
        &self,
        row: Option<&Row>,
        at: Moment,
    ) -> Result<Finding, StoreError> {
        let finding = self.of_row(row, at)?;
        let column = match self {
            Self::NativeUser => CHANGED_AT,
            Self::UserStatus { status_updated_at, .. } => status_updated_at,
            _ => return Ok(finding),
        };
        let value = row.into_iter().flatten().find(|(name, _)| name == column).map(|(_, value)| value);
        let changed = value.map_or(Ok(None), instant)?;
        match (finding, changed) {
            (Finding::Clear, Some(changed)) if precedes(changed, at) => Ok(Finding::Because(Why::CutOff)),
            (finding, _) => Ok(finding),
        }
    }
}

/// In whole seconds. Unlike a cut-off the second itself passes: services stamp a user's status when they make the user,
/// and log a newcomer in within the same second.
fn precedes(changed: Timestamp, at: Moment) -> bool {
    at.issued_at.is_none_or(|issued_at| issued_at.seconds() < changed.seconds())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(issued_at: i64, row: &[(&str, Value)]) -> Finding {
        let row: Row = row.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let at = Moment {
            issued_at: Some(Timestamp::from_seconds(issued_at)),
            now: Timestamp::from_seconds(1_000),
        };
        Condition::NativeUser.of_row_strictly(Some(&row), at).expect("an answer")
    }

    #[test]
    fn a_token_from_before_a_change_of_status_is_void_though_the_user_is_active() {
        let active = |changed: Value| [("status", json!("active")), ("changed_at", changed)];
        // Milliseconds, as our own table keeps them.
        let changed = active(json!(1_700_000_100_000_i64));
        assert_eq!(judged(1_700_000_099, &changed), Finding::Because(Why::CutOff));
        assert_eq!(judged(1_700_000_100, &changed), Finding::Clear, "the same second");
        assert_eq!(judged(1_700_000_099, &active(Value::Null)), Finding::Clear, "never changed");
        assert_eq!(judged(1_700_000_099, &[("status", json!("active"))]), Finding::Clear);
    }

    #[test]
    fn a_denial_keeps_its_own_word() {
        let row = [("status", json!("banned")), ("changed_at", json!(1_700_000_100_000_i64))];
        assert_eq!(judged(1, &row), Finding::Because(Why::Banned));
    }
}
