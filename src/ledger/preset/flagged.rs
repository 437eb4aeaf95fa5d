//! A services' table of users with a flag that says who may enter: what `active-flag-cache` and `user-cache` share.
//!
//! The flag knows two states, a status five: which word it was stands in `portcullis_users`. The flag decides; the word
//! only tells why. Where the table does not exist, `portcullis_users` stands in for it.

use std::time::Duration;

use super::{
    Occasion, PresetContext, SqlName, SqlWrite, Standing, TableRows, UnknownUser, UserLayout, Watched,
};
use crate::ledger::change::Status;
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::{Cast, Value};
use crate::time::Timestamp;

/// A layout over such a table; what follows from that alone it has by [`UserLayout`].
pub(super) trait FlagLayout: Send + Sync {
    /// The table, where it exists with these columns.
    fn users<'a>(&self, context: &'a PresetContext) -> Option<Flagged<'a>>;

    /// Whether a user without a row in the table is refused or passes.
    fn unknown_user(&self) -> UnknownUser;

    /// As [`UserLayout::ttl`].
    fn life(&self, context: &PresetContext) -> Duration;

    /// As [`UserLayout::writes`].
    fn keys(&self, standing: &Standing, now: Timestamp) -> Vec<RedisWrite>;
}

impl<L: FlagLayout> UserLayout for L {
    fn writes(&self, standing: &Standing, _context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        self.keys(standing, now)
    }

    fn row_write(
        &self,
        standing: &Standing,
        occasion: Occasion,
        context: &PresetContext,
        _now: Timestamp,
    ) -> Result<Option<SqlWrite>, String> {
        self.users(context).map_or(Ok(None), |users| users.write(standing, occasion, self.unknown_user()))
    }

    /// The record beside it does.
    fn carries_cut_off(&self, _context: &PresetContext) -> bool {
        false
    }

    fn watched<'a>(&self, context: &'a PresetContext) -> Option<Watched<'a>> {
        Some(self.users(context)?.watched())
    }

    fn row_query(&self, context: &PresetContext, subject: &str) -> Option<(String, Value)> {
        self.users(context)?.standing_query(subject)
    }

    fn denied_rows<'a>(&self, context: &'a PresetContext) -> Option<TableRows<'a>> {
        self.users(context).map(Flagged::denied)
    }

    /// A user without a row is refused: so whoever is banned has one.
    fn decides_alone(&self, context: &PresetContext) -> bool {
        self.unknown_user() == UnknownUser::Deny && self.users(context).is_some()
    }

    fn ttl(&self, context: &PresetContext) -> Duration {
        self.life(context)
    }
}

/// The table with the columns that are needed.
#[derive(Clone, Copy)]
pub(super) struct Flagged<'a> {
    pub table: &'a Table,
    pub id: &'a Column,
    pub flag: &'a Column,
}

impl<'a> Flagged<'a> {
    /// `None` where there is no such table, or not with these columns.
    pub fn find(context: &'a PresetContext, table: &SqlName, id: &SqlName, flag: &SqlName) -> Option<Self> {
        let table = context.table(table)?;
        Some(Self { table, id: table.column(id.as_str())?, flag: table.column(flag.as_str())? })
    }

    /// The user's row: `portcullis_active`, `portcullis_status` for a flag that is down, and these columns besides.
    pub fn query(&self, more: &[&Column]) -> String {
        // As text where the database keeps sixteen bytes.
        let named = |column: &&Column| match column.cast() {
            Cast::Uuid => format!(", {} AS {}", column.readable(), column.name),
            _ => format!(", {}", column.name),
        };
        let more: String = more.iter().map(named).collect();
        let (flag, table, id) = (self.flag.truth(), self.table.name(), &self.id.name);
        let place = self.id.placeholder("sub");
        format!(
            "SELECT u.*, p.status AS portcullis_status FROM (SELECT {flag} AS portcullis_active{more} FROM {table} WHERE {id} = {place}) AS u \
             LEFT JOIN portcullis_users p ON p.realm = {{realm}} AND p.subject = {{sub}}"
        )
    }

    /// As far as changes of it matter. Where services keep an instant of the last change, it has one of these names.
    pub fn watched(&self) -> Watched<'a> {
        let changed_at = ["status_updated_at", "updated_at"].iter().find_map(|name| self.table.column(name));
        Watched { table: self.table, id: self.id, columns: vec![self.flag], changed_at }
    }

    /// What Portcullis itself holds, where there is no such table.
    pub fn stand_in() -> String {
        "SELECT CASE WHEN p.status IN ('banned', 'deactivated', 'deleted') THEN 0 ELSE 1 END AS portcullis_active, \
         p.status AS portcullis_status FROM (SELECT 1 AS one) AS always \
         LEFT JOIN portcullis_users p ON p.realm = {realm} AND p.subject = {sub}"
            .to_owned()
    }

    /// Sets the flag. A logout and a security action leave it: they void tokens, and let the user in again.
    pub fn write(
        &self,
        standing: &Standing,
        occasion: Occasion,
        unknown_user: UnknownUser,
    ) -> Result<Option<SqlWrite>, String> {
        let up = match (occasion, standing.status) {
            (Occasion::Logout, _) | (_, Status::SecurityAction) => return Ok(None),
            (_, status) => status == Status::Active,
        };
        let lifted = matches!(occasion, Occasion::Lift(_));
        let Self { table, id, flag } = self;
        let Some(subject) = id.cast().value(&standing.user.subject) else {
            return Err(format!("the column {} holds no such id", id.name));
        };
        let sql =
            format!("UPDATE {} SET {} = {} WHERE {} = ?", table.name(), flag.name, flag.slot(), id.name);
        let must_match = unknown_user == UnknownUser::Deny && !lifted;
        Ok(Some(SqlWrite { sql, values: vec![flag.flag(up), subject], must_match }))
    }

    /// As [`super::UserLayout::denied_rows`].
    pub fn denied(self) -> TableRows<'a> {
        TableRows {
            table: self.table.name(),
            key: self.id,
            columns: "'deactivated', NULL".to_owned(),
            wanted: format!("{} = 0", self.flag.truth()),
            values: Vec::new(),
        }
    }

    /// As [`super::UserLayout::row_query`].
    pub fn standing_query(&self, subject: &str) -> Option<(String, Value)> {
        let Self { table, id, flag } = self;
        let sql = format!(
            "SELECT CASE WHEN {} = 1 THEN 'active' ELSE 'deactivated' END AS status, NULL AS not_before FROM {} WHERE {} = ?",
            flag.truth(),
            table.name(),
            id.name
        );
        Some((sql, id.cast().value(subject)?))
    }
}

/// Whether a standing takes the flag down, and for how long at most.
pub(super) fn is_down(standing: &Standing) -> bool {
    matches!(standing.status, Status::Banned | Status::Deactivated | Status::Deleted)
}
