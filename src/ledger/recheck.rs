//! Does Redis say of a user what the database says? Where it does not, it is made to: in one transaction a version is
//! drawn and the row read once more, and Redis is written by compare-and-set under that version.
//!
//! Who denies is repaired at once. Who would let somebody pass is looked at again after [`SECOND_LOOK`], unless the
//! entry is our own and the row has just changed: a service may be between its two writes. An entry of a deny list for
//! a user whose row says nothing stays for its TTL: the service that made it may keep no row at all. A *copy* of a row
//! that contradicts the row is stale, and goes.

mod queue;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value as Reply};
use tokio::time::{sleep, timeout};

use super::change::Status;
use super::condition::Moment;
use super::feed::{Guarded, Keys};
use super::redis::{Answered, RedisStore, RedisWrite, version_key};
use super::store::StoreError;
use super::write::{Committed, Drawn};
use super::{Ledger, outbox};
use crate::time::Timestamp;

pub use queue::{Cause, Queue};

use standing::Standings;

/// Longer than a service takes between writing its table and writing Redis.
pub const SECOND_LOOK: Duration = Duration::from_secs(2);
/// Users that may wait.
pub const WAITING: usize = 100_000;
/// Users rechecked at one time: each costs the database a query or two.
pub const WORKERS: usize = 4;

/// How long a worker rests whose recheck failed: the database, which was asked in vain, may need it.
const REST: Duration = Duration::from_millis(200);

/// Longest wait for one repair.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has to be done about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Nothing,
    /// Redis denies and the database does not.
    Permissive {
        /// Whether Redis was written by us.
        ours: bool,
    },
    Restrictive,
}

/// A write that Redis needs in order to agree.
#[derive(Debug)]
struct Amendment {
    write: RedisWrite,
    need: Need,
}

/// What Redis holds under a key or member: its value (empty for a member), and whether a change ever wrote it.
#[derive(Clone, Debug, Default)]
struct Held {
    value: Option<Vec<u8>>,
    ours: bool,
}

