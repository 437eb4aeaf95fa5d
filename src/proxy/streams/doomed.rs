//! Exchanges that are to be cut in a moment.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use super::{Fate, Member};

/// The next one first.
#[derive(Default)]
pub(super) struct Doomed(BinaryHeap<Reverse<Sentence>>);

struct Sentence {
    at: Instant,
    member: Member,
    fate: Fate,
}

impl Doomed {
    pub fn put(&mut self, at: Instant, member: Member, fate: Fate) {
        self.0.push(Reverse(Sentence { at, member, fate }));
    }

    /// One whose time has come.
    pub fn due(&mut self, now: Instant) -> Option<(Member, Fate)> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse(Sentence { member, fate, .. })| (member, fate))
    }

    /// When the next one's time comes.
    pub fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse(sentence)| sentence.at)
    }
}

impl PartialEq for Sentence {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Sentence {}

impl PartialOrd for Sentence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sentence {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}
