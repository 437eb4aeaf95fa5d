//! What a services' own table says to whoever fills Redis from it.

use super::{RevokedToken, Standing};
use crate::claims::User;
use crate::ledger::change::Status;
use crate::ledger::schema::{Column, number, text};
use crate::ledger::sql::{Row, Value};
use crate::time::Timestamp;
use crate::token::Token;

/// A revoked token as a services' table lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedToken {
    pub compact: Box<str>,
    pub sha256: Box<str>,
    pub subject: Option<Box<str>>,
    pub expires_at: Option<Timestamp>,
    pub at: Timestamp,
}

impl OwnedToken {
    pub fn as_revoked(&self) -> RevokedToken<'_> {
        let Self { compact, sha256, subject, expires_at, at } = self;
        let (subject, expires_at, at) = (subject.as_deref(), *expires_at, *at);
        RevokedToken { compact, sha256, token_id: None, subject, expires_at, at }
    }
}

/// Rows of a services' own table, to be read in pages by their key: a page is a stretch of the key column, so that no
/// query has to walk through more rows than it was given, however few of them are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRows<'a> {
    /// Quoted.
    pub table: &'a str,
    /// Indexed, and unique enough: rows that share a key stand or fall together.
    pub key: &'a Column,
    /// What is read besides the key, as SQL: a list.
    pub columns: String,
    /// Which rows are wanted, as SQL, with a `?` for each of `values`.
    pub wanted: String,
    pub values: Vec<Value>,
}

/// Where Redis lists users, one entry for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// One key each: the prefix and the user's id.
    Keys { prefix: Box<str> },
    /// One set or sorted set of ids.
    Set { key: Box<str>, sorted: bool },
}

/// A row of [`super::UserLayout::row_query`].
pub fn standing_of(subject: &str, row: &Row) -> Standing {
    standing(subject, text(row, 0), number(row, 1))
}

/// The second column is a status (no known word: deactivated), the third a cut-off in unix milliseconds.
pub fn denied_row(subject: &str, row: &Row) -> Standing {
    standing(subject, text(row, 1), number(row, 2))
}

fn standing(subject: &str, word: Option<String>, not_before: Option<i64>) -> Standing {
    let word = word.and_then(|word| Status::of(&word)).unwrap_or(Status::Deactivated);
    let not_before = not_before.map(Timestamp::from_millis);
    // Without an instant there is nothing to compare with.
    let status = match (word, not_before) {
        (Status::SecurityAction, None) => Status::Banned,
        (word, _) => word,
    };
    let user = User { realm: "".into(), subject: subject.into() };
    Standing { user, status, reason: None, until: None, not_before, version: 0 }
}

/// The second column is whose token it is, the third and the fourth are its end and its revocation in unix milliseconds.
pub fn revoked_row(compact: &str, row: &Row, now: Timestamp) -> OwnedToken {
    OwnedToken {
        compact: compact.into(),
        sha256: Token::new(compact).sha256_hex().into(),
        subject: text(row, 1).map(Into::into),
        expires_at: number(row, 2).map(Timestamp::from_millis),
        at: number(row, 3).map_or(now, Timestamp::from_millis),
    }
}
