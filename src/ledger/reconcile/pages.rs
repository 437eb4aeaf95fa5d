//! What the database holds against anybody, read page by page: our own tables by their keys or by version, the services'
//! tables by stretches of their keys. Never more than a page is in memory, and no query walks through a whole table.

use super::Parcel;
use crate::claims::User;
use crate::ledger::change::Status;
use crate::ledger::preset::{Standing, TableRows, TokenLayout, UserLayout};
use crate::ledger::schema::{Column, number, text};
use crate::ledger::sql::{Cast, Dialect, Row, Value};
use crate::ledger::store::StoreError;
use crate::ledger::write::{Revoked, Writer};
use crate::time::Timestamp;

/// Rows of our own read at one time.
const PAGE: usize = 1000;
/// Rows of a services' table that one query looks at: of users few are wanted, of tokens all, and they are long.
const STRETCH_OF_USERS: usize = 10_000;
const STRETCH_OF_TOKENS: usize = 1000;

/// Where rows come from, in the order in which they are read: theirs last, since they say what stands now.
pub enum Source<'a> {
    Users,
    Tokens,
    Sessions,
    Denied(&'a dyn UserLayout, TableRows<'a>),
    Listed(&'a dyn TokenLayout, TableRows<'a>),
}

/// Which rows come next.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    /// Behind this key; empty: from the beginning.
    Key(Vec<String>),
    /// Of our own tables only: changed after this version.
    Version(i64),
}

/// Some rows, as what Redis is to hold.
#[derive(Default)]
pub struct Page {
    pub parcels: Vec<Parcel>,
    pub rows: usize,
    /// Whom a services' table denied.
    pub denied: Vec<String>,
    /// `None`: that was the last.
    pub next: Option<From>,
}

impl<'a> Source<'a> {
    /// All that this configuration knows of.
    pub fn all(writer: &'a Writer, now: Timestamp) -> Vec<Self> {
        let mut all = vec![Self::Users, Self::Tokens, Self::Sessions];
        let denied =
            |layout: &'a dyn UserLayout| Some(Self::Denied(layout, layout.denied_rows(&writer.context)?));
        all.extend(writer.users().filter_map(denied));
        let listed = |layout: &'a dyn TokenLayout| {
            Some(Self::Listed(layout, layout.revoked_rows(&writer.context, now)?))
        };
        all.extend(writer.tokens().filter_map(listed));
        all
    }

    /// What it is called where somebody else has to go on: by its place among all, since two layouts may be kept in one
    /// table.
    pub fn name(&self, place: usize) -> String {
        let what = match self {
            Self::Users => "users".to_owned(),
            Self::Tokens => "tokens".to_owned(),
            Self::Sessions => "sessions".to_owned(),
            Self::Denied(_, rows) => format!("users of {}", rows.table),
            Self::Listed(_, rows) => format!("tokens of {}", rows.table),
        };
        format!("{place}: {what}")
    }

    /// Whether its keys have to be renewed: they live for a time that a layout prescribes, not as long as what they are
    /// about.
    pub fn is_of_users(&self) -> bool {
        matches!(self, Self::Users | Self::Denied(..))
    }

    /// The next rows. `version` is what rows without one are told as.
    pub async fn read(
        &self,
        writer: &Writer,
        from: &From,
        version: i64,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        match self {
            Self::Users => {
                let columns = ["status", "reason", "until_at", "not_before", "version"];
                let rows = own(writer, "portcullis_users", &["realm", "subject"], &columns, from).await?;
                Ok(page(rows, from, 2, 6, |row| user(writer, row, now)))
            }
            Self::Tokens => {
                let rows =
                    own(writer, "portcullis_tokens", &["kind", "id"], &["expires_at", "version"], from);
                Ok(page(rows.await?, from, 2, 3, |row| token(writer, row, now)))
            }
            Self::Sessions => {
                let rows = own(writer, "portcullis_sessions", &["sid"], &["expires_at", "version"], from);
                Ok(page(rows.await?, from, 1, 2, |row| session(writer, row, now)))
            }
            Self::Denied(layout, rows) => {
                let (found, next) = stretch(writer, rows, from, STRETCH_OF_USERS).await?;
                let put = |row: &Row| {
                    let subject = key_of(row, rows.key)?;
                    let standing = layout.denied_row(&subject, row)?;
                    let writes = layout.writes(&Standing { version, ..standing }, &writer.context, now);
                    Some((Parcel::restrictive(writes, version), subject))
                };
                let (parcels, denied) = found.iter().filter_map(put).unzip();
                Ok(Page { rows: found.len(), parcels, denied, next })
            }
            Self::Listed(layout, rows) => {
                let (found, next) = stretch(writer, rows, from, STRETCH_OF_TOKENS).await?;
                let put = |row: &Row| {
                    let token = layout.revoked_row(&text(row, 0)?, row, now)?;
                    let mut writes = layout.writes(&token.as_revoked(), &writer.context);
                    // Written as when it was revoked, and some of its life is over since.
                    writes.iter_mut().for_each(|write| write.age(token.at.until(now)));
                    Some(Parcel::restrictive(writes, version))
                };
                let parcels = found.iter().filter_map(put).collect();
                Ok(Page { rows: found.len(), parcels, denied: Vec::new(), next })
            }
        }
    }
}

