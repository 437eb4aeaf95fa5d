//! The keys of one issuer as they are now: fixed, or fetched behind the requests and published whole.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use rand::RngExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::{FetchError, Remote};
use super::keys::KeySet;
use super::metrics::RefreshMetrics;
use super::settings::{IssuerSettings, JwksSettings, KeySource};
use crate::cause::Chain;
use crate::tasks;
use crate::time::Timestamp;

/// Longest a request waits for a fetch that its `kid` asked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// First pause after a failed fetch; it doubles up to `LONGEST_PAUSE` or the refresh interval.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A key set and its place in the order of those published; set once per change.
pub(super) struct Published {
    pub keys: Arc<KeySet>,
    pub generation: u64,
}

/// One issuer's keys.
pub(super) struct KeyRing {
    current: ArcSwapOption<Published>,
    /// Of `current`; 0 before the first set. Beside it, so that a cache hit compares one number.
    generation: AtomicU64,
    /// Milliseconds since the epoch until which `current` is believed without a new fetch.
    believed_until: AtomicI64,
    /// `None` where keys are fixed.
    fetching: Option<Fetching>,
}

/// How requests and the task that fetches talk to each other.
struct Fetching {
    settings: JwksSettings,
    /// Wakes the task.
    wanted: Notify,
    pacing: Mutex<Pacing>,
    /// Counts fetches that have ended, well or badly.
    ended: watch::Sender<u64>,
}

struct Pacing {
    in_flight: bool,
    /// When a request may cause the next fetch.
    next: Instant,
}

impl KeyRing {
    /// Ready at once where keys are fixed; else empty until the task started with [`KeyRing::keep_fresh`] has fetched.
    pub(super) fn new(source: &KeySource) -> Self {
        let (fixed, jwks) = match source {
            KeySource::Fixed(keys) => (Some(keys.clone()), None),
            KeySource::Url { jwks, .. } | KeySource::Discovery { jwks } => (None, Some(jwks.clone())),
        };
        let ring = Self {
            current: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            believed_until: AtomicI64::new(i64::MIN),
            fetching: jwks.map(|settings| Fetching {
                settings,
                wanted: Notify::new(),
                pacing: Mutex::new(Pacing { in_flight: false, next: Instant::now() }),
                ended: watch::Sender::new(0),
            }),
        };
        if let Some(keys) = fixed {
            ring.publish(keys, i64::MAX);
        }
        ring
    }

    /// The keys in force at `now`; `None` when there are none, or none that may still be believed.
    pub(super) fn current(&self, now: Timestamp) -> Option<Arc<Published>> {
        if self.is_stale(now) { None } else { self.current.load_full() }
    }

