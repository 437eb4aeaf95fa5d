use std::time::Duration;

use super::*;
use crate::ledger::coherence::Coherence;
use crate::ledger::condition::Finding;

#[test]
fn a_memo_speaks_for_one_stamp_and_until_its_instant() {
    let coherence = Coherence::new(1, Duration::from_secs(1));
    let slot = coherence.slot(b"a");
    let (stamp, now) = (coherence.stamp(slot), Tick::ZERO.plus(Duration::from_secs(5)));
    let memo = Memo::default();
    assert!(!memo.vouches(stamp, now), "nothing was ever found");
    memo.keep(stamp, now.plus(Duration::from_millis(1)));
    assert!(memo.vouches(stamp, now));
    assert!(!memo.vouches(stamp, now.plus(Duration::from_millis(1))));
    coherence.changed(b"a");
    assert!(!memo.vouches(coherence.stamp(slot), now));
}

#[test]
fn a_memo_that_is_written_while_it_is_read_never_mixes_two_findings() {
    let (coherence, memo) = (Coherence::new(1, Duration::from_secs(1)), Memo::default());
    let nanos = |n: u64| Tick::ZERO.plus(Duration::from_nanos(n));
    let stamp = |n: u64| coherence.stamp(coherence.slot(b"a")).and(n);
    std::thread::scope(|scope| {
        for first in 0..2 {
            let memo = &memo;
            scope.spawn(move || {
                // Finding n holds until n: who sees it at n has mixed its stamp with a later end.
                (first..200_000).step_by(2).for_each(|n| memo.keep(stamp(n), nanos(n)));
            });
        }
        scope.spawn(|| {
            for n in 0..200_000 {
                assert!(!memo.vouches(stamp(n), nanos(n)));
            }
        });
    });
}

#[test]
fn a_million_users_and_a_million_tokens_take_less_than_200_mb() {
    // Counted as they lie in the store: key, answer and its links; then what the table in front of it needs.
    let answers = Answers::new(100_000);
    let stamp = Coherence::new(1, Duration::ZERO).stamp_of_all(&[]);
    for n in 0..200_000_u64 {
        let answer = Answer { held: Held::Same(Finding::Absent), stamp, until: Tick::ZERO };
        answers.insert(Key::new(n, !n), answer);
    }
    assert!(answers.len() <= 100_000);
    let used = answers.kept.memory_used();
    let each = (used.entries + used.map) as f64 / answers.len() as f64;
    // A table that has just doubled is half empty: the sum still has to fit.
    assert!(2_000_000.0 * each + 8.0 * 1024.0 * 1024.0 * 2.0 < 200e6, "{each} bytes an answer ({used:?})");
}
