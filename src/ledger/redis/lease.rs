//! Whether somebody else still vouches for the servers that are believed, and until when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Given out in terms: a new one begins whenever what is vouched for changes. A term that has ended never comes back.
#[derive(Debug)]
pub(super) struct Lease {
    base: Instant,
    term: AtomicU64,
    /// Nanoseconds since `base`; zero: nobody vouches.
    until: AtomicU64,
    turned: Notify,
}

/// One term of a lease.
#[derive(Clone, Debug)]
pub struct Term {
    lease: Arc<Lease>,
    number: u64,
}

impl Lease {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            term: AtomicU64::new(0),
            until: AtomicU64::new(0),
            turned: Notify::new(),
        })
    }

    /// What was believed is vouched for until then. Only one task renews and ends.
    pub fn renew(&self, until: Instant) {
        let nanos = u64::try_from(until.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        let before = self.until.swap(nanos, Ordering::AcqRel);
        if before == 0 {
            self.turned.notify_waiters();
        }
    }

    /// Ends the term, if anybody vouched for it.
    pub fn end(&self) {
        // The deadline goes first: who reads it before the term has changed reads an end.
        if self.until.swap(0, Ordering::AcqRel) != 0 {
            self.term.fetch_add(1, Ordering::AcqRel);
            self.turned.notify_waiters();
        }
    }

    /// The present term, while somebody vouches.
    pub fn term(self: &Arc<Self>) -> Option<Term> {
        let number = self.term.load(Ordering::Acquire);
        let term = Term { lease: Arc::clone(self), number };
        term.holds().then_some(term)
    }

    /// Until a term begins or ends, by word; that time has run out is not told here.
    /// From this call on, whenever it is awaited.
    pub fn turns(&self) -> Notified<'_> {
        self.turned.notified()
    }
}

impl Term {
    /// Whether it is vouched for at this moment.
    pub fn holds(&self) -> bool {
        self.left().is_some()
    }

    fn left(&self) -> Option<Duration> {
        // In this order: a deadline of a later term is read only after that term has begun.
        let until = Duration::from_nanos(self.lease.until.load(Ordering::Acquire));
        let same = self.lease.term.load(Ordering::Acquire) == self.number;
        let left = until.checked_sub(self.lease.base.elapsed())?;
        (same && !left.is_zero()).then_some(left)
    }

    /// Until it has ended, or has run out.
    pub async fn ended(&self) {
        loop {
            let turned = self.lease.turned.notified();
            let Some(left) = self.left() else { return };
            let _ = tokio::time::timeout(left, turned).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_term_runs_out_unless_it_is_renewed_and_one_that_was_ended_never_holds_again() {
        let lease = Lease::new();
        assert!(lease.term().is_none());
        lease.renew(Instant::now() + SECOND);
        let term = lease.term().expect("vouched for");
        tokio::time::advance(SECOND / 2).await;
        lease.renew(Instant::now() + SECOND);
        tokio::time::advance(SECOND * 3 / 4).await;
        assert!(term.holds());
        tokio::time::advance(SECOND).await;
        assert!(!term.holds() && lease.term().is_none(), "nobody said anything");
        lease.renew(Instant::now() + SECOND);
        assert!(term.holds(), "the same is vouched for again");
        lease.end();
        lease.renew(Instant::now() + SECOND);
        assert!(!term.holds() && lease.term().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_end_hears_of_it_by_word_or_by_time() {
        let lease = Lease::new();
        lease.renew(Instant::now() + SECOND);
        let start = Instant::now();
        lease.term().expect("vouched for").ended().await;
        assert!(start.elapsed() >= SECOND && start.elapsed() < SECOND * 2);
        lease.renew(Instant::now() + SECOND);
        let term = lease.term().expect("vouched for");
        let waiting = tokio::spawn(async move { term.ended().await });
        tokio::task::yield_now().await;
        lease.end();
        waiting.await.expect("it ends");
        assert!(lease.term().is_none());
    }
}
