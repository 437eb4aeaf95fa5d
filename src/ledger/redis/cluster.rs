//! A cluster: which primary serves which slots is what a majority of the primaries says, now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::{ConnectionInfo, Pipeline, Value};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::lease::{Lease, Term};
use super::of_error;
use super::poll::{LEASE, POLL, Poll};
use super::servers::Maker;
use super::slots::{SLOTS, slot_of};
use crate::ledger::settings::HostPort;
use crate::ledger::store::StoreError;

pub(super) struct Cluster {
    seeds: Vec<HostPort>,
    pub maker: Maker,
    seen: Mutex<Seen>,
    /// The one that is vouched for, or was last.
    topology: Arc<ArcSwap<Topology>>,
    lease: Arc<Lease>,
    /// Rung when an answer shows that slots have moved.
    hurry: Arc<Notify>,
    /// Rung when there are other nodes to ask.
    others: Notify,
    /// What marked each node, by its id, when we were last connected to it.
    grounds: Mutex<BTreeMap<String, String>>,
}

#[derive(Default)]
struct Seen {
    /// By the address that was asked.
    answers: BTreeMap<HostPort, Answer>,
    /// Whom [`Cluster::watch`] asks at present.
    asked: BTreeSet<HostPort>,
    opinion: Opinion,
}

/// Who serves what.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Topology {
    /// By id; each serves a slot at least.
    pub primaries: Vec<Node>,
    /// Which of them serves a slot; `NOBODY`, while they do not agree.
    owners: Vec<u16>,
}

const NOBODY: u16 = u16::MAX;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub id: String,
    pub address: HostPort,
}

/// What one node said.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    /// Its own id.
    id: String,
    /// First slot, last slot, and who serves them.
    ranges: Vec<(u16, u16, Node)>,
    asked: Instant,
}

/// What all of them say together.
#[derive(Clone, Debug, Default, PartialEq)]
enum Opinion {
    Vouched {
        primaries: usize,
    },
    /// Some know primaries that others do not.
    Unsettled,
    #[default]
    Silent,
}

impl Topology {
    /// The place in [`Topology::primaries`] of who serves a slot.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).filter(|owner| **owner != NOBODY).map(|owner| usize::from(*owner))
    }

    /// A few of the slots that a primary serves, the same for everybody who sees the same. They are drawn by lot, from
    /// its id: whichever slots come and go, most of these stay.
    pub fn some_slots(&self, primary: usize) -> Vec<u16> {
        let id = self.primaries.get(primary).map_or("", |node| &node.id);
        let mut drawn: Vec<_> = (0..SLOTS)
            .filter(|slot| self.owner(*slot) == Some(primary))
            .map(|slot| (slot_of(format!("{slot}:{id}").as_bytes()), slot))
            .collect();
        drawn.sort_unstable();
        drawn.into_iter().take(3).map(|(_, slot)| slot).collect()
    }
}

impl Cluster {
    pub fn new(seeds: &[HostPort], maker: Maker) -> Self {
        Self {
            seeds: seeds.to_vec(),
            maker,
            seen: Mutex::default(),
            topology: Arc::default(),
            lease: Lease::new(),
            hurry: Arc::default(),
            others: Notify::new(),
            grounds: Mutex::default(),
        }
    }

    /// The nodes at this moment. Slots may move within the term: look them up in [`Cluster::slots`].
    pub fn topology(&self) -> Result<(Arc<Topology>, Term), StoreError> {
        let seen = self.seen();
        match self.lease.term() {
            Some(term) => Ok((self.topology.load_full(), term)),
            None => Err(StoreError::unavailable(&seen.opinion)),
        }
    }

    pub fn slots(&self) -> Arc<ArcSwap<Topology>> {
        Arc::clone(&self.topology)
    }

