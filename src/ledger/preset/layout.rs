//! What a layout of services can be asked: what it keeps of users, and what of revoked tokens.

use std::time::Duration;

use super::{
    Listing, Occasion, OwnedToken, PresetContext, RevokedToken, SqlWrite, Standing, TableRows, filling,
};
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::{Row, Value};
use crate::time::Timestamp;

/// What to look at to learn that a service has changed a user without telling anybody.
pub(in crate::ledger) struct Watched<'a> {
    pub table: &'a Table,
    /// Holds what tokens call the subject.
    pub id: &'a Column,
    /// What decides about a user.
    pub columns: Vec<&'a Column>,
    /// Holds the instant of the last such change, if services keep it.
    pub changed_at: Option<&'a Column>,
}

impl<'a> Watched<'a> {
    /// The deciding columns and the id.
    pub fn all(&self) -> Vec<&'a Column> {
        let mut all = self.columns.clone();
        if !all.contains(&self.id) {
            all.push(self.id);
        }
        all
    }
}

/// A layout that says which users are denied: the services' half of a user's [`Standing`].
pub(in crate::ledger) trait UserLayout: Send + Sync {
    /// What Redis is to hold for a user of that standing.
    fn writes(&self, standing: &Standing, context: &PresetContext, now: Timestamp) -> Vec<RedisWrite>;

    /// The update of the services' own table; `None` where there is none. The error names what cannot be stored.
    fn row_write(
        &self,
        _standing: &Standing,
        _occasion: Occasion,
        _context: &PresetContext,
        _now: Timestamp,
    ) -> Result<Option<SqlWrite>, String> {
        Ok(None)
    }

    /// Asks the services' own table for the columns `status` (a word) and `not_before` (unix milliseconds) of one user;
    /// `None` without a table, or where it cannot hold such an id.
    fn row_query(&self, _context: &PresetContext, _subject: &str) -> Option<(String, Value)> {
        None
    }

    /// The services' own table, as far as changes of it matter; `None` where there is none.
    fn watched<'a>(&self, _context: &'a PresetContext) -> Option<Watched<'a>> {
        None
    }

    /// Whether a cut-off would be seen.
    fn carries_cut_off(&self, context: &PresetContext) -> bool;

    /// The rows of the services' own table that hold something against their users, for filling Redis from; `None`
    /// without a table. The columns after the id are read by [`UserLayout::denied_row`].
    fn denied_rows<'a>(&self, _context: &'a PresetContext) -> Option<TableRows<'a>> {
        None
    }

    /// What a row of [`UserLayout::denied_rows`] says, from what follows its id. By default the columns are `status` (a
    /// word; none that is known means deactivated) and `not_before` (unix milliseconds). The version is the filler's
    /// affair: such rows have none.
    fn denied_row(&self, subject: &str, row: &Row) -> Option<Standing> {
        Some(filling::denied_row(subject, row))
    }

    /// Where its entries are found in Redis, so that those which an older copy has brought back can be looked into. Only
    /// of a layout that decides alone.
    fn listings(&self) -> Vec<Listing> {
        Vec::new()
    }

    /// Whether the services' own table alone says who is denied in this layout: every ban that was ever given has its
    /// row there, so that a ban which stands in our table only has been lifted in theirs. Then Redis is filled from
    /// theirs alone.
    fn decides_alone(&self, _context: &PresetContext) -> bool {
        false
    }

    /// How long its keys live at most before they have to be renewed.
    fn ttl(&self, context: &PresetContext) -> Duration {
        context.refresh_lifetime
    }
}

/// A layout that lists revoked tokens.
pub(in crate::ledger) trait TokenLayout: Send + Sync {
    /// What Redis is to hold for a revoked token.
    fn writes(&self, token: &RevokedToken<'_>, context: &PresetContext) -> Vec<RedisWrite>;

    /// The row of the services' own table; `None` where there is none. The error names what the table wants and the
    /// token lacks.
    fn row_write(
        &self,
        _token: &RevokedToken<'_>,
        _context: &PresetContext,
    ) -> Result<Option<SqlWrite>, String> {
        Ok(None)
    }

    /// The same token's row in a second table.
    fn other_row_write(&self, _token: &RevokedToken<'_>, _context: &PresetContext) -> Option<SqlWrite> {
        None
    }

    /// How the keys of its sets of tokens begin, from which nobody takes tokens that have expired; `None` without such sets.
    fn sets(&self) -> Option<&str> {
        None
    }

    /// The rows of the services' own table that list tokens which could still be presented, for filling Redis from;
    /// `None` without a table. The columns after the token are read by [`TokenLayout::revoked_row`].
    fn revoked_rows<'a>(&self, _context: &'a PresetContext, _now: Timestamp) -> Option<TableRows<'a>> {
        None
    }

    /// What a row of [`TokenLayout::revoked_rows`] says, from what follows the token: by default `user_id` (as text),
    /// the token's end and the instant of its revocation (unix milliseconds).
    fn revoked_row(&self, compact: &str, row: &Row, now: Timestamp) -> Option<OwnedToken> {
        Some(filling::revoked_row(compact, row, now))
    }

    /// Table, key column and expiry column, for clearing away.
    fn expiry<'a>(&self, _context: &'a PresetContext) -> Option<(&'a str, &'a str, &'a Column)> {
        None
    }
}
