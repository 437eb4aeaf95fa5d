//! Writing down what a login has opened.

use super::Writer;
use crate::claims::User;
use crate::ledger::change::{ChangeError, OpenedToken};
use crate::ledger::preset::{Preset, TrackedToken};
use crate::ledger::redis::RedisWrite;
use crate::ledger::sql::Transaction;
use crate::time::Timestamp;

/// Verified tokens of one login.
pub(super) struct Opened<'a> {
    pub user: &'a User,
    pub tokens: &'a [OpenedToken],
}

impl Writer {
    /// Rows of the services' tables now; what Redis is to be told is returned.
    pub(super) async fn track(
        &self,
        open: &mut Transaction,
        opened: &Opened<'_>,
        now: Timestamp,
    ) -> Result<Vec<RedisWrite>, ChangeError> {
        let mut writes = Vec::new();
        for OpenedToken { compact, kind, expires_at } in opened.tokens {
            let token =
                TrackedToken { compact, kind: *kind, user: opened.user, expires_at: *expires_at, at: now };
            for layout in self.presets.iter().filter_map(Preset::sessions) {
                let rows = layout.tracked_rows(&token, &self.context);
                for row in rows.map_err(|why| ChangeError::Invalid { field: "token", why })? {
                    self.write_row(open, Some(row)).await?;
                }
                writes.extend(layout.tracked_writes(&token, &self.context));
            }
        }
        Ok(writes)
    }
}
