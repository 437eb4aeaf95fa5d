//! All rules and the stores behind them. Asks; never denies, never speaks HTTP.

pub mod change;
pub mod migrate;
pub mod outbox;
pub mod preset;
pub mod records;
pub mod redis;
pub mod rule;
pub mod schema;
pub mod settings;
pub mod sql;
pub mod store;
pub mod upkeep;
pub mod write;

use std::sync::Arc;

use prometheus::Registry;

use crate::claims::{Claims, User};
use crate::time::Timestamp;
use crate::token::Token;

pub use change::{Applied, Change, ChangeError, Status, UserRecord};
pub use rule::{Guards, Rule};
pub use settings::{DatabaseSettings, LedgerSettings, RedisSettings};

/// Three answers, not two: *could not ask* is neither yes nor no.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// No rule denies.
    Live,
    /// A rule denies. A known revocation outweighs an outage elsewhere.
    Revoked(Revocation),
    /// No rule denies, but some could not be asked anywhere.
    Unknown(Outage),
}

/// What a rule holds against a credential.
#[derive(Clone, Debug, PartialEq)]
pub struct Revocation {
    /// The rule that denies, as configured.
    pub rule: Arc<str>,
    /// The word of the denial: `token_revoked`, `user_banned`, or the operator's own.
    pub reason: Arc<str>,
    /// The status the rule prescribes: 401 or 403 unless the operator wrote another.
    pub status: u16,
    /// Which store said so.
    pub source: Source,
}

/// Which store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Memory,
    Redis,
    Database,
}

/// Why a question had no answer. For the operator only.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rule `{rule}` could not be asked: {cause}")]
pub struct Outage {
    pub rule: Arc<str>,
    pub cause: Arc<str>,
}

/// The questions a credential raises, rendered once per token and kept with it: no allocation when asked again.
#[derive(Debug)]
pub struct Questions {}

/// A claim a rule needs to name its key is missing or cannot be part of a key: the credential is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("claim `{0}` is missing or cannot name a key")]
pub struct Unaskable(pub Box<str>);

/// How answers are found at present (SPEC: coherent, direct, database, blind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Direct,
    Database,
    Blind,
}

/// The ledger.
pub struct Ledger {}

impl Ledger {
    /// Renders what has to be asked about a credential. Pure.
    pub fn questions(&self, claims: &Claims, token: &Token<'_>) -> Result<Questions, Unaskable> {
        todo!()
    }

    /// Asks. One Redis round trip at most; the database only for what Redis leaves open.
    pub async fn find(&self, questions: &Questions, claims: &Claims, now: Timestamp) -> Lookup {
        todo!()
    }

    /// Writes a change: the database first, then Redis, then the answer.
    pub async fn apply(&self, change: &Change, now: Timestamp) -> Result<Applied, ChangeError> {
        todo!()
    }
}
