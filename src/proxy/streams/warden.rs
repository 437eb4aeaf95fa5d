//! Who looks after the open exchanges: whenever something was heard that may concern one, the ledger is asked about it
//! again, as a request would; and each is asked about in any case when what is known of it is too old for a request.
//!
//! Two ways lead to being asked. *Urgent* is whoever a change may be about: they are asked about at once, many at a time.
//! Everybody else whom memory does not vouch for any more (after a flush, or because nobody pushes anything) is asked
//! about in *rounds*, a few at a time: the stores have requests to answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use super::pace::Pace;
use super::shard::Entry;
use super::{Member, Spot, Streams};
use crate::gate::Granted;
use crate::ledger::{Heard, Ledger, Outlook};
use crate::proxy::Snapshot;
use crate::time::Timestamp;
use crate::verdict::{Credential, DenyReason};
use crate::verify::Unverified;

/// How often everything is looked at although nothing was heard: what has expired, and what has to be asked about.
const TICK: Duration = Duration::from_millis(250);
/// How old the last answer about an exchange may be that memory does not vouch for.
const PERIOD: Duration = Duration::from_millis(500);
/// At least so long from the beginning of one round to that of the next.
const SPACING: Duration = Duration::from_millis(250);
/// Credentials asked about at one time, and batches of urgent ones under way.
const URGENT: usize = 64;
const BATCHES: usize = 32;
const IN_ROUNDS: usize = 8;
/// More than this that a new configuration ends do not end in the same instant.
const AT_ONCE: usize = 100;

/// The background task.
pub struct Warden {
    snapshot: Arc<ArcSwap<Snapshot>>,
    streams: Arc<Streams>,
    /// The ledger in force, and the first configuration it was in force with.
    ledger: (Arc<Ledger>, u64),
    heard_of_all: Heard,
    urgent: JoinSet<()>,
    pace: Pace,
    round: Option<(JoinHandle<()>, Instant)>,
}

/// What was found on looking.
#[derive(Default)]
struct Found {
    urgent: Groups,
    /// To be asked about in a round.
    due: Groups,
    /// To be judged whole: the configuration is another one, or the keys are.
    anew: Vec<Anew>,
    over: Vec<(Member, Arc<Credential>)>,
    /// On connections that have more rights than a new one would get.
    outdated: Vec<(Member, Option<Arc<Credential>>)>,
}

/// Exchanges by credential: each is asked about once.
#[derive(Default)]
struct Groups {
    /// By the address of the credential, which its group holds.
    places: HashMap<usize, usize>,
    all: Vec<Group>,
}

struct Group {
    credential: Arc<Credential>,
    members: Vec<Member>,
}

struct Anew {
    member: Member,
    credential: Option<Arc<Credential>>,
    by_this_ledger: bool,
}

/// What all open exchanges are compared with when they are looked at.
struct Eye<'a> {
    snapshot: &'a Snapshot,
    outlook: Outlook<'a>,
    ledger_since: u64,
    now: Timestamp,
    at: Instant,
    /// Whether a round may begin; and whether any exchange may be concerned, however lately it was asked about.
    round: bool,
    all: bool,
}

impl Warden {
    /// To be run for as long as exchanges are open.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, streams: Arc<Streams>) -> Self {
        let ledger = Arc::clone(&snapshot.load().gate.ledger);
        let (heard_of_all, number) = (ledger.heard_of_all(), snapshot.load().number);
        let (urgent, pace) = (JoinSet::new(), Pace::new(Instant::now()));
        Self { snapshot, streams, ledger: (ledger, number), heard_of_all, urgent, pace, round: None }
    }

    /// Looks after the open exchanges, for ever.
    pub async fn keep(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ledger = Arc::clone(&self.ledger.0);
            let next = self.streams.doomed.lock().next();
            tokio::select! {
                () = ledger.hears() => {}
                () = self.streams.bell.notified() => {}
                () = until(next) => {}
                _ = ticks.tick() => {}
            }
            let began = Instant::now();
            self.streams.execute(began);
            while self.urgent.try_join_next().is_some() {}
            // Stores that hang would let them grow without end; those that were there first are asked about first.
            if self.urgent.len() < BATCHES {
                self.look();
            }
            sleep(self.pace.rest(began, Instant::now())).await;
        }
    }

    /// Looks through all open exchanges, and has those asked about that it may concern.
    fn look(&mut self) {
        let snapshot = self.snapshot.load_full();
        let ledger = &snapshot.gate.ledger;
        if !Arc::ptr_eq(&self.ledger.0, ledger) {
            self.ledger = (Arc::clone(ledger), snapshot.number);
        }
        let heard_of_all = ledger.heard_of_all();
        let round =
            self.round.as_ref().is_none_or(|(task, at)| task.is_finished() && at.elapsed() >= SPACING);
        let eye = Eye {
            snapshot: &snapshot,
            outlook: ledger.outlook(),
            ledger_since: self.ledger.1,
            now: Timestamp::now(),
            at: Instant::now(),
            round,
            all: heard_of_all != self.heard_of_all,
        };
        let mut found = Found::default();
        self.streams.for_each(|spot, entry| eye.see(spot, entry, &mut found));
        let Found { urgent, due, anew, over, outdated } = found;
        for (count, (member, credential)) in outdated.into_iter().enumerate() {
            let (credential, spread) = (credential.as_deref(), count >= AT_ONCE);
            self.streams.deny(&[member], credential, &DenyReason::MisdirectedRequest, spread);
        }
        for (member, credential) in over {
            let expired = DenyReason::Unverified(Unverified::Expired);
            self.streams.deny(&[member], Some(&credential), &expired, false);
        }
        if !urgent.all.is_empty() {
            self.urgent.spawn(ask(Arc::clone(&snapshot), Arc::clone(&self.streams), urgent.all, URGENT));
        }
        if round {
            self.heard_of_all = heard_of_all;
        }
        if round && !(due.all.is_empty() && anew.is_empty()) {
            let streams = Arc::clone(&self.streams);
            let task = tokio::spawn(async move {
                ask(Arc::clone(&snapshot), Arc::clone(&streams), due.all, IN_ROUNDS).await;
                judge_anew(&snapshot, &streams, anew).await;
                // There may be more to do by now.
                streams.ring();
            });
            self.round = Some((task, Instant::now()));
        }
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        if let Some((task, _)) = &self.round {
            task.abort();
        }
    }
}

