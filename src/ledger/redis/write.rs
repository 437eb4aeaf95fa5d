//! Writes to Redis as compare-and-set by database version: the newest wins, whatever arrives last.

use std::time::Duration;

use redis::Value;

use super::StoreError;
use super::script::{Form, Lua};
use super::slots::beside;
use crate::token::Token;

/// One write of a change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RedisWrite {
    /// `ttl`: `None` keeps the key for ever. One that is over removes it: what stood there before is older still.
    Set {
        key: String,
        value: String,
        ttl: Option<Duration>,
    },
    Delete {
        key: String,
    },
    /// As `Set`, where the key is there already.
    Replace {
        key: String,
        value: String,
        ttl: Option<Duration>,
    },
    /// To a set, or with a score to a sorted set. `ttl` only ever lengthens the life of the whole set.
    AddMember {
        key: String,
        member: String,
        score: Option<i64>,
        ttl: Option<Duration>,
    },
    RemoveMember {
        key: String,
        member: String,
        sorted: bool,
    },
}

impl RedisWrite {
    /// So much of its life is over.
    pub fn age(&mut self, by: Duration) {
        if let Self::Set { ttl: Some(ttl), .. }
        | Self::Replace { ttl: Some(ttl), .. }
        | Self::AddMember { ttl: Some(ttl), .. } = self
        {
            *ttl = ttl.saturating_sub(by);
        }
    }

    /// Whether it puts something there, rather than taking something away.
    pub fn puts(&self) -> bool {
        let some = |ttl: &Option<Duration>| ttl.is_none_or(|ttl| !ttl.is_zero());
        match self {
            Self::Set { ttl, .. } | Self::Replace { ttl, .. } | Self::AddMember { ttl, .. } => some(ttl),
            Self::Delete { .. } | Self::RemoveMember { .. } => false,
        }
    }

    /// The key it changes.
    pub fn key(&self) -> &str {
        self.names().0
    }

    /// The key, and the member where it is about one.
    pub(in crate::ledger) fn names(&self) -> (&str, &str) {
        match self {
            Self::Set { key, .. } | Self::Delete { key } | Self::Replace { key, .. } => (key, ""),
            Self::AddMember { key, member, .. } | Self::RemoveMember { key, member, .. } => (key, member),
        }
    }
}

/// Where the version of a key is kept: in the same cluster slot, by the key's own hash tag where it has one. A member that
/// is as long as a token stands there by its hash.
pub(in crate::ledger) fn version_key(key: &str, member: &str) -> String {
    let key = beside(key);
    match member.len() {
        0 => format!("pc:version:{key}"),
        1..=64 => format!("pc:version:{key}:{member}"),
        _ => format!("pc:version:{key}:{}", Token::new(member).sha256_hex()),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A version outlives the longest delay with which a change may still be delivered, and the value it belongs to.
const VERSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
const VERSION_LIFE_OF_PERMANENT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A write as the script takes it.
pub(super) struct Scripted<'a> {
    key: &'a str,
    member: &'a str,
    operation: &'static str,
    value: &'a str,
    score: i64,
    ttl: Option<Duration>,
}

impl<'a> Scripted<'a> {
    pub fn of(write: &'a RedisWrite) -> Self {
        let plain = Self { key: "", member: "", operation: "", value: "", score: 0, ttl: None };
        let over = |ttl: &Option<Duration>| ttl.is_some_and(|ttl| ttl < Duration::from_millis(1));
        match write {
            RedisWrite::Set { key, ttl, .. } | RedisWrite::Replace { key, ttl, .. } if over(ttl) => {
                Self { key, operation: "del", ..plain }
            }
            RedisWrite::AddMember { key, member, score, ttl } if over(ttl) => {
                let operation = if score.is_some() { "zrem" } else { "srem" };
                Self { key, member, operation, value: member, ..plain }
            }
            RedisWrite::Set { key, value, ttl } => Self { key, value, ttl: *ttl, operation: "set", ..plain },
            RedisWrite::Replace { key, value, ttl } => {
                Self { key, value, ttl: *ttl, operation: "replace", ..plain }
            }
            RedisWrite::Delete { key } => Self { key, operation: "del", ..plain },
            RedisWrite::AddMember { key, member, score, ttl } => {
                let operation = if score.is_some() { "zadd" } else { "sadd" };
                Self { key, member, operation, value: member, score: score.unwrap_or_default(), ttl: *ttl }
            }
            RedisWrite::RemoveMember { key, member, sorted } => {
                Self { key, member, operation: if *sorted { "zrem" } else { "srem" }, value: member, ..plain }
            }
        }
    }

    pub fn command(&self, parcel: &Parcel<'_>, form: Form) -> redis::Cmd {
        let removes = matches!(self.operation, "del" | "srem" | "zrem");
        let life = match self.ttl {
            Some(ttl) => ttl.max(VERSION_LIFE),
            None if removes => VERSION_LIFE,
            None => VERSION_LIFE_OF_PERMANENT,
        };
        let mut command = COMPARE_AND_SET.command(form);
        command.arg(3).arg(self.key).arg(version_key(self.key, self.member));
        command.arg(version_key(self.key, ""));
        command.arg(parcel.version).arg(u8::from(parcel.restrictive)).arg(millis(life));
        command.arg(self.operation).arg(self.value).arg(self.ttl.map_or(0, millis)).arg(self.score);
        command.arg(u8::from(parcel.strict));
        command
    }
}

/// The writes of one change, and by what they are compared.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    pub writes: &'a [RedisWrite],
    pub version: i64,
    /// At the same version a ban beats its own lifting.
    pub restrictive: bool,
    /// Not even what has the same version is replaced.
    pub strict: bool,
}

