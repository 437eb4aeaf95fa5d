//! How often the open exchanges are looked through: a change that writes several keys is looked into several times at once,
//! and yet looking takes no more than a tenth of one core, however much is heard.

use std::time::{Duration, Instant};

/// Of the time that passes, one part in so many may go into looking.
const SHARE: u32 = 10;
/// So much may be taken in advance.
const ADVANCE: Duration = Duration::from_millis(25);
/// What is heard within this is looked into together.
const SHORTEST: Duration = Duration::from_millis(1);

/// What was taken of the time, and has not been made up for.
pub(super) struct Pace {
    owed: Duration,
    at: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { owed: Duration::ZERO, at: now }
    }

    /// How long to rest after a look from `began` until `now`.
    pub fn rest(&mut self, began: Instant, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.at, now));
        let taken = now.saturating_duration_since(began);
        self.owed = self.owed.saturating_sub(passed / SHARE) + taken;
        (self.owed.saturating_sub(ADVANCE) * SHARE).max(SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn some_looks_follow_each_other_at_once_and_many_take_a_tenth_of_the_time() {
        let begin = Instant::now();
        let (mut now, mut pace, mut looked) = (begin, Pace::new(begin), Duration::ZERO);
        for look in 0..1000 {
            let began = now;
            now += 2 * MILLI;
            looked += 2 * MILLI;
            let rest = pace.rest(began, now);
            assert!(rest >= SHORTEST);
            assert!(look >= 10 || rest == SHORTEST, "{look}: {rest:?}");
            now += rest;
        }
        let share = looked.as_secs_f64() / (now - begin).as_secs_f64();
        assert!((0.08..0.11).contains(&share), "{share}");
        // After a quiet second there is something in hand again.
        now += 1000 * MILLI;
        assert_eq!(pace.rest(now, now + 20 * MILLI), SHORTEST);
    }
}
