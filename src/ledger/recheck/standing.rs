//! What the database says of a user, layout by layout, and what Redis is to hold for that.

use crate::claims::User;
use crate::ledger::change::Status;
use crate::ledger::preset::Standing;
use crate::ledger::redis::RedisWrite;
use crate::ledger::schema::{number, text};
use crate::ledger::sql::{Dialect, Row, Transaction};
use crate::ledger::store::StoreError;
use crate::ledger::write::Writer;
use crate::time::Timestamp;

/// What a user is to one layout, and what Redis is to hold there.
pub struct Standings {
    pub standing: Standing,
    pub writes: Vec<RedisWrite>,
}

impl Writer {
    pub async fn standings(&self, subject: &str, now: Timestamp) -> Result<Vec<Standings>, StoreError> {
        let own = self.sql.rows(&self.own_rows(), &[subject.into()]).await?;
        let mut rows = Vec::new();
        for layout in self.users() {
            rows.push(match layout.row_query(&self.context, subject) {
                Some((sql, id)) => Some(self.sql.rows(&sql, &[id]).await?),
                None => None,
            });
        }
        Ok(self.compose(subject, &own, &rows, None, now))
    }

    pub async fn standings_in(
        &self,
        open: &mut Transaction,
        subject: &str,
        version: i64,
        now: Timestamp,
    ) -> Result<Vec<Standings>, StoreError> {
        let own = open.rows(&self.own_rows(), &[subject.into()]).await?;
        let mut rows = Vec::new();
        for layout in self.users() {
            rows.push(match layout.row_query(&self.context, subject) {
                Some((sql, id)) => Some(open.rows(&sql, &[id]).await?),
                None => None,
            });
        }
        Ok(self.compose(subject, &own, &rows, Some(version), now))
    }

    /// Binary columns of MySQL are cast to be read as text.
    pub fn readable(&self, column: &str) -> String {
        match self.sql.dialect() {
            Dialect::MySql => format!("CONVERT({column} USING utf8mb4)"),
            Dialect::Sqlite | Dialect::Postgres => column.to_owned(),
        }
    }

    /// Of every realm: a service's key may name the subject alone.
    fn own_rows(&self) -> String {
        let realm = self.readable("realm");
        format!(
            "SELECT {realm} AS realm, status, reason, until_at, not_before, version FROM portcullis_users \
             WHERE subject = ?"
        )
    }

    /// A layout with a table of its own goes by it, the others by ours.
    fn compose(
        &self,
        subject: &str,
        own: &[Row],
        rows: &[Option<Vec<Row>>],
        version: Option<i64>,
        now: Timestamp,
    ) -> Vec<Standings> {
        let own: Vec<Standing> = own.iter().filter_map(|row| own_standing(subject, row, now)).collect();
        let mut all = Vec::new();
        for (layout, rows) in self.users().zip(rows) {
            let standings = match rows {
                None => own.clone(),
                // A user without a row: the layout has a rule about that, and nothing to hold in Redis.
                Some(rows) => rows.first().map(|row| row_standing(subject, row, &own)).into_iter().collect(),
            };
            for standing in standings {
                let standing = Standing { version: version.unwrap_or(standing.version), ..standing };
                let writes = layout.writes(&standing, &self.context, now);
                all.push(Standings { standing, writes });
            }
        }
        all
    }
}

fn own_standing(subject: &str, row: &Row, now: Timestamp) -> Option<Standing> {
    let instant = |index| number(row, index).map(Timestamp::from_millis);
    // A ban whose end has passed is over, whatever has not been tidied up yet.
    let over = instant(3).is_some_and(|until| until <= now);
    Some(Standing {
        user: User { realm: text(row, 0)?.into(), subject: subject.into() },
        status: Status::of(&text(row, 1)?).filter(|_| !over).unwrap_or(Status::Active),
        reason: text(row, 2).filter(|_| !over),
        until: instant(3).filter(|_| !over),
        not_before: instant(4),
        version: number(row, 5).unwrap_or(0),
    })
}

/// A status that is no known word denies. When it ends is known where the ban is ours.
fn row_standing(subject: &str, row: &Row, own: &[Standing]) -> Standing {
    let status = text(row, 0).and_then(|word| Status::of(word.trim())).unwrap_or(Status::Deactivated);
    let ours = own.iter().find(|own| own.status == status && status != Status::Active);
    Standing {
        user: User { realm: "".into(), subject: subject.into() },
        status,
        reason: ours.and_then(|own| own.reason.clone()),
        until: ours.and_then(|own| own.until),
        not_before: number(row, 1).map(Timestamp::from_millis),
        version: ours.map_or(0, |own| own.version),
    }
}