impl Ledger {
    /// Rechecks whoever waits, for ever. Several of these run beside each other.
    pub(super) async fn recheck_forever(self: Arc<Self>) {
        let Some(redis) = self.redis.clone() else { return };
        loop {
            let turn = self.rechecks.next().await;
            let work = self.recheck(&redis, &turn.subject, turn.cause, turn.again);
            let error = match timeout(PATIENCE, work).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => StoreError::Timeout,
            };
            tracing::debug!(%error, "A user could not be rechecked yet");
            // A change of a row is told once, and was not looked at yet.
            if turn.cause == Cause::Row {
                sleep(REST).await;
                if turn.again || !self.rechecks.offer(turn.subject.clone(), turn.cause) {
                    self.rechecks.later(turn.subject, turn.cause);
                }
            }
        }
    }

    async fn recheck(
        &self,
        redis: &RedisStore,
        subject: &str,
        cause: Cause,
        again: bool,
    ) -> Result<(), StoreError> {
        if cause == Cause::Copy && !again && !self.is_suspicious(redis, subject).await {
            return Ok(());
        }
        let now = Timestamp::now();
        let standings = self.writer.standings(subject, now).await?;
        let held = match self.held(redis, &standings).await {
            Ok(held) => Some(held),
            // A change of the row must reach a Redis that is away as well: through the outbox.
            Err(_) if cause == Cause::Row => None,
            Err(error) => return Err(error),
        };
        let amendments = self.amendments(&standings, held.as_deref(), cause, now);
        match amendments.iter().map(|amendment| amendment.need).max().unwrap_or(Need::Nothing) {
            Need::Nothing => return Ok(()),
            Need::Permissive { ours } if !(again || ours && cause == Cause::Row) => {
                self.rechecks.later(subject.into(), cause);
                return Ok(());
            }
            Need::Permissive { .. } => self.metrics.feed.permissive.inc(),
            Need::Restrictive => self.metrics.feed.restrictive.inc(),
        }
        self.repair(redis, subject, held.as_deref(), cause).await?;
        // A service that takes the entry away first and changes its row then finds it put back: nobody else would tell.
        if cause == Cause::List && !again {
            self.rechecks.later(subject.into(), Cause::Row);
        }
        Ok(())
    }

    /// Whether a copy that was written may be stale. Every cached answer of every service is pushed to every gateway:
    /// most must cost the database nothing. While tables tell of their changes, a copy that lets a user pass can only be
    /// stale if the row has changed lately, or if a change has ever been written under the key.
    async fn is_suspicious(&self, redis: &RedisStore, subject: &str) -> bool {
        if !self.database.hears_of_tables() || self.recently.get(subject).is_some() {
            return true;
        }
        let copies = self.keys.copies(subject);
        let mut pipeline = Pipeline::with_capacity(copies.len() * 2);
        for (key, _) in &copies {
            pipeline.cmd("GET").arg(key).cmd("GET").arg(version_key(key, ""));
        }
        let Ok(Answered { replies, .. }) = redis.ask(&pipeline).await else { return true };
        let moment = Moment { issued_at: None, now: Timestamp::now() };
        replies.chunks(2).zip(&copies).any(|(replies, (_, guarded))| match replies {
            [Reply::Nil, _] => false,
            [Reply::BulkString(value), Reply::Nil] => guarded.says(Some(value), moment) != [Some(false); 2],
            _ => true,
        })
    }

    /// What Redis holds, one for each write that could be needed.
    async fn held(&self, redis: &RedisStore, standings: &[Standings]) -> Result<Vec<Held>, StoreError> {
        let writes = standings.iter().flat_map(|it| &it.writes);
        let mut pipeline = Pipeline::new();
        for write in writes {
            let (key, member) = write.names();
            match write {
                RedisWrite::Set { .. } | RedisWrite::Delete { .. } | RedisWrite::Replace { .. } => {
                    pipeline.cmd("GET").arg(key)
                }
                RedisWrite::AddMember { score: Some(_), .. }
                | RedisWrite::RemoveMember { sorted: true, .. } => {
                    pipeline.cmd("ZSCORE").arg(key).arg(member)
                }
                RedisWrite::AddMember { .. } | RedisWrite::RemoveMember { .. } => {
                    pipeline.cmd("SISMEMBER").arg(key).arg(member)
                }
            };
            pipeline.cmd("EXISTS").arg(version_key(key, member));
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies = redis.ask(&pipeline).await?.replies;
        replies.chunks(2).map(Held::read).collect()
    }

    /// What Redis would have to be told in order to agree.
    fn amendments(
        &self,
        standings: &[Standings],
        held: Option<&[Held]>,
        cause: Cause,
        now: Timestamp,
    ) -> Vec<Amendment> {
        let writes =
            standings.iter().flat_map(|it| it.writes.iter().map(|write| (it.standing.status, write)));
        let compare = |(index, (status, write)): (usize, (Status, &RedisWrite))| match held {
            Some(held) => amend(&self.keys, (status, write), held.get(index)?, cause, now),
            // Unknown what a Redis that is away will say: all of it is told.
            None => {
                let need = match status {
                    Status::Active => Need::Permissive { ours: true },
                    _ => Need::Restrictive,
                };
                Some(Amendment { write: write.clone(), need })
            }
        };
        writes.enumerate().filter_map(compare).collect()
    }

    /// One transaction, then Redis.
    async fn repair(
        &self,
        redis: &RedisStore,
        subject: &str,
        held: Option<&[Held]>,
        cause: Cause,
    ) -> Result<(), StoreError> {
        let mut open = self.writer.sql.begin().await?;
        let now = open.clock(Timestamp::now()).await?;
        let Drawn { version, predecessor } = super::write::next_version(&mut open, now).await?;
        let standings = self.writer.standings_in(&mut open, subject, version, now).await?;
        let amendments = self.amendments(&standings, held, cause, now);
        let restrictive = amendments.iter().any(|amendment| amendment.need == Need::Restrictive);
        let writes: Vec<RedisWrite> = amendments.into_iter().map(|amendment| amendment.write).collect();
        if writes.is_empty() {
            // Somebody else has put it right; nothing has happened.
            return Ok(());
        }
        outbox::enqueue(&mut open, version, &writes, restrictive, now).await?;
        open.commit().await?;
        tracing::info!(version, restrictive, "Redis is made to agree with the database about a user");
        let committed = Committed { version, predecessor: Some(predecessor), writes, restrictive };
        if let Err(error) = self.writer.tell(redis, &committed).await {
            tracing::warn!(%error, version, "Redis will be told later");
            self.doubt_redis();
        }
        self.database.memory.forget(subject);
        Ok(())
    }
}

