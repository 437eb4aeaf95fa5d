//! Counting requests for all gateways: one script on one key, by Redis's own clock.

use std::time::Duration;

use redis::{Pipeline, Value};

use super::RedisStore;
use super::script::Lua;
use crate::ledger::store::StoreError;

/// The instant at which everything owed will be paid, in microseconds of the server's clock; it lives until then. A clock
/// that was set back must not keep anybody out for longer than the whole allowance takes. Refusals write nothing.
static TAKE: Lua = Lua::new(
    r"local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, capacity = tonumber(ARGV[1]), tonumber(ARGV[2])
local owed = (tonumber(redis.call('GET', KEYS[1])) or now) - now
owed = math.min(math.max(owed, 0), capacity)
if owed + interval > capacity then return {0, owed} end
owed = owed + interval
redis.call('SET', KEYS[1], string.format('%.0f', now + owed), 'PX', math.ceil(owed / 1000))
return {1, owed}",
);

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled {
    pub passed: bool,
    /// How long until the whole allowance is there again.
    pub debt: Duration,
}

impl RedisStore {
    /// One request more under `key`, if it is allowed: each costs `interval`, and `capacity` may be owed.
    pub async fn throttle(
        &self,
        key: &str,
        interval: Duration,
        capacity: Duration,
    ) -> Result<Throttled, StoreError> {
        let Some(attempt) = self.breaker.attempt() else {
            return Err(StoreError::unavailable("left alone until it answers a probe"));
        };
        let build = |form| {
            let mut pipeline = Pipeline::with_capacity(1);
            let mut command = TAKE.command(form);
            command.arg(1).arg(key).arg(micros(interval)).arg(micros(capacity));
            pipeline.add_command(command);
            pipeline
        };
        let replies = match self.link() {
            Ok(link) => self.scripted(&link, build).await,
            Err(error) => Err(error),
        };
        match replies {
            Ok(mut replies) => {
                attempt.succeeded();
                read(replies.pop())
            }
            Err(error) => {
                attempt.failed(&error);
                Err(error)
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn read(reply: Option<Value>) -> Result<Throttled, StoreError> {
    let malformed = || StoreError::malformed("what a rate limit's script says");
    match reply {
        Some(Value::Array(parts)) => match parts.as_slice() {
            [Value::Int(passed), Value::Int(debt)] => {
                let debt = Duration::from_micros(u64::try_from(*debt).map_err(|_| malformed())?);
                Ok(Throttled { passed: *passed == 1, debt })
            }
            _ => Err(malformed()),
        },
        Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
        _ => Err(malformed()),
    }
}
