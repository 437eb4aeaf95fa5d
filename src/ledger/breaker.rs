//! A dead store costs a request nothing: after a few failures in a row it is not asked any more, until the background
//! probe has found it well again. Requests never probe: none of them pays for finding out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Failures in a row until requests stop asking.
const LIMIT: u32 = 5;

/// One store's breaker.
#[derive(Debug)]
pub struct Breaker {
    store: &'static str,
    open: AtomicBool,
    failures: AtomicU32,
    /// The store's own timeout.
    patience: Duration,
    up: IntGauge,
    /// Rung when it opens or closes: the mode may have changed.
    turned: Arc<Notify>,
}

impl Breaker {
    /// Closed: the store is believed to be well.
    pub fn new(store: &'static str, patience: Duration, up: IntGauge, turned: Arc<Notify>) -> Self {
        up.set(1);
        Self { store, open: AtomicBool::new(false), failures: AtomicU32::new(0), patience, up, turned }
    }

    /// Whether the store is being left alone.
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Permission to ask; `None` while the store is being left alone.
    pub fn attempt(&self) -> Option<Attempt<'_>> {
        if self.is_open() {
            return None;
        }
        Some(Attempt { breaker: self, since: Instant::now(), decided: false })
    }

    /// The store is known to be away: no more failures have to be counted.
    pub fn trip(&self, cause: &dyn std::fmt::Display) {
        if !self.open.swap(true, Relaxed) {
            self.up.set(0);
            self.turned.notify_one();
            tracing::warn!(store = self.store, %cause, "Store is left alone until it answers a probe");
        }
    }

    /// The background probe had its answer: the store is well.
    pub fn reset(&self) {
        self.failures.store(0, Relaxed);
        if self.open.swap(false, Relaxed) {
            self.up.set(1);
            self.turned.notify_one();
            tracing::info!(store = self.store, "Store is asked again");
        }
    }

    /// A failure, of a request or of the probe.
    pub fn failed(&self, cause: &dyn std::fmt::Display) {
        if self.failures.fetch_add(1, Relaxed).saturating_add(1) >= LIMIT {
            self.trip(cause);
        }
    }
}

/// One question to a store, on its way. It must be told how it ended.
#[derive(Debug)]
#[must_use]
pub struct Attempt<'a> {
    breaker: &'a Breaker,
    since: Instant,
    decided: bool,
}

impl Attempt<'_> {
    /// The store answered, whatever it said.
    pub fn succeeded(mut self) {
        self.decided = true;
        // Reading is cheap and shared by all cores; writing is not.
        if self.breaker.failures.load(Relaxed) != 0 {
            self.breaker.failures.store(0, Relaxed);
        }
    }

    /// It did not.
    pub fn failed(mut self, cause: &dyn std::fmt::Display) {
        self.decided = true;
        self.breaker.failed(cause);
    }
}

/// Left without a word: the request was dropped on the way. That speaks against the store only where it had already
/// had its whole time; otherwise clients that hang up early could open the breaker of a healthy store.
impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.decided && self.since.elapsed() >= self.breaker.patience {
            self.breaker.failed(&"nobody waited for the answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        let up = IntGauge::new("up", "up").expect("a gauge");
        Breaker::new("redis", Duration::from_millis(50), up, Arc::default())
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.attempt().expect("closed").failed(&"refused");
        }
    }

    #[test]
    fn a_few_failures_in_a_row_open_it_and_only_a_probe_closes_it() {
        let breaker = breaker();
        fail(&breaker, LIMIT - 1);
        breaker.attempt().expect("closed").succeeded();
        fail(&breaker, LIMIT);
        assert!(breaker.attempt().is_none());
        assert_eq!(breaker.up.get(), 0);
        breaker.reset();
        assert!(breaker.attempt().is_some());
        assert_eq!(breaker.up.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_hang_up_early_do_not_open_it_and_a_silent_store_does() {
        let breaker = breaker();
        for _ in 0..100 {
            drop(breaker.attempt());
        }
        assert!(!breaker.is_open());
        for _ in 0..LIMIT {
            let attempt = breaker.attempt().expect("closed");
            tokio::time::advance(Duration::from_millis(50)).await;
            drop(attempt);
        }
        assert!(breaker.is_open());
    }
}