    /// What marked a node when we were last connected to it.
    pub fn ground(&self, id: &str) -> Option<String> {
        self.grounds.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub fn note_ground(&self, id: &str, ground: &str) {
        let mut grounds = self.grounds.lock().unwrap_or_else(PoisonError::into_inner);
        grounds.insert(id.to_owned(), ground.to_owned());
    }

    /// To be rung by whoever was sent elsewhere.
    pub fn hurry(&self) -> Arc<Notify> {
        Arc::clone(&self.hurry)
    }

    pub fn turns(&self) -> Notified<'_> {
        self.lease.turns()
    }

    pub async fn watch(&self) {
        loop {
            let others = self.others.notified();
            let nodes = {
                let mut seen = self.seen();
                seen.asked = self.nodes(&seen);
                seen.asked.clone()
            };
            let each = nodes.iter().map(|node| self.follow(node));
            // Silence, too, has to be noticed.
            let judging = async {
                loop {
                    tokio::time::sleep(POLL).await;
                    self.judge();
                }
            };
            tokio::select! {
                _ = join_all(each) => {}
                () = judging => {}
                () = others => {}
            }
        }
    }

    /// The nodes to ask: those that were written, those that were believed, and all that they know.
    fn nodes(&self, seen: &Seen) -> BTreeSet<HostPort> {
        let known = seen.answers.values().flat_map(|it| &it.ranges).map(|(_, _, node)| node);
        let believed = self.topology.load();
        let nodes = believed.primaries.iter().chain(known).map(|node| &node.address);
        self.seeds.iter().chain(nodes).cloned().collect()
    }

    async fn follow(&self, address: &HostPort) {
        let info: ConnectionInfo = match self.maker.info(address) {
            Ok(info) => info,
            Err(_) => return std::future::pending().await,
        };
        let mut question = Pipeline::with_capacity(2);
        question.cmd("CLUSTER").arg("MYID");
        question.cmd("CLUSTER").arg("SLOTS");
        let poll =
            Poll { info: &info, who: "node of the cluster", question, channel: None, hurry: &self.hurry };
        let heard = |replies: Result<(Vec<Value>, Instant), StoreError>| {
            let answer = replies.and_then(|(replies, asked)| answer(replies, address, asked));
            let heard = answer.map(|answer| drop(self.seen().answers.insert(address.clone(), answer)));
            self.judge();
            heard
        };
        poll.run(heard).await;
    }

    fn judge(&self) {
        let mut seen = self.seen();
        let now = Instant::now();
        seen.answers.retain(|_, it| now < it.asked + LEASE);
        let (opinion, vouched) = opinion(seen.answers.values());
        match vouched {
            Some((topology, since)) => {
                let old = self.topology.load();
                if old.primaries != topology.primaries {
                    self.lease.end();
                }
                if **old != topology {
                    self.topology.store(Arc::new(topology));
                }
                self.lease.renew(since + LEASE);
            }
            None if opinion == Opinion::Unsettled => self.lease.end(),
            // Then the lease runs out.
            None => {}
        }
        if opinion != seen.opinion {
            match &opinion {
                Opinion::Vouched { .. } => tracing::info!(cluster = %opinion, "Redis's primaries"),
                _ => tracing::warn!(cluster = %opinion, "Redis has no primaries that could be believed"),
            }
        }
        seen.opinion = opinion;
        if self.nodes(&seen) != seen.asked {
            self.others.notify_waiters();
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Opinion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vouched { primaries } => write!(f, "a majority names {primaries} primaries"),
            Self::Unsettled => f.write_str("the nodes have not settled on the primaries"),
            Self::Silent => f.write_str("no majority of the primaries answers"),
        }
    }
}

