//! Who is connected: every exchange that is open with a credential, and every long one without, so that it can be cut when
//! it would not be granted any more.
//!
//! An exchange is put down as open ([`Streams::open`]) with what the ledger had heard *before* it was judged, and looked
//! at again if more was heard by then: so no change slips between a judgment and the exchange it let in. Nothing is asked
//! here; [`warden`] looks through the open ones whenever something was heard, and asks about those it may concern.
//! Being put down costs a request about as much as a look at the clock, and being looked at costs it nothing.

mod admission;
mod doomed;
mod metrics;
mod pace;
mod shard;
mod visit;
mod warden;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::claims::User;
use crate::verdict::{Credential, DenyReason};
use doomed::Doomed;
use metrics::StreamMetrics;
use shard::{Entry, Shard};

pub(super) use admission::admit;
pub use visit::{Fate, LiveStream};
pub(super) use visit::{Kind, Visit};
pub use warden::Warden;

/// More than one for each thread, so that nobody waits long for whoever looks through one.
const SHARDS: usize = 128;
const SHARDS_OF_A_THREAD: usize = 16;

/// How often it is looked whether everything that was cut at the end has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The open exchanges of one gateway, for as long as it lives.
pub struct Streams {
    shards: Box<[Arc<Shard>]>,
    /// Rung when the warden should look, though the ledger has heard nothing.
    bell: Notify,
    doomed: Mutex<Doomed>,
    metrics: StreamMetrics,
    /// Connections that are being told why they were cut.
    pub(super) farewells: TaskTracker,
}

/// Holds an exchange among the open ones until it is dropped.
pub(super) struct Watch {
    shard: Arc<Shard>,
    slot: usize,
    visit: Arc<Visit>,
}

impl Watch {
    pub(super) fn visit(&self) -> &Arc<Visit> {
        &self.visit
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shard.leave(self.slot);
    }
}

/// An open exchange as found among the others; it may be over by now.
#[derive(Clone)]
struct Member {
    shard: usize,
    slot: usize,
    visit: Arc<Visit>,
}

impl Streams {
    /// None are open yet.
    pub fn register(registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let streams = Arc::new(Self {
            shards: (0..SHARDS).map(|_| Arc::default()).collect(),
            bell: Notify::new(),
            doomed: Mutex::default(),
            metrics: StreamMetrics::register(registry)?,
            farewells: TaskTracker::new(),
        });
        metrics::show(&streams, registry)?;
        Ok(streams)
    }

    /// Has everything looked at again: there is a new configuration, say.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Puts an exchange down as open.
    fn open(&self, entry: Entry) -> Option<Watch> {
        let (visit, shard) = (Arc::clone(&entry.visit), self.shards.get(next_shard())?);
        Some(Watch { shard: Arc::clone(shard), slot: shard.enter(entry), visit })
    }

    /// The streams of a user, and what else of theirs has been open for more than a second.
    pub fn of_user(&self, user: &User) -> Vec<LiveStream> {
        let now = Instant::now();
        let mut found = Vec::new();
        self.for_each(|_, entry| {
            let Some(credential) = &entry.credential else { return };
            let theirs = credential.claims.user() == user || credential.questions.mean(user);
            if theirs && let Some(kind) = entry.visit.shown_as(now) {
                found.push(LiveStream::of(kind, &entry.visit, credential, now));
            }
        });
        found
    }

    /// Cuts all of them, since the process is about to end, and returns when everybody has been told who can be.
    pub async fn dismiss(&self) {
        let mut all = Vec::new();
        self.for_each(|spot, entry| all.push(spot.member(entry)));
        for member in all {
            self.cut(&member, Fate::GoingAway);
        }
        let mut open = true;
        while open {
            // Beginning with a pause: whoever has left a moment ago may be about to say farewell.
            tokio::time::sleep(LOOK_EVERY).await;
            open = false;
            self.for_each(|_, _| open = true);
        }
        self.farewells.close();
        self.farewells.wait().await;
    }

    fn for_each(&self, mut see: impl FnMut(Spot, &mut Entry)) {
        for (index, shard) in self.shards.iter().enumerate() {
            shard.for_each(|slot, entry| see(Spot { shard: index, slot }, entry));
        }
    }

    /// `None`: it is not open any more.
    fn with<T>(&self, member: &Member, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.shards.get(member.shard)?.with(member.slot, &member.visit, change)
    }

    /// Ends an exchange, if it is open still.
    fn cut(&self, member: &Member, fate: Fate) -> bool {
        let open = self.with(member, |entry| entry.doomed = true).is_some();
        let word = fate.word().to_owned();
        let cut = open && member.visit.cut(fate);
        if cut {
            self.metrics.closed(&word);
        }
        cut
    }

    /// What would not be granted any more is cut: conversations at once, and what may be the very request that brought
    /// the change about when it has had time to be answered.
    fn deny(&self, members: &[Member], credential: Option<&Credential>, reason: &DenyReason, spread: bool) {
        let now = Instant::now();
        let mut cut = 0;
        for member in members {
            if self.with(member, |entry| entry.observed) == Some(true) {
                continue;
            }
            let Some(patience) = member.visit.patience(spread) else {
                cut += usize::from(self.cut(member, Fate::Denied(reason.clone())));
                continue;
            };
            if self.with(member, |entry| std::mem::replace(&mut entry.doomed, true)) == Some(false) {
                self.doomed.lock().put(now + patience, member.clone(), Fate::Denied(reason.clone()));
                self.bell.notify_one();
            }
        }
        if cut > 0 {
            let token = credential.map(|credential| tracing::field::display(&credential.fingerprint));
            tracing::info!(reason = reason.word(), token, count = cut, "Open streams were cut");
        }
    }

    /// Cuts those whose time has come.
    fn execute(&self, now: Instant) {
        loop {
            let Some((member, fate)) = self.doomed.lock().due(now) else { return };
            let token = self.with(&member, |entry| entry.credential.as_ref().map(|it| it.fingerprint));
            let reason = fate.word().to_owned();
            if self.cut(&member, fate) {
                let token = token.flatten().map(tracing::field::display);
                tracing::info!(reason, token, count = 1, "Open streams were cut");
            }
        }
    }
}

/// Where an entry stands, while it is looked at.
#[derive(Clone, Copy)]
struct Spot {
    shard: usize,
    slot: usize,
}

impl Spot {
    fn member(self, entry: &Entry) -> Member {
        Member { shard: self.shard, slot: self.slot, visit: Arc::clone(&entry.visit) }
    }
}

/// Each thread has shards of its own, and takes them in turn.
fn next_shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static FIRST: usize = THREADS.fetch_add(1, Ordering::Relaxed) * SHARDS_OF_A_THREAD;
        static TURN: Cell<usize> = const { Cell::new(0) };
    }
    let turn = TURN.with(|turn| turn.replace(turn.get().wrapping_add(1)));
    (FIRST.with(|first| *first) + turn % SHARDS_OF_A_THREAD) % SHARDS
}

#[cfg(test)]
mod tests;