/// What became of writes that Redis has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The versions of the changes of which some key holds a value of another type: to write there would need somebody
    /// to remove it. The rule that reads the key cannot either, and asks the database.
    pub refused: Vec<i64>,
}

impl Told {
    pub(super) fn of(parcels: &[Parcel<'_>], replies: Vec<Value>) -> Result<Self, StoreError> {
        let versions = parcels.iter().flat_map(|parcel| parcel.writes.iter().map(|_| parcel.version));
        let mut told = Self::default();
        for (version, reply) in versions.zip(replies) {
            match reply {
                Value::Int(-1) if told.refused.last() != Some(&version) => told.refused.push(version),
                Value::ServerError(error) => return Err(StoreError::unavailable(error.code())),
                _ => {}
            }
        }
        Ok(told)
    }
}

/// Versions are compared as padded text: Lua's numbers end at 2⁵³. A value of another type is left alone, and no version
/// is noted that was never applied.
static COMPARE_AND_SET: Lua = Lua::new(
    r"
local version, rank, life, op, value, ttl, score, strict = unpack(ARGV)
local function stands(key, tie)
  local current = redis.pcall('GET', key)
  local cv, cr = string.match(type(current) == 'string' and current or '', '^(%d+):(%d)$')
  if not cv then return false end
  local a = string.rep('0', 20 - #cv) .. cv
  local b = string.rep('0', 20 - #version) .. version
  return b < a or (b == a and tie(cr))
end
if stands(KEYS[2], function(cr) return strict == '1' or rank < cr end) then return 0 end
-- A member that was put in before the whole set was deleted stays out.
if KEYS[3] ~= KEYS[2] and stands(KEYS[3], function(cr) return rank < cr end) then return 0 end
local wanted = ({ sadd = 'set', srem = 'set', zadd = 'zset', zrem = 'zset' })[op]
local kind = redis.call('TYPE', KEYS[1]).ok
if wanted and kind ~= 'none' and kind ~= wanted then return -1 end
ttl = tonumber(ttl)
if op == 'set' then
  if ttl > 0 then redis.call('SET', KEYS[1], value, 'PX', ttl) else redis.call('SET', KEYS[1], value) end
elseif op == 'replace' then
  if kind == 'none' then -- nobody has it
  elseif ttl > 0 then redis.call('SET', KEYS[1], value, 'PX', ttl) else redis.call('SET', KEYS[1], value) end
elseif op == 'del' then redis.call('DEL', KEYS[1])
elseif op == 'sadd' then redis.call('SADD', KEYS[1], value)
elseif op == 'zadd' then redis.call('ZADD', KEYS[1], score, value)
elseif op == 'srem' then redis.call('SREM', KEYS[1], value)
elseif op == 'zrem' then redis.call('ZREM', KEYS[1], value)
end
if op == 'sadd' or op == 'zadd' then
  local left = redis.call('PTTL', KEYS[1])
  if ttl == 0 then
    if left >= 0 then redis.call('PERSIST', KEYS[1]) end
  elseif kind == 'none' or (left >= 0 and left < ttl) then redis.call('PEXPIRE', KEYS[1], ttl) end
end
redis.call('SET', KEYS[2], version .. ':' .. rank, 'PX', life)
return 1
",
);

/// Keeps an answer of the database where nobody has written anything since that answer was asked for.
pub(super) static WRITE_BACK: Lua = Lua::new(
    r"
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[3] then return 0 end
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') and 1 or 0
",
);

/// The same for the member of a set: neither the member nor the whole set may have been written. A set that is there keeps
/// its TTL: other members must not outlive it.
pub(super) static WRITE_BACK_MEMBER: Lua = Lua::new(
    r"
if (redis.call('GET', KEYS[2]) or '') .. '/' .. (redis.call('GET', KEYS[3]) or '') ~= ARGV[3] then return 0 end
local existed = redis.call('EXISTS', KEYS[1])
redis.call('SADD', KEYS[1], ARGV[1])
if existed == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
",
);