/// What fresh answers say together, and the youngest instant at which a majority of the primaries had been asked.
///
/// While slots move from one primary to another not all know of it at the same time. Such a slot is served by nobody for
/// that moment, unless a primary is involved that not all know: then nothing is believed.
fn opinion<'a>(answers: impl Iterator<Item = &'a Answer>) -> (Opinion, Option<(Topology, Instant)>) {
    // By id: a node may be known by two addresses. Those that serve nothing have no vote.
    let mut voters: BTreeMap<&str, &Answer> = BTreeMap::new();
    for answer in answers.filter(|it| it.ranges.iter().any(|(_, _, node)| node.id == it.id)) {
        let vote = voters.entry(&answer.id).or_insert(answer);
        if vote.asked < answer.asked {
            *vote = answer;
        }
    }
    let named =
        |answer: &Answer| answer.ranges.iter().map(|(_, _, node)| &node.id).collect::<BTreeSet<_>>().len();
    let needed = voters.values().map(|it| named(it)).max().unwrap_or(0) / 2 + 1;
    let mut asked: Vec<_> = voters.values().map(|it| it.asked).collect();
    asked.sort_unstable_by(|a, b| b.cmp(a));
    let Some(since) = asked.get(needed - 1).copied() else { return (Opinion::Silent, None) };
    match count(&voters.into_values().collect::<Vec<_>>(), needed) {
        Some(topology) => (Opinion::Vouched { primaries: topology.primaries.len() }, Some((topology, since))),
        None => (Opinion::Unsettled, None),
    }
}

/// Who serves each slot by a majority.
fn count(voters: &[&Answer], needed: usize) -> Option<Topology> {
    let all: BTreeSet<&Node> = voters.iter().flat_map(|it| &it.ranges).map(|(_, _, node)| node).collect();
    let all: Vec<_> = all.into_iter().collect();
    // Two addresses of one id, or so many that a place does not fit: nothing to be believed.
    let unique = all.iter().map(|node| &node.id).collect::<BTreeSet<_>>().len() == all.len();
    if !unique || all.len() >= usize::from(NOBODY) {
        return None;
    }
    let mut votes = vec![BTreeMap::<u16, usize>::new(); usize::from(SLOTS)];
    for (first, last, node) in voters.iter().flat_map(|it| &it.ranges) {
        let place = u16::try_from(all.iter().position(|it| *it == node)?).ok()?;
        for slot in votes.get_mut(usize::from(*first)..=usize::from(*last))? {
            *slot.entry(place).or_default() += 1;
        }
    }
    let owner = |votes: &BTreeMap<u16, usize>| {
        votes.iter().find(|(_, votes)| **votes >= needed).map_or(NOBODY, |(place, _)| *place)
    };
    let owners: Vec<_> = votes.iter().map(owner).collect();
    let serving: BTreeSet<u16> = owners.iter().copied().filter(|owner| *owner != NOBODY).collect();
    let settled = (0..all.len()).all(|place| u16::try_from(place).is_ok_and(|it| serving.contains(&it)));
    settled.then(|| Topology { primaries: all.into_iter().cloned().collect(), owners })
}

/// The replies to `CLUSTER MYID` and `CLUSTER SLOTS`.
fn answer(replies: Vec<Value>, node: &HostPort, asked: Instant) -> Result<Answer, StoreError> {
    let malformed = || StoreError::malformed("what a node of the cluster says");
    let [id, slots] = <[Value; 2]>::try_from(replies).map_err(|_| malformed())?;
    let read = |value: Value| value.extract_error().map_err(|error| of_error(&error));
    let id: String = redis::from_redis_value(read(id)?).map_err(|_| malformed())?;
    let Value::Array(ranges) = read(slots)? else { return Err(malformed()) };
    let ranges: Option<Vec<_>> = ranges.iter().map(|range| of_range(range, node)).collect();
    Ok(Answer { id, ranges: ranges.ok_or_else(malformed)?, asked })
}

