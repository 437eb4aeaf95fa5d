//! Layouts that keep what logins open: the tokens a user holds, as services that have such a layout keep them.

use super::{PresetContext, SqlWrite, TokenBlacklist};
use crate::claims::User;
use crate::ledger::change::TokenKind;
use crate::ledger::redis::RedisWrite;
use crate::ledger::sql::Value;
use crate::time::Timestamp;

/// A layout that keeps sessions.
pub(in crate::ledger) trait SessionLayout: Send + Sync {
    /// What Redis is to hold for a token that a login has opened.
    fn tracked_writes(&self, _token: &TrackedToken<'_>, _context: &PresetContext) -> Vec<RedisWrite> {
        Vec::new()
    }

    /// The rows of the services' own tables. The error names what a table wants and the token lacks.
    fn tracked_rows(
        &self,
        _token: &TrackedToken<'_>,
        _context: &PresetContext,
    ) -> Result<Vec<SqlWrite>, String> {
        Ok(Vec::new())
    }

    /// Asks for the columns `token` and `expires_at` (unix milliseconds) of a user's live sessions; `None` where no table
    /// tells of them.
    fn sessions_query(&self, _context: &PresetContext, _subject: &str) -> Option<(String, Value)> {
        None
    }
}

/// A token that a service has just made, verified.
#[derive(Clone, Copy)]
pub(in crate::ledger) struct TrackedToken<'a> {
    pub compact: &'a str,
    pub kind: TokenKind,
    pub user: &'a User,
    pub expires_at: Option<Timestamp>,
    pub at: Timestamp,
}

impl super::Preset {
    /// The preset as a layout of sessions, where it is one.
    pub(in crate::ledger) fn sessions(&self) -> Option<&dyn SessionLayout> {
        match self {
            Self::TokenBlacklist(preset) => Some(preset),
            Self::SessionStore(preset) => Some(preset),
            Self::Native(_)
            | Self::InvalidUsers(_)
            | Self::ActiveFlagCache(_)
            | Self::UserCache(_)
            | Self::Record(_) => None,
        }
    }

    /// Whether it keeps what logins open.
    pub fn tracks(&self) -> bool {
        self.sessions().is_some()
    }
}

/// Its refresh tokens.
impl SessionLayout for TokenBlacklist {
    fn tracked_writes(&self, token: &TrackedToken<'_>, context: &PresetContext) -> Vec<RedisWrite> {
        self.refresh.tracked_writes(token, context)
    }

    fn tracked_rows(
        &self,
        token: &TrackedToken<'_>,
        context: &PresetContext,
    ) -> Result<Vec<SqlWrite>, String> {
        self.refresh.tracked_rows(token, context)
    }
}
