//! Whom a change, or an address of the control API, means where it names a user by an alias.

use super::{Aliases, id_of};
use crate::claims::User;
use crate::ledger::sql::Statement;
use crate::ledger::store::StoreError;
use crate::ledger::{Change, ChangeError, Ledger};
use crate::template::Field;

impl Ledger {
    /// A change about the user whom an alias means is a change about the id. By the database alone: it is the truth.
    pub(in crate::ledger) async fn about_ids(&self, change: &Change) -> Result<Option<Change>, ChangeError> {
        let Some(aliases) = &self.aliases else { return Ok(None) };
        let mut change = change.clone();
        let user = match &mut change {
            Change::Status { user, .. }
            | Change::Lift { user }
            | Change::Logout { user }
            | Change::Track { user, .. } => user,
            Change::Token { claims: Some(facts), .. } => &mut facts.user,
            Change::Token { claims: None, .. } | Change::TokenId { .. } | Change::Session { .. } => {
                return Ok(None);
            }
        };
        let id = self.id_of(aliases, &user.subject).await;
        let Some(id) = id.map_err(|error| ChangeError::Unavailable(Box::new(error)))? else {
            return Ok(None);
        };
        user.subject = id;
        Ok(Some(change))
    }

    /// The id of whom an address of the control API means, where that is an alias.
    pub(in crate::ledger) async fn user_meant(&self, user: &User) -> Result<User, StoreError> {
        let Some(aliases) = &self.aliases else { return Ok(user.clone()) };
        let id = self.id_of(aliases, &user.subject).await?;
        Ok(User { subject: id.unwrap_or_else(|| user.subject.clone()), ..user.clone() })
    }

    async fn id_of(&self, aliases: &Aliases, subject: &str) -> Result<Option<Box<str>>, StoreError> {
        let argument = |field: &Field| -> crate::ledger::sql::Argument {
            debug_assert_eq!(*field, Field::Alias);
            subject.into()
        };
        let arguments = |statement: &Statement| statement.fields().map(argument).collect::<Box<[_]>>();
        if aliases.is_id(subject) {
            let known = self.database.sql.first_row(&aliases.known, &arguments(&aliases.known)).await?;
            if known.is_some() {
                return Ok(None);
            }
        }
        for kind in aliases.kinds_of(subject) {
            let row = self.database.sql.first_row(&kind.find, &arguments(&kind.find)).await?;
            if let Some(id) = id_of(row.as_ref())? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}
