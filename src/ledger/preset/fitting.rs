//! Whether the services' tables are what a preset takes them for. A table under another name may not be there at all, and
//! Redis alone is asked then; but one that is there, and has not the columns, would be overlooked with all its bans.

use super::{Preset, PresetContext, SqlName};
use crate::ledger::schema::Column;

/// A table that lacks what a preset must know.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Misfit<'a> {
    preset: &'static str,
    table: &'a SqlName,
    lacks: Vec<&'a str>,
    has: Vec<&'a str>,
}

impl std::fmt::Display for Misfit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { preset, table, lacks, has } = self;
        write!(
            f,
            "the preset `{preset}` needs `{}` in the table `{}`, which has `{}`: \
             `[ledger.preset.{preset}]` says what they are called (`table`, `columns`)",
            lacks.join("`, `"),
            table.as_str(),
            has.join("`, `")
        )
    }
}

impl Preset {
    /// The tables without which bans would be overlooked, and the columns that they must have.
    fn needs(&self) -> Option<(&'static str, &SqlName, [&SqlName; 2])> {
        Some(match self {
            Self::Native(_) | Self::Record(_) => return None,
            Self::TokenBlacklist(it) => {
                ("token-blacklist", &it.table, [&it.columns.token, &it.columns.token])
            }
            Self::InvalidUsers(it) => ("invalid-users", &it.table, [&it.columns.user_id, &it.columns.status]),
            Self::ActiveFlagCache(it) => ("active-flag-cache", &it.table, [&it.user_id, &it.is_active]),
            Self::UserCache(it) => ("user-cache", &it.table, [&it.columns.id, &it.columns.is_active]),
            Self::SessionStore(it) => ("session-store", &it.table, [&it.columns.token, &it.columns.user_id]),
        })
    }

    /// What is wrong with its table, if it is there.
    pub(in crate::ledger) fn misfit<'a>(&'a self, context: &'a PresetContext) -> Option<Misfit<'a>> {
        let (preset, name, needed) = self.needs()?;
        let table = context.table(name)?;
        let mut lacks: Vec<_> =
            needed.map(SqlName::as_str).into_iter().filter(|column| table.column(column).is_none()).collect();
        lacks.dedup();
        if lacks.is_empty() {
            return None;
        }
        Some(Misfit { preset, table: name, lacks, has: table.columns().map(Column::bare).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::UnknownUser;
    use super::*;
    use crate::ledger::preset::ActiveFlagCache;
    use crate::ledger::rule::Spelling;
    use crate::ledger::schema::Table;
    use crate::ledger::sql::Dialect;

    fn misfit(columns: Option<&[&str]>) -> Option<String> {
        let name = |name: &str| SqlName::parse(name).expect("a name");
        let preset = Preset::ActiveFlagCache(ActiveFlagCache {
            prefix: "user:".into(),
            suffix: ":active".into(),
            ttl: Duration::from_secs(300),
            encoding: Spelling::Plain,
            table: name("users"),
            user_id: name("user_id"),
            is_active: name("is_active"),
            unknown_user: UnknownUser::Deny,
        });
        let mut context =
            PresetContext::assumed(Dialect::Postgres, &[], Duration::ZERO, Duration::ZERO, Duration::ZERO);
        if let Some(columns) = columns {
            context.tables.insert("users".into(), Table::assumed(Dialect::Postgres, "users", columns));
        }
        preset.misfit(&context).map(|misfit| misfit.to_string())
    }

    #[test]
    fn a_table_without_the_columns_that_decide_is_told_with_what_it_has() {
        let told = misfit(Some(&["user_id", "active"])).expect("a misfit");
        for words in [
            "needs `is_active` in",
            "table `users`",
            "has `user_id`, `active`",
            "[ledger.preset.active-flag-cache]",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn a_table_that_has_them_and_one_that_is_not_there_are_no_misfits() {
        assert_eq!(misfit(Some(&["USER_ID", "is_active", "email"])), None);
        assert_eq!(misfit(None), None);
    }
}
