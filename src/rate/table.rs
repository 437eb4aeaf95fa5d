//! What gateways remember of rates: a table of fixed size, however many clients there are.
//!
//! An allowance that is whole again is nothing to be remembered, so most places fall free by themselves. Where more
//! clients come at once than there are places, the one that owes least is forgotten: it gets its allowance back a little
//! early, and whoever has come often stays. (`governor`'s stores grow with their keys until somebody sweeps them.)

use std::hash::{BuildHasher as _, Hash, RandomState};

use parking_lot::Mutex;
use prometheus::IntCounter;

use super::quota::{Quota, Taken};

/// So many places a key may have. Searched one after the other, under one lock: two cache lines.
const WAYS: usize = 8;

#[derive(Clone, Copy, Default)]
struct Slot {
    key: u64,
    /// When it owes nothing any more, in nanoseconds; in the past: the place is free.
    paid_at: u64,
}

pub(super) struct Table {
    sets: Box<[Mutex<[Slot; WAYS]>]>,
    /// Seeded at random: nobody can aim at one place, or at another's key.
    hasher: RandomState,
    evictions: IntCounter,
}

impl Table {
    /// Room for at least `keys`; 16 bytes each, and a lock for every eight.
    pub fn new(keys: usize, evictions: IntCounter) -> Self {
        let sets = keys.div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), evictions }
    }

    pub fn key(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// One request of `key`.
    pub fn take(&self, key: u64, now: u64, quota: &Quota) -> Taken {
        self.at(key, now, |paid_at| quota.take(paid_at, now))
    }

    /// Until when `key` is to be refused; nothing newer is remembered of it.
    pub fn shut(&self, key: u64, until: u64, now: u64) {
        self.at(key, now, |_| ((), until));
    }

    /// Until when `key` is to be refused, if it is.
    pub fn is_shut(&self, key: u64, now: u64) -> Option<u64> {
        let set = self.set(key)?.lock();
        set.iter().find(|slot| slot.key == key && slot.paid_at > now).map(|slot| slot.paid_at)
    }

    fn set(&self, key: u64) -> Option<&Mutex<[Slot; WAYS]>> {
        let sets = u64::try_from(self.sets.len()).unwrap_or(u64::MAX);
        // The high bits choose: no division, and it need not be a power of two.
        let index = (u128::from(key) * u128::from(sets)) >> 64;
        self.sets.get(usize::try_from(index).unwrap_or_default())
    }

    fn at<T>(&self, key: u64, now: u64, change: impl FnOnce(u64) -> (T, u64)) -> T {
        let mut set = self.set(key).map(|set| set.lock());
        let slots = set.as_deref_mut().map(|set| set.as_mut_slice()).unwrap_or_default();
        let own = slots.iter().position(|slot| slot.key == key);
        let place = own.or_else(|| (0..slots.len()).min_by_key(|at| slots.get(*at).map(|slot| slot.paid_at)));
        let Some(slot) = place.and_then(|at| slots.get_mut(at)) else { return change(0).0 };
        if own.is_none() {
            if slot.paid_at > now {
                self.evictions.inc();
            }
            *slot = Slot { key, paid_at: 0 };
        }
        let (said, paid_at) = change(slot.paid_at);
        slot.paid_at = paid_at;
        said
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::settings::{By, RateLimit};
    use super::*;

    fn quota(requests: u64, burst: u64) -> Quota {
        let per = Duration::from_secs(60);
        Quota::of(&RateLimit { name: "default".into(), by: By::Ip, requests, per, burst, shared: false })
    }

    fn table(keys: usize) -> Table {
        Table::new(keys, IntCounter::new("evictions", "in a test").expect("a counter"))
    }

    #[test]
    fn each_key_has_an_allowance_of_its_own() {
        let (table, quota) = (table(1000), quota(60, 2));
        for name in ["a", "b", "c"] {
            let key = table.key(name);
            let passed: Vec<_> = (0..4).map(|_| table.take(key, 1, &quota).passed).collect();
            assert_eq!(passed, [true, true, false, false], "{name}");
        }
        assert_eq!(table.evictions.get(), 0);
    }

    #[test]
    fn a_flood_of_new_keys_neither_grows_it_nor_frees_whoever_has_come_often() {
        let (table, quota) = (table(64), quota(60, 20));
        let greedy = table.key("greedy");
        while table.take(greedy, 1, &quota).passed {}
        for visitor in 0..100_000_u64 {
            // A new key passes: a table that is full refuses nobody for it.
            assert!(table.take(table.key(visitor), 1, &quota).passed);
        }
        assert!(!table.take(greedy, 1, &quota).passed, "it was forgotten");
        assert_eq!(table.sets.len() * WAYS, 64);
        assert!(table.evictions.get() >= 99_900, "{}", table.evictions.get());
    }

    #[test]
    fn what_is_owed_no_more_makes_room_without_being_an_eviction() {
        let (table, quota) = (table(8), quota(60, 1));
        for minute in 1..100_u64 {
            for visitor in 0..8_u64 {
                let now = minute * 60_000_000_000;
                assert!(table.take(table.key((minute, visitor)), now, &quota).passed);
            }
        }
        assert_eq!(table.evictions.get(), 0);
    }

    #[test]
    fn who_is_shut_out_is_so_until_then() {
        let table = table(8);
        let key = table.key("x");
        assert_eq!(table.is_shut(key, 1), None);
        table.shut(key, 100, 1);
        assert_eq!((table.is_shut(key, 99), table.is_shut(key, 100)), (Some(100), None));
    }
}
