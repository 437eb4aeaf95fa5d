//! Whether what memory holds is still what Redis holds.
//!
//! Every key name falls into a slot, and a change of a key counts its slot's version up; whatever says less than which
//! key has changed counts the generation up. An answer is kept with the [`Stamp`] from before it was asked for, and
//! believed while the stamp is still the same. That is checked when the answer is *used*: whether a push overtakes the
//! answer it voids, or comes between its arrival and its being kept, makes no difference, and nothing is locked.
//!
//! Pushes that do not come cannot be counted. So nothing is believed without a lease: a fence, sent at the instant the
//! lease counts from, has been answered, and on that connection an answer comes after all pushes that stood before it.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::memory::Key;

/// Fewer would make keys share their slots, which costs look-ups; more cost memory, eight bytes each.
const FEWEST: usize = 1 << 16;
const MOST: usize = 1 << 24;

/// Slots are counted once more, many in one: these few counters stay in a processor's cache, where a version among
/// millions does not. What is concluded from several answers goes by them; a change that was not meant for it costs it a
/// look at those answers.
const GROUPS: usize = 1 << 14;

/// Versions, generation and lease.
#[derive(Debug)]
pub struct Coherence {
    generation: AtomicU64,
    versions: Box<[AtomicU64]>,
    groups: Box<[AtomicU32]>,
    /// Counts everything heard, and rings for whoever waits for it.
    heard: AtomicU64,
    bell: Notify,
    /// When the fence was sent that gave the lease, and under which generation. The lease is over with its generation.
    fenced_at: AtomicU64,
    fenced_under: AtomicU64,
    lease: Duration,
    hashers: [RandomState; 3],
    opened: Instant,
}

/// Nanoseconds on the monotonic clock since the ledger was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

impl Tick {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// Later by `by`; saturates.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` until `self`; zero where it is the other way round.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(super) fn nanos(self) -> u64 {
        self.0
    }

    pub(super) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

/// Where the version of a key is counted; other keys may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    pub(super) fn group(self) -> usize {
        self.0 as usize % GROUPS
    }
}