fn page(
    rows: Vec<Row>,
    from: &From,
    keys: usize,
    version: usize,
    told: impl Fn(&Row) -> Option<Vec<Parcel>>,
) -> Page {
    let last = rows.last().filter(|_| rows.len() >= PAGE);
    let next = last.and_then(|last| match from {
        From::Key(_) => Some(From::Key((0..keys).map(|at| text(last, at)).collect::<Option<_>>()?)),
        // A change may have made two rows, of which one was the last: both are read again.
        From::Version(_) => Some(From::Version(number(last, version)?.saturating_sub(1))),
    });
    let parcels = rows.iter().filter_map(told).flatten().collect();
    Page { rows: rows.len(), parcels, denied: Vec::new(), next }
}

/// A page of one of our own tables. The first columns are its key.
async fn own(
    writer: &Writer,
    table: &str,
    keys: &[&str],
    columns: &[&str],
    from: &From,
) -> Result<Vec<Row>, StoreError> {
    let dialect = writer.sql.dialect();
    let read: Vec<String> = keys.iter().map(|key| readable(dialect, key)).collect();
    let list = keys.join(", ");
    let (behind, order, values): (String, String, Vec<Value>) = match from {
        From::Version(since) => ("version > ?".to_owned(), "version".to_owned(), vec![(*since).into()]),
        From::Key(after) if after.is_empty() => ("1 = 1".to_owned(), list, Vec::new()),
        From::Key(after) => {
            let after: Vec<Value> = after.iter().map(|key| key.as_str().into()).collect();
            match (keys, dialect) {
                // MySQL finds no range of an index in a comparison of rows, the others none in an alternative.
                ([first, second], Dialect::MySql) => {
                    let behind = format!("({first} = ? AND {second} > ?) OR {first} > ?");
                    let first = after.first().cloned();
                    (behind, list, after.into_iter().chain(first).collect())
                }
                _ => (format!("({list}) > ({})", vec!["?"; keys.len()].join(", ")), list, after),
            }
        }
    };
    let sql = format!(
        "SELECT {}, {} FROM {table} WHERE {behind} ORDER BY {order} LIMIT {PAGE}",
        read.join(", "),
        columns.join(", "),
    );
    writer.sql.rows(&sql, &values).await
}

