//! Walking through what is listed, a little at a time: never `KEYS`, never a whole set.

use std::sync::Arc;

use redis::{Pipeline, Value};

use super::{Link, RedisStore, version_key};
use crate::ledger::preset::Listing;
use crate::ledger::store::StoreError;

/// Entries looked at by one command: some tenths of a millisecond.
const COUNT: usize = 500;

/// How far a walk has come. Each server of a cluster lists its own keys, so that one is walked through after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Walk {
    server: usize,
    cursor: String,
}

impl Default for Walk {
    fn default() -> Self {
        Self::of_server(0)
    }
}

impl Walk {
    fn of_server(server: usize) -> Self {
        Self { server, cursor: "0".to_owned() }
    }
}

impl RedisStore {
    /// Where to go on (`None`: that was all) and the users found.
    pub(in crate::ledger) async fn scan(
        &self,
        link: &Arc<Link>,
        listing: &Listing,
        walk: &Walk,
    ) -> Result<(Option<Walk>, Vec<String>), StoreError> {
        match listing {
            Listing::Keys { prefix } => {
                let (next, keys) = self.scan_keys(link, prefix, walk).await?;
                let text = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
                Ok((next, text.filter_map(|key| key.strip_prefix(&**prefix).map(str::to_owned)).collect()))
            }
            Listing::Set { key, sorted } => {
                let mut pipeline = Pipeline::with_capacity(1);
                let command = if *sorted { "ZSCAN" } else { "SSCAN" };
                pipeline.cmd(command).arg(&**key).arg(&walk.cursor).arg("COUNT").arg(COUNT);
                let found = match self.round_trip_on(link, &pipeline).await?.pop() {
                    // A key of another type lists nobody.
                    Some(Value::ServerError(error)) if error.code() == "WRONGTYPE" => None,
                    reply => Some(page(reply)?),
                };
                let Some((cursor, found)) = found else { return Ok((None, Vec::new())) };
                let next = (cursor != "0").then_some(Walk { cursor, ..*walk });
                // Members and scores take turns.
                let members = found.into_iter().step_by(if *sorted { 2 } else { 1 });
                Ok((next, members.filter_map(|member| String::from_utf8(member).ok()).collect()))
            }
        }
    }

    /// Where to go on (`None`: that was all) and the keys found that begin like this.
    pub(in crate::ledger) async fn scan_keys(
        &self,
        link: &Arc<Link>,
        prefix: &str,
        walk: &Walk,
    ) -> Result<(Option<Walk>, Vec<Vec<u8>>), StoreError> {
        let Some(one) = link.connection.each().nth(walk.server) else { return Ok((None, Vec::new())) };
        let pattern = format!("{}*", literal(prefix));
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("SCAN").arg(&walk.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(COUNT);
        let replies = one.round_trip(&pipeline).await.map_err(|failure| self.failed(link, failure))?;
        let (cursor, found) = page(replies.into_iter().next())?;
        let next = match &*cursor {
            "0" => link.connection.each().nth(walk.server + 1).map(|_| Walk::of_server(walk.server + 1)),
            _ => Some(Walk { cursor, ..*walk }),
        };
        Ok((next, found))
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

/// The next cursor and what was found.
fn page(reply: Option<Value>) -> Result<(String, Vec<Vec<u8>>), StoreError> {
    let bytes = |value: Value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    match reply {
        Some(Value::Array(mut parts)) => match (parts.pop(), parts.pop().and_then(bytes)) {
            (Some(Value::Array(found)), Some(cursor)) => {
                let cursor = String::from_utf8(cursor).map_err(|_| StoreError::malformed("a cursor"))?;
                Ok((cursor, found.into_iter().filter_map(bytes).collect()))
            }
            _ => Err(StoreError::malformed("a scan")),
        },
        Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
        _ => Err(StoreError::malformed("a scan")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(literal("a*[b]?\\"), "a\\*\\[b\\]\\?\\\\");
    }
}
