//! What Redis said, kept: a bounded store of answers by key, and a memo per credential in front of it.
//!
//! Neither decides whether it may be believed: see [`super::coherence`].

use std::sync::atomic::{AtomicU64, Ordering, fence};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use super::coherence::{Stamp, Tick};
use super::condition::Held;
use super::memory::Key;

/// The kept answers; the least useful go when it is full, which costs a look-up.
#[derive(Debug)]
pub struct Answers {
    kept: Cache<Key, Answer>,
}

/// One answer, in the size that a million of them allow.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub held: Held,
    /// From before the question was sent.
    pub stamp: Stamp,
    /// When the key's own life ends, or our patience with it.
    pub until: Tick,
}

impl Answers {
    /// Holds at most `most` answers.
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        let mut options = OptionsBuilder::new();
        // Remembering the keys of what was evicted would cost half as many entries again.
        options.estimated_items_capacity(most).weight_capacity(most as u64).ghost_allocation(0.0);
        let kept = match options.build() {
            Ok(options) => {
                let hasher = DefaultHashBuilder::default();
                Cache::with_options(options, UnitWeighter, hasher, DefaultLifecycle::default())
            }
            // Only where a bound was left out.
            Err(_) => Cache::new(most),
        };
        Self { kept }
    }

    /// What is kept, if it is still of this stamp and its time is not over.
    pub fn get(&self, key: &Key, stamp: Stamp, now: Tick) -> Option<Answer> {
        self.kept.get(key).filter(|answer| answer.stamp == stamp && now < answer.until)
    }

    /// Keeps an answer.
    pub fn insert(&self, key: Key, answer: Answer) {
        self.kept.insert(key, answer);
    }

    /// How many are kept, void ones included.
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

/// That nothing was held against a credential: under one stamp of all its answers together, until an instant. Read at
/// every request, so it is two numbers under a sequence lock; whoever finds it being written looks among the answers.
#[derive(Debug, Default)]
pub struct Memo {
    /// Odd while it is being written; 0: never written.
    sequence: AtomicU64,
    stamp: AtomicU64,
    until: AtomicU64,
}

impl Memo {
    /// Whether the credential is known to be good at `now`, if `stamp` is the present one.
    pub fn vouches(&self, stamp: Stamp, now: Tick) -> bool {
        let before = self.sequence.load(Ordering::Acquire);
        let (kept, until) = (self.stamp.load(Ordering::Relaxed), self.until.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole =
            before != 0 && before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
        whole && kept == stamp.number() && now < Tick::from_nanos(until)
    }

    /// Keeps what was found. Of several at one time one is enough.
    pub fn keep(&self, stamp: Stamp, until: Tick) {
        let before = self.sequence.load(Ordering::Relaxed);
        let claim =
            |from, to| self.sequence.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !before.is_multiple_of(2) || !claim(before, before.wrapping_add(1)) {
            return;
        }
        fence(Ordering::Release);
        self.stamp.store(stamp.number(), Ordering::Relaxed);
        self.until.store(until.nanos(), Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
