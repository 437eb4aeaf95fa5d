//! Connections that wait for a request, or for its body: none waits longer than it may, and none costs a timer of its own.
//!
//! Pingora's own time-outs are for each read, and a client that sends a byte now and then would be waited for without
//! end. A timer for each request would cost as much as the whole judgment; so one task looks at all connections, a few
//! times in the shortest time that one may wait.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::Snapshot;
use super::arrival::{Arrival, Turn};
use super::settings::Limits;
use crate::report::Metrics;

/// How many times a waiting connection is looked at before it has waited for too long: it is closed at most a quarter late.
const LOOKS: u32 = 4;

/// However long connections may wait, and however short.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// The connections that are looked at.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Vec<Watched>>);

struct Watched {
    arrival: Arc<Arrival>,
    abort: AbortHandle,
    /// What it was doing when it was last seen doing something else.
    turn: Turn,
    since: Instant,
    /// How many pieces of bodies had come, when last one came.
    pieces: u32,
    moved: Instant,
}

impl Waiting {
    /// Looks at this connection from now on, and ends it by `abort` when it has waited for too long.
    pub(super) fn watch(&self, arrival: Arc<Arrival>, abort: AbortHandle) {
        let (turn, (pieces, _), now) = (arrival.turn(), arrival.body(), Instant::now());
        self.0.lock().push(Watched { arrival, abort, turn, since: now, pieces, moved: now });
    }

    /// Looks at all of them until nobody holds them any more.
    pub(super) async fn look(waiting: Weak<Self>, snapshot: Arc<ArcSwap<Snapshot>>, metrics: Metrics) {
        while let Some(waiting) = waiting.upgrade() {
            let limits = snapshot.load().server.limits.clone();
            let now = Instant::now();
            waiting.0.lock().retain_mut(|watched| watched.may_go_on(&limits, &metrics, now));
            drop(waiting);
            tokio::time::sleep(pause(&limits)).await;
        }
    }
}

fn pause(limits: &Limits) -> Duration {
    let shortest = limits.header_timeout.min(limits.idle_timeout) / LOOKS;
    shortest.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

impl Watched {
    fn may_go_on(&mut self, limits: &Limits, metrics: &Metrics, now: Instant) -> bool {
        // Its own task holds the other one.
        if Arc::strong_count(&self.arrival) == 1 {
            return false;
        }
        let turn = self.arrival.turn();
        if turn != self.turn {
            (self.turn, self.since, self.moved) = (turn, now, now);
        }
        if !turn.waits() {
            return self.body_may_go_on(limits, metrics, now);
        }
        // A kept connection may be idle; a new one is expected to say something.
        let patience = if turn.is_first() { limits.header_timeout } else { limits.idle_timeout };
        if now.duration_since(self.since) < patience {
            return true;
        }
        if turn.is_first() {
            metrics.slow_head();
        }
        self.abort.abort();
        false
    }

    /// Pingora gives up a body of which nothing is read for so long, and says so. Bytes that are no content, the size of a
    /// chunk that never begins say, keep it reading for ever.
    fn body_may_go_on(&mut self, limits: &Limits, metrics: &Metrics, now: Instant) -> bool {
        let (pieces, expected) = self.arrival.body();
        if !expected || pieces != self.pieces {
            (self.pieces, self.moved) = (pieces, now);
            return true;
        }
        if now.duration_since(self.moved) < limits.idle_timeout + limits.idle_timeout / 2 {
            return true;
        }
        metrics.slow_body();
        self.abort.abort();
        false
    }
}
