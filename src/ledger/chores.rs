//! House-keeping in Redis: expired tokens leave the sets they were kept in, evictions are noticed, keys are counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Ledger;
use super::preset::Counted;
use super::redis::{Eviction, RedisStore};
use super::store::StoreError;
use crate::time::Timestamp;
use crate::token::Token;
use crate::verify::inspect::unverified;

/// How often the sets are swept, by one gateway of all.
const SWEEP: Duration = Duration::from_secs(3600);
/// Whoever holds this key has swept, or is about to.
const SWEPT: &str = "pc:swept";
/// How long a token stays in its set after its end: longer than any leeway.
const GRACE: Duration = Duration::from_secs(3600);
/// How often Redis is asked whether it evicts keys; and how soon again where it could not be asked.
const LOOK: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long keys are counted, and how long the count is shown again.
const BUDGET: Duration = Duration::from_secs(1);
const FRESH: Duration = Duration::from_secs(60);

/// What is on hand between two chores.
#[derive(Default)]
pub(super) struct Chores {
    sweep: Notify,
    /// One counts for all who ask.
    counted: Mutex<Option<(Instant, KeyCounts)>>,
}

impl Chores {
    /// Has the sets swept now, beside the caller.
    pub fn sweep_soon(&self) {
        self.sweep.notify_one();
    }
}

/// Keys in Redis, in all gateways' name. Counted page by page: a key that is moved meanwhile may count twice.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct KeyCounts {
    pub blacklisted_tokens: u64,
    pub refresh_tokens: u64,
    pub active_sessions: u64,
    pub cached_profiles: u64,
    /// Whether all keys were looked at; otherwise there are at least so many.
    pub complete: bool,
    /// How long ago they were counted.
    pub age_seconds: u64,
}

/// This gateway's memory, since its start.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct MemoryCounts {
    pub hits: u64,
    pub misses: u64,
    /// Hits of all; 0 before the first question.
    pub hit_rate: f64,
    /// Times that something kept was given up because it had changed.
    pub invalidations: u64,
}

/// What is counted of chores.
#[derive(Clone, Debug)]
pub(super) struct ChoreMetrics {
    evicted: IntCounter,
    swept: IntCounter,
}

impl ChoreMetrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        Ok(Self {
            evicted: counter(
                "portcullis_redis_evicted_keys_total",
                "Keys that Redis threw away for lack of memory, as seen once a minute. Bans may have been among them.",
            )?,
            swept: counter(
                "portcullis_swept_tokens_total",
                "Expired tokens taken out of the sets in which services keep them.",
            )?,
        })
    }
}

impl ChoreMetrics {
    /// `known`: what each server had evicted when it was last asked.
    fn note(&self, known: &mut HashMap<Box<str>, u64>, server: Eviction) {
        let Eviction { life, policy, evicted } = server;
        let before = known.insert(life, evicted);
        if before.is_none() && policy != "noeviction" {
            let advice = "bans would be lost; set maxmemory-policy noeviction";
            tracing::warn!(policy, evicted, advice, "This Redis evicts keys when its memory runs out");
        }
        let more = before.map_or(0, |before| evicted.saturating_sub(before));
        if more > 0 {
            self.evicted.inc_by(more);
            tracing::error!(evicted = more, policy, "Redis has evicted keys: bans may have been among them");
        }
    }
}

impl Ledger {
    pub(super) fn start_chores(self: &Arc<Self>, shutdown: &CancellationToken) {
        let Some(redis) = self.redis.clone() else { return };
        let (sweeper, looker) = (Arc::clone(&redis), redis);
        self.keep("sweep", shutdown, move |ledger| {
            let redis = Arc::clone(&sweeper);
            async move { ledger.sweep_forever(&redis).await }
        });
        self.keep("evictions", shutdown, move |ledger| {
            let redis = Arc::clone(&looker);
            async move { ledger.look_forever(&redis).await }
        });
    }

    async fn sweep_forever(&self, redis: &RedisStore) {
        let sets: Vec<_> = self.writer.tokens().filter_map(|layout| layout.sets()).collect();
        if sets.is_empty() {
            return;
        }
        loop {
            let asked = tokio::time::timeout(SWEEP, self.chores.sweep.notified()).await.is_ok();
            let swept = async {
                // Asked by an operator it is done in any case.
                if !redis.claim(SWEPT, SWEEP / 2).await? && !asked {
                    return Ok(0);
                }
                let now = Timestamp::now();
                let mut swept = 0;
                for prefix in &sets {
                    swept += redis.sweep(prefix, |token| is_over(token, now)).await?;
                }
                Ok::<_, StoreError>(swept)
            };
            match swept.await {
                Ok(swept) => {
                    self.metrics.chores.swept.inc_by(swept);
                    tracing::info!(swept, "Expired tokens swept out of their sets");
                }
                Err(error) => tracing::warn!(%error, "Expired tokens not swept out of their sets"),
            }
        }
    }