impl Eye<'_> {
    /// Looks at one exchange.
    fn see(&self, spot: Spot, entry: &mut Entry, found: &mut Found) {
        if entry.doomed {
            return;
        }
        if entry.visit.is_outdated() {
            found.outdated.push((spot.member(entry), entry.credential.clone()));
            return;
        }
        let gate = &self.snapshot.gate;
        let mut other_keys = false;
        if let Some(credential) = &entry.credential {
            match gate.verifiers.still_holds(&credential.claims, &credential.seal, self.now) {
                Ok(()) => {}
                Err(Unverified::Expired) => {
                    found.over.push((spot.member(entry), Arc::clone(credential)));
                    return;
                }
                // An outage, or a clock that was set.
                Err(Unverified::KeysUnavailable | Unverified::NotYetValid) => {}
                Err(_) => other_keys = true,
            }
        }
        if other_keys || entry.snapshot != self.snapshot.number {
            if self.round {
                let by_this_ledger = entry.snapshot >= self.ledger_since;
                let credential = entry.credential.clone();
                found.anew.push(Anew { member: spot.member(entry), credential, by_this_ledger });
            }
            return;
        }
        let Some(credential) = &entry.credential else { return };
        let questions = &credential.questions;
        // A change that is not counted yet rings later. How they stand is believed only together with what is found out
        // afterwards: that memory vouches, or what the ledger says.
        let concern = self.outlook.concern(questions);
        let unconcerned = match entry.concern {
            Some(before) => before == concern,
            None => entry.heard == gate.ledger.heard(),
        };
        if self.outlook.vouches(questions) {
            entry.concern = Some(concern);
        } else if !unconcerned {
            found.urgent.put(credential, spot.member(entry));
            (entry.concern, entry.asked) = (Some(concern), self.at);
        } else if self.round && (self.all || self.at.saturating_duration_since(entry.asked) >= PERIOD) {
            found.due.put(credential, spot.member(entry));
            (entry.concern, entry.asked) = (Some(concern), self.at);
        }
    }
}

impl Groups {
    fn put(&mut self, credential: &Arc<Credential>, member: Member) {
        let place = *self.places.entry(Arc::as_ptr(credential).addr()).or_insert_with(|| {
            self.all.push(Group { credential: Arc::clone(credential), members: Vec::new() });
            self.all.len() - 1
        });
        if let Some(group) = self.all.get_mut(place) {
            group.members.push(member);
        }
    }
}

/// Asks the ledger about each credential, some at a time.
async fn ask(snapshot: Arc<Snapshot>, streams: Arc<Streams>, groups: Vec<Group>, at_one_time: usize) {
    let asking = async |Group { credential, members }: Group| {
        if let Some(reason) = snapshot.gate.revoked(&credential, Timestamp::now()).await {
            streams.deny(&members, Some(&credential), &reason, false);
        }
    };
    stream::iter(groups).for_each_concurrent(at_one_time, asking).await;
}

/// Judges exchanges by a configuration that is not the one they were granted by.
async fn judge_anew(snapshot: &Snapshot, streams: &Streams, all: Vec<Anew>) {
    let ended = AtomicUsize::new(0);
    let judging = async |Anew { member, credential, by_this_ledger }: Anew| {
        let visit = &member.visit;
        let granted = Granted {
            method: &visit.method,
            host: visit.host(),
            path: visit.path(),
            client_certificate: visit.client_certificate,
            credential: credential.as_ref(),
            by_this_ledger,
        };
        let heard = snapshot.gate.ledger.heard();
        match snapshot.gate.judge_again(&granted, Timestamp::now()).await {
            Ok(credential) => {
                let observed = snapshot.gate.observes(&granted);
                streams.with(&member, |entry| {
                    entry.observed = observed;
                    (entry.snapshot, entry.credential) = (snapshot.number, credential);
                    (entry.heard, entry.concern, entry.asked) = (heard, None, Instant::now());
                });
            }
            // Nobody knows the keys at present, say: it is judged in the next round.
            Err(reason) if reason.status() >= 500 => {}
            Err(reason) => {
                let spread = ended.fetch_add(1, Ordering::Relaxed) >= AT_ONCE;
                streams.deny(&[member], credential.as_deref(), &reason, spread);
            }
        }
    };
    stream::iter(all).for_each_concurrent(IN_ROUNDS, judging).await;
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
