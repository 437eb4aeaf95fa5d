//! How thoroughly a credential is looked into.

use super::condition::Finding;
use super::questions::Questions;
use super::rule::{Condition, Rule};
use super::store::StoreError;
use super::{Ledger, Lookup};
use crate::claims::Claims;
use crate::time::Timestamp;

/// Whose word is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// The nearest store that can answer.
    Usual,
    /// The database's alone lets a credential pass: neither memory nor Redis is enough. A known denial is enough from
    /// wherever it comes.
    Strict,
}

impl Thoroughness {
    /// Whether a rule says anything of such a token: refresh tokens do not stand among the sessions, which are lists of
    /// access tokens, and would all be refused for that. Those that have been revoked stand on the blacklist.
    pub fn concerns(self, rule: &Rule) -> bool {
        let lists_sessions = rule.sql.as_ref().is_some_and(|sql| sql.deny_if == Condition::LiveSession);
        !(self == Self::Strict && lists_sessions)
    }

    /// Whether a store's finding must be put to the database once more.
    pub fn doubts(self, finding: &Result<Finding, StoreError>) -> bool {
        self == Self::Strict && !matches!(finding, Ok(Finding::Denied | Finding::Because(_)))
    }
}

impl Ledger {
    /// As [`Ledger::find`], for a token that begets others: what the database can answer it is asked, whatever memory
    /// and Redis say in the token's favour; and a token from before the last change of its user's status is void.
    pub async fn find_strictly(&self, questions: &Questions, claims: &Claims, now: Timestamp) -> Lookup {
        Box::pin(self.find_meant(questions, claims, Thoroughness::Strict, now)).await
    }
}
