//! Whether the services' tables are what a preset takes them for. Where nobody has named a table there may be none, and
//! Redis and Portcullis's own are asked. But one that was named and is not there, or has not the columns that decide, would
//! be overlooked with all its bans.

use super::{Preset, PresetContext, SqlName};
use crate::ledger::schema::Column;

/// What a preset must find in the database.
struct Needs<'a> {
    preset: &'static str,
    table: &'a SqlName,
    /// What the table is called unless the configuration says otherwise.
    usual: &'static str,
    columns: [&'a SqlName; 2],
}

impl Preset {
    fn needs(&self) -> Option<Needs<'_>> {
        let (preset, table, usual, columns) = match self {
            Self::Native(_) | Self::Record(_) => return None,
            Self::TokenBlacklist(it) => {
                ("token-blacklist", &it.table, "blacklisted_tokens", [&it.columns.token; 2])
            }
            Self::InvalidUsers(it) => {
                ("invalid-users", &it.table, "users", [&it.columns.user_id, &it.columns.status])
            }
            Self::ActiveFlagCache(it) => {
                ("active-flag-cache", &it.table, "users", [&it.user_id, &it.is_active])
            }
            Self::UserCache(it) => {
                ("user-cache", &it.table, "users", [&it.columns.id, &it.columns.is_active])
            }
            Self::SessionStore(it) => {
                ("session-store", &it.table, "sessions", [&it.columns.token, &it.columns.user_id])
            }
        };
        Some(Needs { preset, table, usual, columns })
    }

    /// What is wrong with its table, in a sentence.
    pub(in crate::ledger) fn misfit(&self, context: &PresetContext) -> Option<String> {
        let Needs { preset, table: name, usual, columns } = self.needs()?;
        let Some(table) = context.table(name) else {
            let named = name.as_str() != usual;
            return named.then(|| {
                format!("there is no table `{}`, which `[ledger.preset.{preset}]` names", name.as_str())
            });
        };
        let mut lacks: Vec<_> = columns.map(SqlName::as_str).into();
        lacks.retain(|column| table.column(column).is_none());
        lacks.dedup();
        let has: Vec<_> = table.columns().map(Column::bare).collect();
        (!lacks.is_empty()).then(|| {
            format!(
                "the preset `{preset}` needs `{}` in the table `{}`, which has `{}`: \
                 `[ledger.preset.{preset}]` says what they are called (`table`, `columns`)",
                lacks.join("`, `"),
                name.as_str(),
                has.join("`, `")
            )
        })
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

    fn misfit(table: &str, columns: Option<&[&str]>) -> Option<String> {
        let name = |name: &str| SqlName::parse(name).expect("a name");
        let preset = Preset::ActiveFlagCache(ActiveFlagCache {
            prefix: "user:".into(),
            suffix: ":active".into(),
            ttl: Duration::from_secs(300),
            encoding: Spelling::Plain,
            table: name(table),
            user_id: name("user_id"),
            is_active: name("is_active"),
            unknown_user: UnknownUser::Deny,
        });
        let mut context =
            PresetContext::assumed(Dialect::Postgres, &[], Duration::ZERO, Duration::ZERO, Duration::ZERO);
        if let Some(columns) = columns {
            context.tables.insert(table.into(), Table::assumed(Dialect::Postgres, table, columns));
        }
        preset.misfit(&context)
    }

    #[test]
    fn a_table_without_the_columns_that_decide_is_told_with_what_it_has() {
        let told = misfit("users", Some(&["user_id", "active"])).expect("a misfit");
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
    fn a_table_that_has_them_is_fine_and_one_that_nobody_named_may_be_missing() {
        assert_eq!(misfit("accounts", Some(&["USER_ID", "is_active", "email"])), None);
        assert_eq!(misfit("users", None), None);
        assert!(misfit("accounts", None).expect("a misfit").contains("no table `accounts`"));
    }
}