    async fn look_forever(&self, redis: &RedisStore) {
        let mut known = HashMap::new();
        loop {
            let wait = match redis.eviction().await {
                Ok(servers) => {
                    servers.into_iter().for_each(|server| self.metrics.chores.note(&mut known, server));
                    LOOK
                }
                Err(StoreError::Unavailable(why)) if why == "NOPERM" => {
                    tracing::info!("Redis does not let us ask whether it evicts keys (INFO)");
                    return;
                }
                Err(_) => LOOK_AGAIN,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// `None` without Redis, or when it cannot be asked.
    pub(super) async fn count_keys(&self) -> Option<KeyCounts> {
        let redis = self.redis.as_ref()?;
        let mut counted = self.chores.counted.lock().await;
        if let Some((at, counts)) = &*counted
            && at.elapsed() < FRESH
        {
            return Some(KeyCounts { age_seconds: at.elapsed().as_secs(), ..counts.clone() });
        }
        // Two presets may keep the same keys.
        let mut kinds: Vec<_> = self.writer.presets.iter().flat_map(|preset| preset.counted()).collect();
        kinds.sort_unstable_by_key(|(_, prefix)| *prefix);
        kinds.dedup();
        let prefixes: Vec<_> = kinds.iter().map(|(_, prefix)| *prefix).collect();
        let census = redis.census(&prefixes, BUDGET).await.ok()?;
        let mut counts = KeyCounts { complete: census.complete, ..KeyCounts::default() };
        for ((kind, _), count) in kinds.iter().zip(census.counts) {
            *match kind {
                Counted::BlacklistedTokens => &mut counts.blacklisted_tokens,
                Counted::RefreshTokens => &mut counts.refresh_tokens,
                Counted::Sessions => &mut counts.active_sessions,
                Counted::Profiles => &mut counts.cached_profiles,
            } += count;
        }
        *counted = Some((Instant::now(), counts.clone()));
        Some(counts)
    }

    pub(super) fn memory_counts(&self) -> MemoryCounts {
        let (hits, misses) = (self.metrics.memory_hit.get(), self.metrics.memory_miss.get());
        let all = hits.saturating_add(misses);
        let hit_rate = if all == 0 { 0.0 } else { hits as f64 / all as f64 };
        MemoryCounts {
            hits,
            misses,
            hit_rate,
            invalidations: self.metrics.link.pushes.get() + self.database.memory.generation(),
        }
    }
}

/// Whether a token's life has ended, by its own word: nobody has to believe a token that calls itself dead. What is no
/// token, or names no end, stays.
fn is_over(token: &[u8], now: Timestamp) -> bool {
    let end = std::str::from_utf8(token).ok().and_then(|text| {
        let content = unverified(&Token::new(text)).ok()?;
        content.claims.get("exp")?.as_i64()
    });
    end.is_some_and(|end| Timestamp::from_seconds(end).plus(GRACE) < now)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn a_token_is_over_when_it_says_so_and_that_is_long_ago() {
        let token = |claims: &str| {
            let [header, payload] = [r#"{"alg":"HS256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            format!("{header}.{payload}.c2ln")
        };
        let now = Timestamp::from_seconds(10_000);
        let over = |token: &str| is_over(token.as_bytes(), now);
        assert!(over(&token(r#"{"exp":6399}"#)));
        assert!(!over(&token(r#"{"exp":6401}"#)), "some issuer's leeway may keep it");
        for kept in ["", "no.such.token", &token("{}"), &token(r#"{"exp":"1"}"#), &token("[1]")] {
            assert!(!over(kept), "{kept}");
        }
        assert!(!is_over(b"\xff", now));
    }

    #[test]
    fn evictions_are_counted_from_the_first_look_on_server_by_server() {
        let metrics = ChoreMetrics::register(&Registry::new()).expect("metrics");
        let mut known = HashMap::new();
        let mut look = |life: &str, evicted| {
            metrics.note(&mut known, Eviction { life: life.into(), policy: "allkeys-lru".into(), evicted });
            metrics.evicted.get()
        };
        assert_eq!([look("a", 5), look("a", 7), look("b", 9), look("b", 9), look("a", 8)], [0, 2, 2, 2, 3]);
        assert_eq!(look("a", 0), 3, "CONFIG RESETSTAT is no eviction");
    }
}
