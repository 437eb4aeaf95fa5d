//! Rate limits: how often requests may come, by user, by address, or to a route at all.
//!
//! [`quota`] is the sum, [`table`] what this gateway remembers, [`shared`] how gateways count together in Redis. Who is
//! refused owes no more for it: asking too often makes nobody wait longer.

mod metrics;
mod network;
mod quota;
pub mod settings;
mod shared;
mod table;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::claims::User;
use crate::ledger::RedisStore;

pub use metrics::RateMetrics;
pub use network::Network;
pub use settings::{By, RateLimit};

use quota::{Quota, Taken, nanos};
use table::Table;

/// What all limits of a gateway have in common. Outlives configurations, so that a reload gives nobody a new allowance.
pub struct Limiter {
    table: Table,
    keys: usize,
    /// Its clock starts here.
    began: Instant,
    metrics: RateMetrics,
    /// Whether Redis is being done without, so that it is told once.
    alone: AtomicBool,
}

/// Whose request is counted.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub address: IpAddr,
    /// How many bits of an IPv6 address are one client's.
    pub ipv6_prefix: u8,
    pub user: Option<&'a User>,
}

/// The limits of one route, or of the whole server.
#[derive(Debug, Default)]
pub struct Limits {
    /// By address: counted before anybody looks at a token, so that guessing tokens is limited too.
    pub before: Box<[Limit]>,
    /// The others. A route's own allowance is not for those to use up who may not come in.
    pub after: Box<[Limit]>,
}

/// One limit.
#[derive(Debug)]
pub struct Limit {
    settings: Arc<RateLimit>,
    quota: Quota,
    /// Whose it is: a route's name, or none's.
    place: Arc<str>,
}

/// Where a client stands with one limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub limit: Arc<RateLimit>,
    /// How many more pass at once.
    pub remaining: u64,
    /// Until the whole allowance is there again.
    pub reset: Duration,
}

/// One too many.
#[derive(Clone, Debug, PartialEq)]
pub struct Exceeded {
    pub limit: Arc<str>,
    /// Until the next one passes.
    pub wait: Duration,
}

impl Limiter {
    /// Room for `keys` allowances.
    pub fn new(keys: usize, metrics: RateMetrics) -> Self {
        let table = Table::new(keys, metrics.evictions.clone());
        Self { table, keys, began: Instant::now(), metrics, alone: AtomicBool::new(false) }
    }

    /// How many allowances there is room for.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Counts a request with each of `limits`, in their order, until one refuses it. What it has counted with before
    /// that stays counted. `standings` hears of every limit that was asked.
    pub async fn count(
        &self,
        limits: &[Limit],
        who: Who<'_>,
        redis: Option<&RedisStore>,
        now: Instant,
        standings: &mut Vec<Standing>,
    ) -> Result<(), Exceeded> {
        let now = nanos(now.saturating_duration_since(self.began));
        for limit in limits {
            let taken = match redis.filter(|_| limit.settings.shared) {
                Some(redis) => self.together(limit, who, redis, now).await,
                None => self.table.take(limit.key(&self.table, who, "own"), now, &limit.quota),
            };
            standings.push(limit.standing(taken));
            if !taken.passed {
                let wait = Duration::from_nanos(limit.quota.wait(taken.debt));
                return Err(Exceeded { limit: Arc::clone(&limit.settings.name), wait });
            }
        }
        Ok(())
    }
}

impl Limits {
    /// `place` is the route's name; the server's own limits have none.
    pub fn new(place: &Arc<str>, settings: &[RateLimit]) -> Self {
        let made = settings.iter().map(|it| Limit {
            settings: Arc::new(it.clone()),
            quota: Quota::of(it),
            place: Arc::clone(place),
        });
        let (before, after): (Vec<_>, Vec<_>) = made.partition(|limit| limit.settings.by == By::Ip);
        Self { before: before.into(), after: after.into() }
    }
}

impl Limit {
    fn standing(&self, taken: Taken) -> Standing {
        Standing {
            limit: Arc::clone(&self.settings),
            remaining: self.quota.remaining(taken.debt),
            reset: Duration::from_nanos(taken.debt),
        }
    }

    /// The table's name for whose allowance it is. `sort` tells several things apart that are kept of one.
    fn key(&self, table: &Table, who: Who<'_>, sort: &str) -> u64 {
        let (by, user, network) = self.counted(who);
        table.key((&*self.place, &*self.settings.name, sort, by, user, network))
    }

    /// As whose the request counts. Without a user, by address.
    fn counted<'a>(&self, who: Who<'a>) -> (&'static str, Option<&'a User>, Option<Network>) {
        let network = || Some(Network::of(who.address, who.ipv6_prefix));
        match (self.settings.by, who.user) {
            (By::Subject, Some(user)) => ("subject", Some(user), None),
            (By::Subject, None) | (By::Ip, _) => ("ip", None, network()),
            (By::Route, _) => ("route", None, None),
        }
    }
}