/// A sum of counters that only ever grow: it is the same only while each of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// With one more counter in it.
    pub fn and(self, counter: u64) -> Self {
        Self(self.0.wrapping_add(counter))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

impl Coherence {
    /// For about so many answers. `lease`: how long memory may be believed without a sign of life from Redis.
    pub fn new(answers: usize, lease: Duration) -> Self {
        let slots = answers.min(MOST).next_power_of_two().clamp(FEWEST, MOST);
        Self {
            // Not 0: a lease that was never given is of generation 0.
            generation: AtomicU64::new(1),
            versions: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            groups: (0..GROUPS).map(|_| AtomicU32::new(0)).collect(),
            heard: AtomicU64::new(0),
            bell: Notify::new(),
            fenced_at: AtomicU64::new(0),
            fenced_under: AtomicU64::new(0),
            lease,
            hashers: std::array::from_fn(|_| RandomState::new()),
            opened: Instant::now(),
        }
    }

    /// The present. The clock itself, not a ticker's copy: one that stalls would keep the lease open.
    pub fn now(&self) -> Tick {
        self.tick(Instant::now())
    }

    /// An instant as a tick; zero for what lies before the opening.
    pub fn tick(&self, instant: Instant) -> Tick {
        Tick::ZERO.plus(instant.saturating_duration_since(self.opened))
    }

    /// The slot of a key. Hashed with a seed of this process: nobody can choose names that share a slot.
    pub fn slot(&self, key: &[u8]) -> Slot {
        let [hasher, ..] = &self.hashers;
        // The number of slots is a power of two that fits.
        Slot(u32::try_from(hasher.hash_one(key) & (self.versions.len() as u64 - 1)).unwrap_or(0))
    }

    /// What an answer is kept under.
    pub fn key(&self, question: &impl Hash) -> Key {
        let [_, first, second] = &self.hashers;
        Key::new(first.hash_one(question), second.hash_one(question))
    }

    /// To be taken before a question is sent.
    pub fn stamp(&self, slot: Slot) -> Stamp {
        Stamp(self.generation()).and(self.version(slot))
    }

    /// The stamp of all these slots together, by their groups.
    pub fn stamp_of_all(&self, slots: &[Slot]) -> Stamp {
        slots.iter().fold(Stamp(self.generation()), |stamp, slot| stamp.and(self.group(*slot).into()))
    }

    /// Counts whatever is not about single keys: a new connection, a lost one, a flush.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A key has changed, or may have.
    pub fn changed(&self, key: &[u8]) {
        let slot = self.slot(key);
        if let Some(version) = self.versions.get(slot.0 as usize) {
            version.fetch_add(1, Ordering::Release);
        }
        // Behind the version: who sees the group as it is now finds no answer that is older.
        if let Some(group) = self.groups.get(slot.group()) {
            group.fetch_add(1, Ordering::Release);
        }
        self.ring();
    }

    /// Any key may have changed. Ends the lease too: the next fence says whether there is anything to believe.
    pub fn everything_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.ring();
    }

    /// Behind the change it tells of: who has seen this count has seen the change.
    fn ring(&self) {
        self.heard.fetch_add(1, Ordering::Release);
        self.bell.notify_one();
    }

    /// Counts everything heard, of whichever key.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Waits until something is heard; once for all that was heard since the last time.
    pub async fn hears(&self) {
        self.bell.notified().await;
    }

    /// A fence has been answered that was sent at `sent`, under this generation.
    pub fn fenced(&self, sent: Tick, generation: u64) {
        // In this order: who reads this instant and an older `fenced_under` sees the newer generation, and no lease.
        self.fenced_at.store(sent.0, Ordering::Release);
        self.fenced_under.store(generation, Ordering::Release);
    }

    /// Whether memory may be believed at `now`.
    pub fn holds(&self, now: Tick) -> bool {
        let under = self.fenced_under.load(Ordering::Acquire);
        let at = Tick(self.fenced_at.load(Ordering::Acquire));
        under == self.generation() && now.since(at) <= self.lease
    }

    /// When the last fence was sent that has been answered.
    #[cfg(test)]
    pub fn last_fence(&self) -> Tick {
        Tick(self.fenced_at.load(Ordering::Acquire))
    }

    /// Counts the changes of a slot's keys.
    pub fn version(&self, Slot(slot): Slot) -> u64 {
        // A slot is always one of the table.
        self.versions.get(slot as usize).map_or(0, |version| version.load(Ordering::Acquire))
    }

    /// Counts the changes of a group's keys. It is the same again after four thousand million changes, and nothing is
    /// believed for as long as those take.
    fn group(&self, slot: Slot) -> u32 {
        self.groups.get(slot.group()).map_or(0, |group| group.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(500);

    #[test]
    fn a_lease_lasts_from_the_sending_of_its_fence_and_ends_with_its_generation() {
        let coherence = Coherence::new(1, LEASE);
        let sent = Tick::ZERO.plus(Duration::from_secs(1));
        assert!(!coherence.holds(Tick::ZERO), "none was given");
        coherence.fenced(sent, coherence.generation());
        assert!(coherence.holds(sent.plus(LEASE)));
        assert!(!coherence.holds(sent.plus(LEASE + Duration::from_nanos(1))));
        let late = coherence.generation();
        coherence.everything_changed();
        assert!(!coherence.holds(sent));
        coherence.fenced(sent, late);
        assert!(!coherence.holds(sent), "its fence was sent before everything changed");
        coherence.fenced(sent, coherence.generation());
        assert!(coherence.holds(sent));
    }

    #[test]
    fn a_change_of_a_key_changes_the_stamp_of_its_slot_and_a_new_generation_all_of_them() {
        let coherence = Coherence::new(1, LEASE);
        let slots = [coherence.slot(b"a"), coherence.slot(b"b")];
        assert_ne!(slots[0], slots[1], "one in 65536");
        let [a, b] = slots.map(|slot| coherence.stamp(slot));
        let both = coherence.stamp_of_all(&slots);
        coherence.changed(b"a");
        assert_ne!(coherence.stamp(slots[0]), a);
        assert_eq!(coherence.stamp(slots[1]), b);
        assert_ne!(coherence.stamp_of_all(&slots), both);
        coherence.everything_changed();
        assert_ne!(coherence.stamp(slots[1]), b);
    }
}