    /// Whether the keys, if any, are too old to be believed.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        now.millis() > self.believed_until.load(Ordering::Acquire)
    }

    /// The generation in force.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Waits, for a bounded time, until a fetch that may know a new key has ended. However many ask, one fetch serves
    /// them all, and within the cool-down none is made. False where there is nothing new to look at.
    pub(super) async fn look_again(&self) -> bool {
        let Some(fetching) = &self.fetching else { return false };
        let mut ended = fetching.ended.subscribe();
        if !fetching.ask() {
            return false;
        }
        tokio::time::timeout(PATIENCE, ended.changed()).await.is_ok()
    }

    /// Asks for keys without waiting for them: for the requests of an issuer that has none.
    pub(super) fn nudge(&self) {
        if let Some(fetching) = &self.fetching {
            fetching.ask();
        }
    }

    /// Waits until the first fetch has ended, or `patience` has.
    pub(super) async fn first_fetch(&self, patience: Duration) {
        let Some(fetching) = &self.fetching else { return };
        let mut ended = fetching.ended.subscribe();
        let first = ended.wait_for(|count| *count > 0);
        // Not in time is not fatal: other issuers work, and this one's tokens meet an outage, not a refusal.
        let _in_time = tokio::time::timeout(patience, first).await;
    }

    /// Fetches at once, then at each interval, on request and, after failures, with growing pauses; until `stop`.
    pub(super) async fn keep_fresh(
        self: Arc<Self>,
        remote: Remote,
        issuer: Arc<str>,
        metrics: RefreshMetrics,
        stop: CancellationToken,
    ) {
        let Some(fetching) = &self.fetching else { return };
        let mut pauses = pauses(fetching.settings.refresh);
        loop {
            fetching.begin();
            let Some(fetched) = stop.run_until_cancelled(remote.fetch()).await else { return };
            let pause = match self.take(fetched, &fetching.settings) {
                Ok(()) => {
                    metrics.ok.inc();
                    pauses = self::pauses(fetching.settings.refresh);
                    jittered(fetching.settings.refresh)
                }
                Err(error) => {
                    metrics.failed.inc();
                    tracing::warn!(issuer = %issuer, error = %Chain(&error), "Key set not refreshed");
                    pauses.next().unwrap_or(LONGEST_PAUSE)
                }
            };
            fetching.end();
            let asked = tokio::time::timeout(pause, fetching.wanted.notified());
            if stop.run_until_cancelled(asked).await.is_none() {
                return;
            }
        }
    }

    fn take(&self, fetched: Result<KeySet, FetchError>, settings: &JwksSettings) -> Result<(), FetchError> {
        let keys = fetched?;
        self.publish(Arc::new(keys), Timestamp::now().plus(settings.max_stale).millis());
        Ok(())
    }

    fn publish(&self, keys: Arc<KeySet>, believed_until: i64) {
        let unchanged = self.current.load().as_ref().is_some_and(|published| published.keys == keys);
        if !unchanged {
            let generation = self.generation() + 1;
            self.current.store(Some(Arc::new(Published { keys, generation })));
            // After the set: who sees the new number finds at least the new set.
            self.generation.store(generation, Ordering::Release);
        }
        self.believed_until.store(believed_until, Ordering::Release);
    }
}

impl Fetching {
    /// True when a fetch is under way or has just been ordered; false within the cool-down.
    fn ask(&self) -> bool {
        let mut pacing = self.pacing.lock().unwrap_or_else(PoisonError::into_inner);
        if pacing.in_flight {
            return true;
        }
        if Instant::now() < pacing.next {
            return false;
        }
        pacing.in_flight = true;
        pacing.next = Instant::now() + self.settings.cooldown;
        self.wanted.notify_one();
        true
    }

    fn begin(&self) {
        let mut pacing = self.pacing.lock().unwrap_or_else(PoisonError::into_inner);
        *pacing = Pacing { in_flight: true, next: Instant::now() + self.settings.cooldown };
    }

    fn end(&self) {
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner).in_flight = false;
        self.ended.send_modify(|count| *count += 1);
    }
}

/// The task that keeps a ring fresh ends with the ring's last owner, or with `shutdown`.
pub(super) fn start(
    settings: &IssuerSettings,
    metrics: impl FnOnce() -> RefreshMetrics,
    shutdown: &CancellationToken,
) -> (Arc<KeyRing>, tokio_util::sync::DropGuard) {
    let ring = Arc::new(KeyRing::new(&settings.keys));
    let stop = shutdown.child_token();
    if let Some(remote) = Remote::of(&settings.issuer, &settings.keys, &settings.algorithms) {
        let (kept, issuer, metrics, ends) = (ring.clone(), settings.issuer.clone(), metrics(), stop.clone());
        tasks::keep("keys", &stop, move || {
            kept.clone().keep_fresh(remote.clone(), issuer.clone(), metrics.clone(), ends.clone())
        });
    }
    (ring, stop.drop_guard())
}

fn pauses(refresh: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE.min(refresh))
        .with_max_delay(LONGEST_PAUSE.min(refresh))
        .without_max_times()
        .with_jitter()
        .build()
}

/// Up to a tenth shorter, so that gateways that start together do not ask together for ever.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.9..=1.0))
}
