//! A table without triggers is asked for the rows whose change time is recent, if it keeps one.

use std::collections::HashMap;
use std::time::Duration;

use crate::ledger::preset::Watched;
use crate::ledger::schema::{number, text};
use crate::ledger::sql::SqlStore;
use crate::ledger::store::StoreError;
use crate::time::Timestamp;

/// A row becomes visible when its transaction commits, with the time at which it was written: longer than any transaction.
const OVERLAP: Duration = Duration::from_secs(60);
/// Columns that know whole seconds only show two changes within one as one: such a row is reported again.
const GRAIN: Duration = Duration::from_secs(2);
/// Rows read in one go.
const BATCH: usize = 1000;

/// One table, and which of its recent changes are known.
pub struct Delta<'a> {
    pub watched: &'a Watched<'a>,
    /// Then nothing has to be asked.
    pub has_triggers: bool,
    known: HashMap<Box<str>, i64>,
}

impl<'a> Delta<'a> {
    pub fn new(watched: &'a Watched<'a>) -> Self {
        Self { watched, has_triggers: false, known: HashMap::new() }
    }

    /// Who has changed lately and was not reported for that change yet.
    pub async fn look(&mut self, sql: &SqlStore, now: Timestamp) -> Result<Vec<Box<str>>, StoreError> {
        let Some(changed_at) = self.watched.changed_at else { return Ok(Vec::new()) };
        let Watched { table, id, .. } = self.watched;
        // Tables are stamped by the database's clock, or by services whose clocks are near it.
        let now = sql.clock(now).await?;
        let since = back(now, OVERLAP);
        let (spelled, millis) = (id.spelled(table.name()), changed_at.millis());
        let (time, id, from) = (&changed_at.name, &id.name, table.name());
        let first = format!(
            "SELECT {spelled} AS id, {millis} AS at FROM {from} WHERE {time} >= {} ORDER BY {id} LIMIT {BATCH}",
            changed_at.slot()
        );
        let next = first.replace(" ORDER BY", &format!(" AND {id} > {} ORDER BY", self.watched.id.slot()));
        let (mut found, mut values) = (HashMap::new(), vec![changed_at.instant(since)]);
        let mut statement = &first;
        loop {
            let rows = sql.rows(statement, &values).await?;
            let read = rows.iter().filter_map(|row| Some((Box::from(text(row, 0)?), number(row, 1)?)));
            found.extend(read);
            let last =
                rows.last().and_then(|row| text(row, 0)).and_then(|it| self.watched.id.cast().value(&it));
            match last {
                Some(last) if rows.len() == BATCH => {
                    values = vec![changed_at.instant(since), last];
                    statement = &next;
                }
                _ => break,
            }
        }
        let fresh = back(now, GRAIN).millis();
        let news = found.iter().filter(|(id, at)| **at >= fresh || self.known.get(*id) != Some(*at));
        let news = news.map(|(id, _)| id.clone()).collect();
        self.known = found;
        Ok(news)
    }
}

fn back(now: Timestamp, by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.millis().saturating_sub(by))
}
