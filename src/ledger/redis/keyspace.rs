//! What concerns all keys of all servers: counting them, clearing away members that are over, and whether Redis throws
//! keys away by itself. Always page by page, never all at once: `KEYS` would stop Redis for seconds.

use std::time::Duration;

use futures_util::future::try_join_all;
use redis::{Cmd, Value, cmd};
use tokio::time::Instant;

use super::RedisStore;
use super::connection::One;
use crate::ledger::store::StoreError;

/// Keys looked at in one go: some 0.1 ms of Redis's time.
const PAGE: usize = 500;
/// The breath between two pages of a sweep, which is in no hurry.
const BREATH: Duration = Duration::from_millis(10);

/// How many keys have each prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Census {
    pub counts: Vec<u64>,
    /// Whether all keys were looked at; otherwise there are at least so many.
    pub complete: bool,
}

/// How one server deals with its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Eviction {
    /// Another with each start of the server.
    pub life: Box<str>,
    /// `noeviction`, `allkeys-lru`, ….
    pub policy: String,
    /// Since its start.
    pub evicted: u64,
}

impl RedisStore {
    /// Counts keys by prefix, for no longer than `budget`. A key that Redis moves meanwhile may be counted twice.
    pub(in crate::ledger) async fn census(
        &self,
        prefixes: &[&str],
        budget: Duration,
    ) -> Result<Census, StoreError> {
        let link = self.link()?;
        let deadline = Instant::now() + budget;
        let each = link.connection.each().map(async |one| {
            let (mut counts, mut pages) = (vec![0; prefixes.len()], Pages::of_keys(None));
            while let Some(keys) = pages.next(one).await? {
                for (prefix, count) in prefixes.iter().zip(&mut counts) {
                    *count += keys.iter().filter(|key| key.starts_with(prefix.as_bytes())).count() as u64;
                }
                if Instant::now() >= deadline {
                    break;
                }
            }
            Ok::<_, StoreError>(Census { counts, complete: pages.are_through() })
        });
        let all = Census { counts: vec![0; prefixes.len()], complete: true };
        Ok(try_join_all(each).await?.into_iter().fold(all, |mut all, one| {
            all.counts.iter_mut().zip(one.counts).for_each(|(all, one)| *all += one);
            all.complete &= one.complete;
            all
        }))
    }

    /// Removes members from the sets whose keys begin like this. Returns how many.
    pub(in crate::ledger) async fn sweep(
        &self,
        prefix: &str,
        is_over: impl Fn(&[u8]) -> bool,
    ) -> Result<u64, StoreError> {
        let link = self.link()?;
        let mut swept = 0;
        for one in link.connection.each() {
            let mut pages = Pages::of_keys(Some(prefix));
            while let Some(keys) = pages.next(one).await? {
                for key in keys.iter().filter(|key| key.starts_with(prefix.as_bytes())) {
                    swept += sweep_set(one, key, &is_over).await?;
                }
                tokio::time::sleep(BREATH).await;
            }
        }
        Ok(swept)
    }

    /// Whether nobody has done so within `life`: then it is ours to do.
    pub(in crate::ledger) async fn claim(&self, task: &str, life: Duration) -> Result<bool, StoreError> {
        let mut pipeline = redis::Pipeline::with_capacity(1);
        pipeline.cmd("SET").arg(task).arg(1).arg("NX").arg("PX").arg(super::millis(life));
        match self.round_trip(&pipeline).await?.pop() {
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            reply => Ok(matches!(reply, Some(Value::Okay))),
        }
    }

    /// How each server deals with its memory.
    pub(in crate::ledger) async fn eviction(&self) -> Result<Vec<Eviction>, StoreError> {
        let link = self.link()?;
        try_join_all(link.connection.each().map(async |one| {
            let (memory, stats) = (one.info("memory").await?, one.info("stats").await?);
            let policy = field(&memory, "maxmemory_policy").unwrap_or_default().to_owned();
            let evicted = field(&stats, "evicted_keys").and_then(|it| it.parse().ok()).unwrap_or_default();
            Ok(Eviction { life: one.life().into(), policy, evicted })
        }))
        .await
    }
}

/// `name:value` in an answer to `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

async fn sweep_set(one: &One, key: &[u8], is_over: impl Fn(&[u8]) -> bool) -> Result<u64, StoreError> {
    let mut pages = Pages::of_members(key);
    let mut swept = 0;
    while let Some(members) = pages.next(one).await? {
        let over: Vec<_> = members.into_iter().filter(|member| is_over(member)).collect();
        if !over.is_empty() {
            let removed = one.ask(cmd("SREM").arg(key).arg(over)).await?;
            swept += redis::from_redis_value::<u64>(removed).unwrap_or_default();
        }
        tokio::time::sleep(BREATH).await;
    }
    Ok(swept)
}

/// `SCAN` or `SSCAN`, page by page.
struct Pages {
    begin: Cmd,
    end: Cmd,
    /// Where the next page begins; `None`: there is none.
    cursor: Option<u64>,
}

impl Pages {
    fn of_keys(prefix: Option<&str>) -> Self {
        let mut end = Cmd::new();
        if let Some(prefix) = prefix {
            // What means something in a pattern means itself here.
            let special = |c| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
            let plain: String = prefix
                .chars()
                .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
                .chain(['*'])
                .collect();
            end.arg("MATCH").arg(plain).arg("TYPE").arg("set");
        }
        Self { begin: cmd("SCAN"), end, cursor: Some(0) }
    }

    fn of_members(key: &[u8]) -> Self {
        let mut begin = cmd("SSCAN");
        begin.arg(key);
        Self { begin, end: Cmd::new(), cursor: Some(0) }
    }

    async fn next(&mut self, one: &One) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let Some(cursor) = self.cursor else { return Ok(None) };
        let mut command = self.begin.clone();
        command.arg(cursor).arg("COUNT").arg(PAGE);
        for word in self.end.args_iter() {
            if let redis::Arg::Simple(word) = word {
                command.arg(word);
            }
        }
        let reply = one.ask(&command).await?;
        let (next, page): (u64, Vec<Vec<u8>>) =
            redis::from_redis_value(reply).map_err(|_| StoreError::malformed("a page of keys"))?;
        self.cursor = (next != 0).then_some(next);
        Ok(Some(page))
    }

    fn are_through(&self) -> bool {
        self.cursor.is_none()
    }
}
