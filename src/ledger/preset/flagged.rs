//! A services' table of users with a flag that says who may enter: what `active-flag-cache` and `user-cache` share.
//!
//! The flag knows two states, a status five: which word it was stands in `portcullis_users`. The flag decides; the word
//! only tells why. Where the table does not exist, `portcullis_users` stands in for it.

use super::{Occasion, PresetContext, SqlName, SqlWrite, Standing, TableRows, UnknownUser};
use crate::ledger::change::Status;
use crate::ledger::schema::{Column, Table};
use crate::ledger::sql::{Cast, Value};

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
