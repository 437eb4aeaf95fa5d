//! A user's sessions as the services' own tables tell of them.

use super::preset::Preset;
use super::schema::{number, text};
use super::store::StoreError;
use super::{Ledger, User};
use crate::time::Timestamp;

/// A live session. Holds the token: it has no `Debug`.
pub struct StoredSession {
    pub compact: Box<str>,
    pub expires_at: Option<Timestamp>,
}

/// No user is shown more.
const MOST: usize = 1000;

impl Ledger {
    /// A user's live sessions, in no order; none where no layout keeps any.
    pub async fn sessions(&self, user: &User) -> Result<Vec<StoredSession>, StoreError> {
        let user = self.user_meant(user).await?;
        let mut sessions = Vec::new();
        for layout in self.writer.presets.iter().filter_map(Preset::sessions) {
            let query = layout.sessions_query(&self.writer.context, &user.subject);
            let Some((sql, id)) = query else { continue };
            let rows = self.database.sql.rows(&format!("{sql} LIMIT {MOST}"), &[id]).await?;
            sessions.extend(rows.iter().filter_map(|row| {
                let expires_at = number(row, 1).map(Timestamp::from_millis);
                Some(StoredSession { compact: text(row, 0)?.into(), expires_at })
            }));
        }
        let now = Timestamp::now();
        sessions.retain(|session| session.expires_at.is_none_or(|end| end > now));
        Ok(sessions)
    }
}
