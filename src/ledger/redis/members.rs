//! Answers of the database that are kept as members of a set.

use std::time::Duration;

use redis::{Pipeline, Value};

use super::write::{WRITE_BACK_MEMBER, millis, version_key};
use super::{RedisStore, StoreError};

impl RedisStore {
    /// The versions last applied to a member and to its set, as text; to be handed to
    /// [`RedisStore::write_back_member`].
    pub(in crate::ledger) async fn member_version(
        &self,
        key: &str,
        member: &str,
    ) -> Result<String, StoreError> {
        let mut pipeline = Pipeline::with_capacity(2);
        for member in [member, ""] {
            pipeline.cmd("GET").arg(version_key(key, member));
        }
        let text = |reply| match reply {
            Value::Nil => Ok(String::new()),
            Value::BulkString(bytes) => {
                String::from_utf8(bytes).map_err(|_| StoreError::malformed("a version"))
            }
            Value::ServerError(error) => Err(StoreError::unavailable(error.code())),
            _ => Err(StoreError::malformed("a version")),
        };
        let replies = self.round_trip(&pipeline).await?.into_iter().map(text);
        Ok(replies.collect::<Result<Vec<_>, _>>()?.join("/"))
    }

    /// Keeps an answer of the database, unless a change has been applied to the member or the set since `seen`.
    pub(in crate::ledger) async fn write_back_member(
        &self,
        key: &str,
        member: &str,
        ttl: Duration,
        seen: &str,
    ) -> Result<(), StoreError> {
        let build = |form| {
            let mut pipeline = Pipeline::with_capacity(1);
            let mut command = WRITE_BACK_MEMBER.command(form);
            command.arg(3).arg(key).arg(version_key(key, member)).arg(version_key(key, ""));
            command.arg(member).arg(millis(ttl)).arg(seen);
            pipeline.add_command(command);
            pipeline
        };
        match self.scripted(&self.link()?, build).await?.pop() {
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Ok(()),
        }
    }
}
