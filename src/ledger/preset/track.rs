//! Layouts that keep what logins open: the tokens a user holds, as services that have such a layout keep them.

use super::{PresetContext, SqlWrite, TokenBlacklist, remaining};
use crate::claims::User;
use crate::ledger::change::TokenKind;
use crate::ledger::redis::RedisWrite;
use crate::time::Timestamp;

/// Before a refresh token's key.
const REFRESH_PREFIX: &str = "refresh_token:";

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
            Self::Native(_) | Self::InvalidUsers(_) => None,
        }
    }

    /// Whether it keeps what logins open.
    pub fn tracks(&self) -> bool {
        self.sessions().is_some()
    }
}

impl SessionLayout for TokenBlacklist {
    /// As services write it: `{"userId":…,"expiresAt":"…","isRevoked":false}`, for the rest of the token's life.
    fn tracked_writes(&self, token: &TrackedToken<'_>, context: &PresetContext) -> Vec<RedisWrite> {
        if token.kind != TokenKind::Refresh {
            return Vec::new();
        }
        let subject = &*token.user.subject;
        // An id that is a number in the database is a number to the services.
        let number = subject.parse::<i64>().ok().filter(|id| id.to_string() == subject);
        let value = serde_json::json!({
            "userId": number.map_or_else(|| serde_json::json!(subject), |id| serde_json::json!(id)),
            "expiresAt": token.expires_at.map(|at| at.to_string()),
            "isRevoked": false,
        });
        let ttl = remaining(token.expires_at.map(|end| end.plus(context.leeway)), token.at);
        vec![RedisWrite::Set {
            key: format!("{REFRESH_PREFIX}{}", token.compact),
            value: value.to_string(),
            ttl,
        }]
    }
}
