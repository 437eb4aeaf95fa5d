//! What one row of the database says, as writes to Redis.

use crate::ledger::redis::{self, RedisWrite};

/// Writes of one row.
pub struct Parcel {
    pub(super) writes: Vec<RedisWrite>,
    pub(super) version: i64,
    pub(super) restrictive: bool,
}

impl Parcel {
    /// Only what puts something there.
    pub(super) fn restrictive(mut writes: Vec<RedisWrite>, version: i64) -> Self {
        writes.retain(RedisWrite::puts);
        Self { writes, version, restrictive: true }
    }

    /// Only what is older than the row is taken away: at the same version it is gone already, and what is there now a
    /// service has written.
    pub(super) fn permissive(writes: Vec<RedisWrite>, version: i64) -> Self {
        Self { writes, version, restrictive: false }
    }

    pub(super) fn as_told(&self) -> redis::Parcel<'_> {
        let Self { writes, version, restrictive } = self;
        redis::Parcel { writes, version: *version, restrictive: *restrictive, strict: !restrictive }
    }
}
