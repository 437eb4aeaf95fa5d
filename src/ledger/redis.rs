//! Redis.

use std::time::Duration;

use super::store::StoreError;

/// One write, compared by version in Redis.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum RedisWrite {
    Set { key: String, value: String, ttl: Option<Duration> },
    Delete { key: String },
    AddMember { key: String, member: String, score: Option<i64>, ttl: Option<Duration> },
    RemoveMember { key: String, member: String, sorted: bool },
}

pub struct RedisStore {}

impl RedisStore {
    /// Makes every write whose key holds nothing newer.
    pub async fn write(
        &self,
        writes: &[RedisWrite],
        version: i64,
        restrictive: bool,
    ) -> Result<(), StoreError> {
        let _ = (writes, version, restrictive);
        Err(StoreError::Unavailable("not connected".to_owned()))
    }
}
