//! Writes to Redis as compare-and-set by database version: the newest wins, whatever arrives last.

use std::time::Duration;

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
    /// The key it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. }
            | Self::Delete { key }
            | Self::AddMember { key, .. }
            | Self::RemoveMember { key, .. } => key,
        }
    }
}

/// Where the version of a key is kept: in the same cluster slot, by the key's own hash tag where it has one.
pub(super) fn version_key(key: &str, member: &str) -> String {
    let key = if key.contains('{') { key.to_owned() } else { format!("{{{key}}}") };
    if member.is_empty() { format!("pc:version:{key}") } else { format!("pc:version:{key}:{member}") }
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
            RedisWrite::Set { key, ttl, .. } if over(ttl) => Self { key, operation: "del", ..plain },
            RedisWrite::AddMember { key, member, score, ttl } if over(ttl) => {
                let operation = if score.is_some() { "zrem" } else { "srem" };
                Self { key, member, operation, value: member, ..plain }
            }
            RedisWrite::Set { key, value, ttl } => Self { key, value, ttl: *ttl, operation: "set", ..plain },
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

    pub fn command(&self, version: i64, restrictive: bool) -> redis::Cmd {
        let removes = matches!(self.operation, "del" | "srem" | "zrem");
        let life = match self.ttl {
            Some(ttl) => ttl.max(VERSION_LIFE),
            None if removes => VERSION_LIFE,
            None => VERSION_LIFE_OF_PERMANENT,
        };
        let mut command = redis::cmd("EVAL");
        command.arg(COMPARE_AND_SET).arg(2).arg(self.key).arg(version_key(self.key, self.member));
        command.arg(version).arg(u8::from(restrictive)).arg(millis(life));
        command.arg(self.operation).arg(self.value).arg(self.ttl.map_or(0, millis)).arg(self.score);
        command
    }
}

/// Versions are compared as padded text: Lua's numbers end at 2⁵³. The value is written before its version, so that a
/// key of the wrong type (which aborts the script) leaves no version behind that was never applied.
const COMPARE_AND_SET: &str = r"
local version, rank, life, op, value, ttl, score = unpack(ARGV)
local current = redis.call('GET', KEYS[2])
if current then
  local cv, cr = string.match(current, '^(%d+):(%d)$')
  if cv then
    local a = string.rep('0', 20 - #cv) .. cv
    local b = string.rep('0', 20 - #version) .. version
    if b < a or (b == a and rank < cr) then return 0 end
  end
end
ttl = tonumber(ttl)
local existed = redis.call('EXISTS', KEYS[1])
if op == 'set' then
  if ttl > 0 then redis.call('SET', KEYS[1], value, 'PX', ttl) else redis.call('SET', KEYS[1], value) end
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
  elseif existed == 0 or (left >= 0 and left < ttl) then redis.call('PEXPIRE', KEYS[1], ttl) end
end
redis.call('SET', KEYS[2], version .. ':' .. rank, 'PX', life)
return 1
";

/// Keeps an answer of the database where nobody has written anything since that answer was asked for.
pub(super) const WRITE_BACK: &str = r"
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[3] then return 0 end
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX') and 1 or 0
";
