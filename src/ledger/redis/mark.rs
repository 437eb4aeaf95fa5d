//! The mark in Redis: read, advanced by whoever writes, raised by whoever has filled a gap, and set last of all when
//! Redis has been filled anew. Always by script: what it is compared with cannot change under the writer's hands.

use std::sync::Arc;

use redis::{Pipeline, Value};

use super::{Form, Link, Lua, Parcel, RedisStore, RedisWrite, Told};
use crate::ledger::store::StoreError;
use crate::ledger::watermark::{KEY, Mark};

/// From which version to which a change leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub from: i64,
    pub to: i64,
}

/// What became of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It stands at least as high as wished, or none is wanted.
    Yes,
    /// An earlier change has not been marked yet.
    Gap,
    /// There is no mark that could be raised, or not of this server.
    Unbelieved,
}

/// Versions are compared as padded text, as everywhere.
static ADVANCE: Lua = Lua::new(
    r"
local field, from, to, server = unpack(ARGV)
local current = redis.call('HGET', KEYS[1], field)
if not current then return -1 end
local seq, rest = string.match(current, '^(%d+)(:.*)$')
if not seq or string.sub(rest, 1, #server + 2) ~= ':' .. server .. ':' then return -1 end
local function padded(number) return string.rep('0', 20 - #number) .. number end
if padded(seq) >= padded(to) then return 1 end
if padded(seq) < padded(from) then return 0 end
redis.call('HSET', KEYS[1], field, to .. rest)
return 1
",
);

/// Compare-and-set of one field; an empty text stands for a field that is not there, before or after.
static SWAP: Lua = Lua::new(
    r"
local field, expected, value = unpack(ARGV)
if (redis.call('HGET', KEYS[1], field) or '') ~= expected then return 0 end
if value == '' then redis.call('HDEL', KEYS[1], field) else redis.call('HSET', KEYS[1], field, value) end
return 1
",
);

/// The mark, if what was noted when the work began is still there; the note goes.
static FINISH: Lua = Lua::new(
    r"
local note, expected, field, value = unpack(ARGV)
if redis.call('HGET', KEYS[1], note) ~= expected then return 0 end
redis.call('HSET', KEYS[1], field, value)
redis.call('HDEL', KEYS[1], note)
return 1
",
);

impl RedisStore {
    /// As [`RedisStore::write`], and the mark behind the writes: whoever sees it sees them.
    pub async fn write_step(
        &self,
        writes: &[RedisWrite],
        step: Step,
        restrictive: bool,
    ) -> Result<(Told, Marked), StoreError> {
        let link = self.link()?;
        let parcel = Parcel { writes, version: step.to, restrictive, strict: false };
        let build = |form| {
            let mut pipeline = Pipeline::with_capacity(writes.len() + 1);
            for write in writes {
                pipeline.add_command(super::Scripted::of(write).command(&parcel, form));
            }
            if let Some(field) = self.authority.field() {
                let mut command = ADVANCE.command(form);
                command.arg(1).arg(KEY).arg(field).arg(step.from).arg(step.to).arg(&*link.server.run_id);
                pipeline.add_command(command);
            }
            pipeline
        };
        let replies = self.scripted(&link, build).await;
        self.forget(writes);
        let mut replies = replies?;
        let marked = match self.authority.field().and_then(|_| replies.pop()) {
            Some(Value::Int(1)) => {
                self.authority.raised(step.to);
                Marked::Yes
            }
            Some(Value::Int(0)) => Marked::Gap,
            Some(Value::ServerError(error)) => return Err(StoreError::unavailable(error.code())),
            None if !self.authority.wants_mark() => Marked::Yes,
            Some(_) | None => Marked::Unbelieved,
        };
        Ok((Told::of(&[parcel], replies)?, marked))
    }

    /// The mark, if it is one that may be raised.
    pub async fn mark(&self) -> Result<Option<Mark>, StoreError> {
        let link = self.link()?;
        self.mark_on(&link).await.map(|mark| mark.filter(|_| self.authority.is_true()))
    }

    /// The mark as it stands, believed or not. Judged on the way.
    pub async fn mark_on(&self, link: &Arc<Link>) -> Result<Option<Mark>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(self.authority.command().clone());
        let captured = self.authority.capture();
        let reply = self.round_trip_on(link, &pipeline).await?.pop().unwrap_or(Value::Nil);
        self.authority.hear(captured, &reply, &link.server.run_id);
        match reply {
            Value::ServerError(error) => Err(StoreError::unavailable(error.code())),
            reply => Ok(self.authority.find(&reply).unwrap_or(None)),
        }
    }

    /// Raises the mark, unless somebody has touched it since it was read.
    pub async fn raise(&self, read: &Mark, seq: i64) -> Result<Marked, StoreError> {
        let Some(field) = self.authority.field() else { return Ok(Marked::Unbelieved) };
        if read.seq >= seq {
            return Ok(Marked::Yes);
        }
        let raised = Mark { seq, ..read.clone() };
        let link = self.link()?;
        match self.swap(&link, field, &read.to_string(), &raised.to_string()).await? {
            true => {
                self.authority.raised(seq);
                Ok(Marked::Yes)
            }
            false => Ok(Marked::Gap),
        }
    }

    /// Takes away a mark that is known to lie: who has not seen a higher one would believe it.
    pub async fn disown(&self, read: &Mark) -> Result<(), StoreError> {
        let Some(field) = self.authority.field() else { return Ok(()) };
        self.swap(&self.link()?, field, &read.to_string(), "").await.map(|_| ())
    }

    /// Compare-and-set of a field beside the mark; an empty text stands for one that is not there.
    pub(in crate::ledger) async fn swap(
        &self,
        link: &Arc<Link>,
        field: &str,
        expected: &str,
        value: &str,
    ) -> Result<bool, StoreError> {
        self.decide(link, &SWAP, KEY, &[field, expected, value]).await
    }

    /// Sets the mark if `note` still holds what is expected, and takes the note away.
    pub(in crate::ledger) async fn finish(
        &self,
        link: &Arc<Link>,
        note: (&str, &str),
        mark: &Mark,
    ) -> Result<bool, StoreError> {
        let Some(field) = self.authority.field() else { return Ok(false) };
        self.decide(link, &FINISH, KEY, &[note.0, note.1, field, &mark.to_string()]).await
    }

    /// Runs a script over one key that answers whether it did what it is for.
    async fn decide(
        &self,
        link: &Arc<Link>,
        script: &'static Lua,
        key: &str,
        arguments: &[&str],
    ) -> Result<bool, StoreError> {
        let build = |form: Form| {
            let mut command = script.command(form);
            command.arg(1).arg(key).arg(arguments);
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.add_command(command);
            pipeline
        };
        match self.scripted(link, build).await?.pop() {
            Some(Value::Int(done)) => Ok(done == 1),
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Err(StoreError::malformed("what a script says")),
        }
    }

    /// One field beside the mark.
    pub(in crate::ledger) async fn note(&self, link: &Arc<Link>, field: &str) -> Result<String, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("HGET").arg(KEY).arg(field);
        match self.round_trip_on(link, &pipeline).await?.pop() {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Some(Value::Nil) => Ok(String::new()),
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Err(StoreError::malformed("a note")),
        }
    }

    /// Whether it is time to renew keys: nobody has said of late that it was done.
    pub(in crate::ledger) async fn is_due(&self) -> Result<bool, StoreError> {
        let Some(field) = self.authority.field() else { return Ok(false) };
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("EXISTS").arg(format!("pc:renewed:{field}"));
        match self.round_trip(&pipeline).await?.pop() {
            Some(Value::Int(there)) => Ok(there == 0),
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Err(StoreError::malformed("EXISTS")),
        }
    }

    /// Keys have been renewed, and need not be again for so long.
    pub(in crate::ledger) async fn renewed_for(&self, time: std::time::Duration) -> Result<(), StoreError> {
        let Some(field) = self.authority.field() else { return Ok(()) };
        let mut pipeline = Pipeline::with_capacity(1);
        let key = format!("pc:renewed:{field}");
        pipeline.cmd("SET").arg(key).arg("1").arg("PX").arg(super::millis(time));
        match self.round_trip(&pipeline).await?.pop() {
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Ok(()),
        }
    }

    /// Takes a lock for a while, or renews it. `false`: somebody else has it.
    pub(in crate::ledger) async fn lock(
        &self,
        link: &Arc<Link>,
        key: &str,
        owner: &str,
        life: std::time::Duration,
    ) -> Result<bool, StoreError> {
        self.decide(link, &LOCK, key, &[owner, &super::millis(life).to_string()]).await
    }
}

/// With a life of 0 it is given back.
static LOCK: Lua = Lua::new(
    r"
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1
",
);
