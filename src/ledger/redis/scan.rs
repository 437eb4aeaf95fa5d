//! Walking through what is listed, a little at a time: never `KEYS`, never a whole set.

use std::sync::Arc;

use redis::{Pipeline, Value};

use super::{Link, RedisStore, version_key};
use crate::ledger::preset::Listing;
use crate::ledger::store::StoreError;

/// Entries looked at by one command: some tenths of a millisecond.
const COUNT: usize = 500;

impl RedisStore {
    /// The next cursor (`0`: that was all) and the users found.
    pub(in crate::ledger) async fn scan(
        &self,
        link: &Arc<Link>,
        listing: &Listing,
        cursor: &str,
    ) -> Result<(String, Vec<String>), StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        match listing {
            Listing::Keys { prefix } => {
                let pattern = format!("{}*", literal(prefix));
                pipeline.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(COUNT);
            }
            Listing::Set { key, sorted } => {
                let command = if *sorted { "ZSCAN" } else { "SSCAN" };
                pipeline.cmd(command).arg(&**key).arg(cursor).arg("COUNT").arg(COUNT);
            }
        }
        let text = |value: Value| match value {
            Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        };
        let (next, found) = match self.round_trip_on(link, &pipeline).await?.pop() {
            Some(Value::Array(mut parts)) => match (parts.pop(), parts.pop()) {
                (Some(Value::Array(found)), Some(next)) => (next, found),
                _ => return Err(StoreError::malformed("a scan")),
            },
            // A key of another type lists nobody.
            Some(Value::ServerError(error)) if error.code() == "WRONGTYPE" => {
                return Ok(("0".to_owned(), Vec::new()));
            }
            Some(Value::ServerError(error)) => return Err(StoreError::unavailable(error.code())),
            _ => return Err(StoreError::malformed("a scan")),
        };
        let next = text(next).ok_or_else(|| StoreError::malformed("a cursor"))?;
        let found = found.into_iter().filter_map(text);
        let subjects = match listing {
            Listing::Keys { prefix } => {
                found.filter_map(|key| key.strip_prefix(&**prefix).map(str::to_owned)).collect()
            }
            // Members and scores take turns.
            Listing::Set { sorted, .. } => found.step_by(if *sorted { 2 } else { 1 }).collect(),
        };
        Ok((next, subjects))
    }

    /// Those whose entries were not written as this version.
    pub(in crate::ledger) async fn not_written_as(
        &self,
        link: &Arc<Link>,
        listing: &Listing,
        subjects: Vec<String>,
        version: i64,
    ) -> Result<Vec<String>, StoreError> {
        if subjects.is_empty() {
            return Ok(subjects);
        }
        let mut pipeline = Pipeline::with_capacity(subjects.len());
        for subject in &subjects {
            let key = match listing {
                Listing::Keys { prefix } => version_key(&format!("{prefix}{subject}"), ""),
                Listing::Set { key, .. } => version_key(key, subject),
            };
            pipeline.cmd("GET").arg(key);
        }
        let written = format!("{version}:1");
        let replies = self.round_trip_on(link, &pipeline).await?;
        let stale = |reply: &Value| !matches!(reply, Value::BulkString(bytes) if bytes == written.as_bytes());
        let pairs = subjects.into_iter().zip(replies);
        Ok(pairs.filter(|(_, reply)| stale(reply)).map(|(subject, _)| subject).collect())
    }
}

/// A prefix is text, and no pattern.
fn literal(prefix: &str) -> String {
    let mut escaped = String::with_capacity(prefix.len());
    for char in prefix.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}
