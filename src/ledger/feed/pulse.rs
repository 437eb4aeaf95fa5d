//! Whether we would hear of a change: the monotonic instant from which on nothing has been missed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Beats with every look that was answered.
#[derive(Debug)]
pub struct Pulse {
    begin: Instant,
    /// Milliseconds since `begin` at which the last answered look began; zero: never.
    last: AtomicU64,
    /// How old a look may be.
    lease: Duration,
}

impl Pulse {
    /// Memory may be stale for no longer than `lease`: looks are taken twice as often.
    pub fn new(lease: Duration) -> Self {
        Self { begin: Instant::now(), last: AtomicU64::new(0), lease }
    }

    /// All that was committed before `began` is known by now.
    pub fn beat(&self, began: Instant) {
        let millis = began.saturating_duration_since(self.begin).as_millis();
        self.last.store(u64::try_from(millis).unwrap_or(u64::MAX).max(1), Ordering::Release);
    }

    /// No longer: a look failed, or a table is not watched.
    pub fn stop(&self) {
        self.last.store(0, Ordering::Release);
    }

    /// Whether every change older than the lease is known.
    pub fn is_alive(&self) -> bool {
        match self.last.load(Ordering::Acquire) {
            0 => false,
            last => self.begin.elapsed() <= Duration::from_millis(last) + self.lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pulse_that_is_late_counts_as_none() {
        let pulse = Pulse::new(Duration::from_secs(2));
        assert!(!pulse.is_alive());
        pulse.beat(Instant::now());
        tokio::time::advance(Duration::from_millis(1900)).await;
        assert!(pulse.is_alive());
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(!pulse.is_alive());
        pulse.beat(Instant::now());
        pulse.stop();
        assert!(!pulse.is_alive());
    }
}
