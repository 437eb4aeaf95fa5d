//! How thoroughly a credential is looked into.

use super::condition::Finding;
use super::store::StoreError;

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
    /// Whether a store's finding must be put to the database once more.
    pub fn doubts(self, finding: &Result<Finding, StoreError>) -> bool {
        self == Self::Strict && !matches!(finding, Ok(Finding::Denied | Finding::Because(_)))
    }
}
