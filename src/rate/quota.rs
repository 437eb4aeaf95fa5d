//! How much is allowed: the generic cell rate algorithm (ITU-T I.371), a bucket of tokens kept as one instant.
//!
//! Each request adds an interval to a debt, which time pays off; a debt that would exceed the burst is refused, and does
//! not grow. The script in Redis does the same sum.

use std::time::Duration;

use super::settings::RateLimit;

/// A limit as numbers. All times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// What one request costs.
    interval: u64,
    /// The most that may be owed.
    capacity: u64,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub passed: bool,
    /// What is owed now: how long until the whole allowance is there again.
    pub debt: u64,
}

impl Quota {
    pub fn of(limit: &RateLimit) -> Self {
        let interval = nanos(limit.per).checked_div(limit.requests).unwrap_or(u64::MAX).max(1);
        Self { interval, capacity: interval.saturating_mul(limit.burst.max(1)) }
    }

    /// `paid_at`: when everything owed so far will be paid. Returns when that is now.
    pub fn take(&self, paid_at: u64, now: u64) -> (Taken, u64) {
        // A limit that was made smaller does not make anybody wait for more than all of it.
        let before = paid_at.saturating_sub(now).min(self.capacity);
        let debt = before.saturating_add(self.interval);
        let passed = debt <= self.capacity;
        let debt = if passed { debt } else { before };
        (Taken { passed, debt }, now.saturating_add(debt))
    }

    /// How many more pass at once.
    pub fn remaining(&self, debt: u64) -> u64 {
        self.capacity.saturating_sub(debt) / self.interval
    }

    /// How long until the next one passes.
    pub fn wait(&self, debt: u64) -> u64 {
        debt.saturating_add(self.interval).saturating_sub(self.capacity)
    }

    /// The debt with which so long has to be waited for the next one.
    pub fn debt_of(&self, wait: u64) -> u64 {
        wait.saturating_add(self.capacity).saturating_sub(self.interval)
    }

    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    pub fn capacity(&self) -> Duration {
        Duration::from_nanos(self.capacity)
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::settings::By;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn quota(requests: u64, seconds: u64, burst: u64) -> Quota {
        let per = Duration::from_secs(seconds);
        Quota::of(&RateLimit { name: "default".into(), by: By::Ip, requests, per, burst, shared: false })
    }

    #[test]
    fn so_many_pass_at_once_and_then_as_many_as_time_allows() {
        let quota = quota(60, 60, 3);
        let (mut paid_at, mut passed) = (0, Vec::new());
        for now in [0, 0, 0, 0, SECOND, SECOND, 10 * SECOND, 10 * SECOND, 10 * SECOND, 10 * SECOND] {
            let (taken, next) = quota.take(paid_at, 5 * SECOND + now);
            paid_at = next;
            passed.push(taken.passed);
        }
        assert_eq!(passed, [true, true, true, false, true, false, true, true, true, false]);
    }

    #[test]
    fn who_is_refused_owes_no_more_for_it_and_is_told_how_long_to_wait() {
        let quota = quota(1, 10, 1);
        let (first, paid_at) = quota.take(0, SECOND);
        assert_eq!((first, quota.remaining(first.debt)), (Taken { passed: true, debt: 10 * SECOND }, 0));
        let mut last = paid_at;
        for _ in 0..100 {
            let (refused, next) = quota.take(last, 4 * SECOND);
            assert_eq!((refused.passed, next), (false, paid_at));
            assert_eq!(quota.wait(refused.debt), 7 * SECOND);
            assert_eq!(quota.debt_of(quota.wait(refused.debt)), refused.debt);
            last = next;
        }
        assert!(quota.take(last, 11 * SECOND).0.passed);
    }

    #[test]
    fn on_the_long_run_it_is_never_more_than_the_rate_and_the_burst() {
        for (requests, burst) in [(1, 1), (7, 3), (100, 20), (50, 200)] {
            let quota = quota(requests, 10, burst);
            let (mut paid_at, mut passed) = (0, 0);
            let span = 1000 * SECOND;
            for step in 0..20_000 {
                let (taken, next) = quota.take(paid_at, SECOND + span / 20_000 * step);
                paid_at = next;
                passed += u64::from(taken.passed);
            }
            let most = requests * 100 + burst;
            assert!((requests * 100 - requests..=most).contains(&passed), "{passed} of {most}");
        }
    }

    #[test]
    fn absurd_numbers_do_not_overflow() {
        let quota = quota(1, 30 * 24 * 3600, u64::MAX);
        assert!(quota.take(u64::MAX, u64::MAX).1 > 0);
        assert_eq!(quota.remaining(u64::MAX), 0);
    }
}