impl Held {
    fn read(replies: &[Reply]) -> Result<Self, StoreError> {
        let (value, version) = match replies {
            [Reply::ServerError(error), _] | [_, Reply::ServerError(error)] => {
                return Err(StoreError::malformed(error.code()));
            }
            [value, version] => (value, version),
            _ => return Err(StoreError::malformed("a reply is missing")),
        };
        let value = match value {
            Reply::Nil | Reply::Int(0) | Reply::Boolean(false) => None,
            Reply::BulkString(bytes) => Some(bytes.clone()),
            _ => Some(Vec::new()),
        };
        Ok(Self { value, ours: *version == Reply::Int(1) })
    }
}

/// What Redis has to be told about one key, given what it holds; `None` where it agrees.
fn amend(
    keys: &Keys,
    (status, write): (Status, &RedisWrite),
    held: &Held,
    cause: Cause,
    now: Timestamp,
) -> Option<Amendment> {
    let (key, _) = write.names();
    let guarded = keys.guarded(key);
    let present = held.value.is_some();
    let need = match guarded.filter(|guarded| guarded.is_cache()) {
        // A copy that is not there says nothing, and is made when somebody asks.
        Some(_) if !present => return None,
        Some(guarded) => {
            let moment = Moment { issued_at: None, now };
            let held = guarded.says(held.value.as_deref(), moment);
            let wanted = match write {
                RedisWrite::Set { value, .. } => guarded.says(Some(value.as_bytes()), moment),
                // A layout that only takes copies away: they are made anew, of the row.
                _ => [Some(status != Status::Active); 2],
            };
            match (held == wanted, wanted.contains(&Some(true))) {
                (true, _) => return None,
                (false, true) => Need::Restrictive,
                (false, false) => Need::Permissive { ours: false },
            }
        }
        None => match (write, present) {
            (RedisWrite::Set { .. } | RedisWrite::AddMember { .. }, true) => return None,
            (RedisWrite::Set { .. } | RedisWrite::AddMember { .. }, false) => Need::Restrictive,
            (RedisWrite::Delete { .. } | RedisWrite::RemoveMember { .. }, false) => return None,
            // The row has not changed: whoever wrote the entry may keep no row.
            (RedisWrite::Delete { .. } | RedisWrite::RemoveMember { .. }, true)
                if cause != Cause::Row && !(held.ours && guarded.is_some_and(Guarded::is_ours)) =>
            {
                return None;
            }
            _ => Need::Permissive { ours: false },
        },
    };
    let need = match need {
        Need::Permissive { .. } => Need::Permissive { ours: held.ours },
        need => need,
    };
    // A copy that lets pass is not written but taken away: it may be stale again by the time it arrives.
    let write = match (write, need) {
        (RedisWrite::Set { key, .. }, Need::Permissive { .. }) => RedisWrite::Delete { key: key.clone() },
        (write, _) => write.clone(),
    };
    Some(Amendment { write, need })
}