/// `[first, last, [host, port, id, …], replicas…]`. A host that is empty or missing is the one that was asked.
fn of_range(range: &Value, asked: &HostPort) -> Option<(u16, u16, Node)> {
    let Value::Array(parts) = range else { return None };
    let number = |value: Option<&Value>| match value {
        Some(Value::Int(number)) => u16::try_from(*number).ok(),
        _ => None,
    };
    let text = |value: Option<&Value>| match value {
        Some(Value::BulkString(bytes)) => String::from_utf8(bytes.clone()).ok(),
        Some(Value::Nil) => Some(String::new()),
        _ => None,
    };
    let Some(Value::Array(node)) = parts.get(2) else { return None };
    let host = match text(node.first())? {
        host if host.is_empty() => asked.host.clone(),
        // It wants to be known by a name, and has none.
        host if host == "?" => return None,
        host => host,
    };
    let (first, last) = (number(parts.first())?, number(parts.get(1))?);
    let address = HostPort { host, port: number(node.get(1))? };
    let node = Node { id: text(node.get(2))?, address };
    (first <= last && last < SLOTS).then_some((first, last, node))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(id: &str) -> Node {
        Node { id: id.into(), address: HostPort { host: id.into(), port: 1 } }
    }

    fn said(id: &str, asked: Instant, ranges: &[(u16, u16, &str)]) -> Answer {
        let ranges = ranges.iter().map(|(first, last, id)| (*first, *last, node(id))).collect();
        Answer { id: id.into(), ranges, asked }
    }

    const THREE: [(u16, u16, &str); 3] = [(0, 99, "a"), (100, 199, "b"), (200, 16383, "c")];

    #[test]
    fn a_majority_of_the_primaries_says_who_serves_what() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1);
        let (a, b) = (said("a", now, &THREE), said("b", later, &THREE));
        let (opinion_of_one, nothing) = opinion([&a].into_iter());
        assert_eq!((opinion_of_one, nothing), (Opinion::Silent, None));
        let (_, vouched) = opinion([&a, &b].into_iter());
        let (topology, since) = vouched.expect("two of three");
        assert_eq!(since, now);
        assert_eq!(topology.primaries, [node("a"), node("b"), node("c")]);
        assert_eq!(
            [0, 99, 100, 16383].map(|slot| topology.owner(slot)),
            [Some(0), Some(0), Some(1), Some(2)]
        );
        let drawn = topology.some_slots(2);
        assert!(drawn.len() == 3 && drawn.iter().all(|slot| topology.owner(*slot) == Some(2)), "{drawn:?}");
        assert!(topology.some_slots(0).iter().all(|slot| topology.owner(*slot) == Some(0)));
        let replica = said("r", now, &THREE);
        assert_eq!(opinion([&a, &replica].into_iter()).0, Opinion::Silent, "a replica has no vote");
        assert_eq!(opinion([&a, &a.clone()].into_iter()).0, Opinion::Silent, "nobody votes twice");
    }

    #[test]
    fn a_slot_on_its_way_is_served_by_nobody_and_a_primary_that_not_all_know_makes_all_doubtful() {
        let now = Instant::now();
        let moved = [(0, 98, "a"), (99, 199, "b"), (200, 16383, "c")];
        let (a, b) = (said("a", now, &THREE), said("b", now, &moved));
        let topology = opinion([&a, &b].into_iter()).1.expect("known primaries").0;
        assert_eq!([98, 99, 100].map(|slot| topology.owner(slot)), [Some(0), None, Some(1)]);
        let c = said("c", now, &moved);
        assert_eq!(opinion([&a, &b, &c].into_iter()).1.expect("settled").0.owner(99), Some(1));
        let failed_over = [(0, 99, "d"), (100, 199, "b"), (200, 16383, "c")];
        let b = said("b", now, &failed_over);
        assert_eq!(opinion([&said("c", now, &THREE), &b].into_iter()).0, Opinion::Unsettled);
        let c = said("c", now, &failed_over);
        assert_eq!(opinion([&b, &c].into_iter()).1.expect("settled").0.primaries[2], node("d"));
    }
}
