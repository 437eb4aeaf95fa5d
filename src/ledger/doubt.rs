//! Whether Redis lacks a change that the database holds.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether Redis is to be believed. Each doubt has its own number: who found everything delivered settles the doubts
/// from before it looked, and not one that was raised meanwhile.
#[derive(Default)]
pub(super) struct Doubt {
    /// Zero: none.
    open: AtomicU64,
    raised: AtomicU64,
}

impl Doubt {
    pub fn raise(&self) {
        self.open.store(self.raised.fetch_add(1, Ordering::AcqRel) + 1, Ordering::Release);
    }

    pub fn is_raised(&self) -> bool {
        self.number() != 0
    }

    /// To be read before looking, and given back to [`Doubt::settle`].
    pub fn number(&self) -> u64 {
        self.open.load(Ordering::Acquire)
    }

    pub fn settle(&self, number: u64) {
        // A failure means that there is another doubt by now.
        let _ = self.open.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Acquire);
    }
}
