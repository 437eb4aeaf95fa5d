//! What can be written: a user's status, a cut-off, a token's or a session's revocation.

use super::store::StoreError;
use crate::claims::User;
use crate::time::Timestamp;

/// A user's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    Banned,
    Deactivated,
    Deleted,
    /// Voids every token issued up to now; newer ones pass.
    SecurityAction,
}

impl Status {
    /// As it is written everywhere.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Banned => "banned",
            Self::Deactivated => "deactivated",
            Self::Deleted => "deleted",
            Self::SecurityAction => "security_action",
        }
    }

    /// The status of that word.
    pub fn of(word: &str) -> Option<Self> {
        let all = [Self::Active, Self::Banned, Self::Deactivated, Self::Deleted, Self::SecurityAction];
        all.into_iter().find(|status| status.word() == word)
    }
}

/// One change to the ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Status {
        user: User,
        status: Status,
        reason: Option<String>,
        until: Option<Timestamp>,
    },
    /// A status that ends by itself, if it still stands and its time has come: what was decided meanwhile is left alone.
    Lift {
        user: User,
    },
    /// Log out everywhere: tokens issued up to now are void, new logins work.
    Logout {
        user: User,
    },
    /// One token, given whole.
    Token {
        compact: Box<str>,
        claims: Option<TokenFacts>,
    },
    /// One token, known by its id only.
    TokenId {
        token_id: Box<str>,
        expires_at: Option<Timestamp>,
    },
    Session {
        session: Box<str>,
    },
    /// What a login has opened: verified tokens of one user. Not a revocation, and kept only by layouts that keep such.
    Track {
        user: User,
        tokens: Vec<OpenedToken>,
    },
}

/// A token that a service has just made.
#[derive(Clone, PartialEq)]
pub struct OpenedToken {
    pub compact: Box<str>,
    pub kind: TokenKind,
    pub expires_at: Option<Timestamp>,
}

/// Shows nothing of the token.
impl std::fmt::Debug for OpenedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedToken({:?}, {} bytes)", self.kind, self.compact.len())
    }
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Access,
    Refresh,
}

impl Change {
    /// Whose answers it changes; `None` where it cannot be told.
    pub(super) fn subject(&self) -> Option<&str> {
        match self {
            Self::Status { user, .. }
            | Self::Lift { user }
            | Self::Logout { user }
            | Self::Track { user, .. } => Some(&user.subject),
            Self::Token { claims, .. } => claims.as_ref().map(|facts| &*facts.user.subject),
            Self::TokenId { .. } | Self::Session { .. } => None,
        }
    }
}

/// What is known of a token that is being revoked (read from it; it need not verify any more).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenFacts {
    pub user: User,
    pub token_id: Option<Box<str>>,
    pub expires_at: Option<Timestamp>,
}

/// A change that stands.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Applied {
    /// Rises with every change; the newest wins everywhere.
    pub version: i64,
    /// Whether Redis holds it already.
    pub redis: RedisState,
}

/// Where Redis stands with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisState {
    /// Redis holds it.
    Applied,
    /// The database holds it; Redis will, as soon as it answers. Until then the database is asked.
    Pending,
    /// No Redis is configured.
    None,
}

/// Why a change was not made. Nothing is half-done.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No configured rule would enforce it, so to accept it would be a lie.
    #[error("nothing in the ledger guards {0}: add the preset `native`, or one that does")]
    NotGuarded(&'static str),
    #[error("the user is not known to the database")]
    UnknownUser,
    #[error("the value of `{field}` cannot be used: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("the database could not be asked")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ChangeError {
    /// A serialization failure or a deadlock: another transaction went first.
    pub(super) fn is_conflict(&self) -> bool {
        let Self::Unavailable(cause) = self else { return false };
        matches!(cause.downcast_ref(), Some(StoreError::Unavailable(said))
            if ["40001", "40P01", "1213", "1205"].iter().any(|code| said.ends_with(code)))
    }
}

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct UserRecord {
    pub id: String,
    pub realm: String,
    pub status: Status,
    pub reason: Option<String>,
    /// RFC 3339.
    pub until: Option<String>,
    /// RFC 3339: tokens issued up to this second are void.
    pub not_before: Option<String>,
    pub version: i64,
}