/// The wanted rows of the next stretch, and where the one behind it begins.
async fn stretch(
    writer: &Writer,
    rows: &TableRows<'_>,
    from: &From,
    length: usize,
) -> Result<(Vec<Row>, Option<From>), StoreError> {
    let TableRows { table, key, columns, wanted, values } = rows;
    let (name, slot, shown) = (&key.name, key.slot(), readable_key(key));
    let after = match from {
        From::Key(after) => after.first(),
        From::Version(_) => return Ok((Vec::new(), None)),
    };
    let bound = |text: &String| {
        key.cast()
            .value(text)
            .ok_or_else(|| StoreError::Malformed(format!("a key of {table} cannot be read")))
    };
    let after = after.map(bound).transpose()?;
    let behind = if after.is_some() { format!("{name} > {slot}") } else { "1 = 1".to_owned() };
    let end =
        format!("SELECT {shown} FROM {table} WHERE {behind} ORDER BY {name} LIMIT 1 OFFSET {}", length - 1);
    let first: Vec<Value> = after.into_iter().collect();
    let end = writer.sql.rows(&end, &first).await?;
    let end = end.first().and_then(|row| key_of(row, key));
    let (until, last) = match &end {
        Some(end) => (format!(" AND {name} <= {slot}"), Some(bound(end)?)),
        None => (String::new(), None),
    };
    let sql = format!("SELECT {shown}, {columns} FROM {table} WHERE {behind}{until} AND ({wanted})");
    let all: Vec<Value> = first.into_iter().chain(last).chain(values.iter().cloned()).collect();
    let found = writer.sql.rows(&sql, &all).await?;
    Ok((found, end.map(|end| From::Key(vec![end]))))
}

/// A key as text. Binary ids have no text of their own.
fn readable_key(key: &Column) -> String {
    match (key.cast(), key.is_binary()) {
        (Cast::Uuid, true) => format!("lower(hex({}))", key.name),
        _ => key.as_text(),
    }
}

fn key_of(row: &Row, key: &Column) -> Option<String> {
    let text = text(row, 0)?;
    match key.cast() {
        Cast::Uuid => Some(uuid::Uuid::try_parse(&text).ok()?.to_string()),
        Cast::Int | Cast::Text => Some(text),
    }
}

/// Binary columns of MySQL are converted to be read as text.
fn readable(dialect: Dialect, column: &str) -> String {
    match dialect {
        Dialect::MySql => format!("CONVERT({column} USING utf8mb4)"),
        Dialect::Sqlite | Dialect::Postgres => column.to_owned(),
    }
}

fn user(writer: &Writer, row: &Row, now: Timestamp) -> Option<Vec<Parcel>> {
    let instant = |index| number(row, index).map(Timestamp::from_millis);
    let until = instant(4);
    let over = until.is_some_and(|until| until <= now);
    let standing = Standing {
        user: User { realm: text(row, 0)?.into(), subject: text(row, 1)?.into() },
        status: Status::of(&text(row, 2)?).filter(|_| !over).unwrap_or(Status::Active),
        reason: text(row, 3).filter(|_| !over),
        until: until.filter(|_| !over),
        not_before: instant(5),
        version: number(row, 6)?,
    };
    let version = standing.version;
    let (mut puts, mut removals) = (Vec::new(), Vec::new());
    for layout in writer.users() {
        let alone = layout.decides_alone(&writer.context);
        for write in layout.writes(&standing, &writer.context, now) {
            match write.puts() {
                // What stands in their table is put there from their table.
                true if alone => {}
                true => puts.push(write),
                false => removals.push(write),
            }
        }
    }
    Some(vec![Parcel::restrictive(puts, version), Parcel::permissive(removals, version)])
}

fn token(writer: &Writer, row: &Row, now: Timestamp) -> Option<Vec<Parcel>> {
    let kind = if text(row, 0)? == "jti" { "jti" } else { "sha256" };
    let (id, expires_at) = (text(row, 1)?, number(row, 2).map(Timestamp::from_millis));
    if expires_at.is_some_and(|end| end.plus(writer.context.leeway) <= now) {
        return None;
    }
    let revoked = Revoked { kind, id: &id, user: None, expires_at };
    let writes = writer.natives().map(|native| revoked.redis(native, &writer.context, now));
    Some(vec![Parcel::restrictive(writes.collect(), number(row, 3)?)])
}

fn session(writer: &Writer, row: &Row, now: Timestamp) -> Option<Vec<Parcel>> {
    let (sid, expires_at) = (text(row, 0)?, number(row, 1).map(Timestamp::from_millis));
    if expires_at.is_some_and(|end| end <= now) {
        return None;
    }
    let (part, ttl) = (format!("session:{sid}"), expires_at.map(|end| now.until(end)));
    let writes = writer.natives().map(|native| native.revoked_write(&part, ttl));
    Some(vec![Parcel::restrictive(writes.collect(), number(row, 2)?)])
}
