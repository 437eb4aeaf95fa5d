//! A part of the open exchanges, behind a lock that is held for a few instructions.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::Visit;
use crate::ledger::{Concern, Heard};
use crate::verdict::Credential;

/// One open exchange.
pub(super) struct Entry {
    pub visit: Arc<Visit>,
    /// Whose it is; `None` where it is nobody's.
    pub credential: Option<Arc<Credential>>,
    /// Under which configuration it was judged last ([`crate::proxy::Snapshot::number`]).
    pub snapshot: u64,
    /// What the ledger had heard before it was judged first.
    pub heard: Heard,
    /// How the changes stood that may be about it when they were looked at last.
    pub concern: Option<Concern>,
    /// When the ledger was asked about it last.
    pub asked: Instant,
    /// Its route only observes: whatever is found, it is not cut for it.
    pub observed: bool,
    /// It is being cut, or will be.
    pub doomed: bool,
}

/// Slots that are used again and again.
#[derive(Default)]
pub(super) struct Shard(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    all: Vec<Option<Entry>>,
    free: Vec<usize>,
}

impl Shard {
    pub fn enter(&self, entry: Entry) -> usize {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.free.pop()
            && let Some(place) = slots.all.get_mut(slot)
        {
            *place = Some(entry);
            return slot;
        }
        slots.all.push(Some(entry));
        slots.all.len() - 1
    }

    pub fn leave(&self, slot: usize) {
        let mut slots = self.0.lock();
        let left = slots.all.get_mut(slot).and_then(Option::take);
        if left.is_some() {
            slots.free.push(slot);
        }
        // Freed outside the lock.
        drop(slots);
        drop(left);
    }

    /// `None`: whoever was there has left.
    pub fn with<T>(
        &self,
        slot: usize,
        visit: &Arc<Visit>,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut slots = self.0.lock();
        let entry = slots.all.get_mut(slot)?.as_mut().filter(|entry| Arc::ptr_eq(&entry.visit, visit))?;
        Some(change(entry))
    }

    pub fn for_each(&self, mut see: impl FnMut(usize, &mut Entry)) {
        let mut slots = self.0.lock();
        for (slot, entry) in slots.all.iter_mut().enumerate() {
            if let Some(entry) = entry {
                see(slot, entry);
            }
        }
    }
}
