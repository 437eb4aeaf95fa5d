//! Memory against a model that knows the truth at every instant. What is pushed comes late, or never; what is read
//! arrives late and is kept later still; the clock runs as it likes.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::ledger::answers::{Answer, Answers, Memo};
use crate::ledger::condition::{Finding, Held, Reply};
use crate::ledger::rule::Condition;

const KEYS: [&[u8]; 2] = [b"a", b"b"];
const LEASE: u64 = 500;

#[derive(Clone, Debug)]
enum Op {
    Set {
        key: usize,
        life: Option<u64>,
    },
    Delete {
        key: usize,
    },
    Flush,
    /// Redis notices that a key is over, which may be long after the fact.
    Notice {
        key: usize,
    },
    /// So many messages arrive.
    Deliver(usize),
    Fence,
    Read {
        key: usize,
    },
    /// What has arrived is kept.
    Keep,
    /// A request finds the answers of both keys, and a moment later sums them up.
    Find,
    Vouch,
    Advance(u64),
    /// The connection is as good as dead from now on, and nobody has noticed.
    Sever,
    /// It has been noticed; there is a new one.
    Reconnect,
    Look {
        key: usize,
    },
    Remember,
}

/// One key's values, oldest first.
#[derive(Clone, Copy, Debug)]
struct Era {
    step: usize,
    from: u64,
    value: Option<u64>,
    ends: Option<u64>,
}

enum Message {
    Changed { key: usize, step: usize },
    Flushed { step: usize },
    Fenced { sent: Tick, generation: u64 },
    Answered(Reading),
}

#[derive(Clone)]
struct Reading {
    key: usize,
    held: Held,
    life: Option<u64>,
    stamp: Stamp,
    sent: Tick,
    generation: u64,
    connection: usize,
}

struct Model {
    coherence: Coherence,
    answers: Answers,
    memo: Memo,
    now: u64,
    step: usize,
    eras: [Vec<Era>; 2],
    /// Up to which step everything about a key has been heard.
    heard: [usize; 2],
    unnoticed: [bool; 2],
    wire: VecDeque<Message>,
    arrived: VecDeque<Reading>,
    found: Option<(Stamp, [Answer; 2])>,
    summed_up: [Held; 2],
    severed: bool,
    connection: usize,
    hits: usize,
}

fn held(value: Option<u64>) -> Held {
    let condition = Condition::IssuedBefore { pointer: "".into() };
    let text = value.map(|value| value.to_string());
    let reply = text.as_ref().map_or(Reply::Absent, |text| Reply::Value(text.as_bytes()));
    condition.held(reply).expect("an instant")
}

impl Model {
    fn new() -> Self {
        let era = Era { step: 0, from: 0, value: None, ends: None };
        let model = Self {
            coherence: Coherence::new(1, Duration::from_millis(LEASE)),
            answers: Answers::new(100),
            memo: Memo::default(),
            now: 0,
            step: 0,
            eras: [vec![era], vec![era]],
            heard: [0; 2],
            unnoticed: [false; 2],
            wire: VecDeque::new(),
            arrived: VecDeque::new(),
            found: None,
            summed_up: [held(None); 2],
            severed: false,
            connection: 0,
            hits: 0,
        };
        model.coherence.fenced(model.tick(), model.coherence.generation());
        model
    }

    fn tick(&self) -> Tick {
        Tick::ZERO.plus(Duration::from_millis(self.now))
    }

    fn slot(&self, key: usize) -> Slot {
        self.coherence.slot(KEYS[key])
    }

    fn stamp_of_both(&self) -> Stamp {
        self.coherence.stamp_of_all(&[self.slot(0), self.slot(1)])
    }

    fn send(&mut self, message: Message) {
        if !self.severed {
            self.wire.push_back(message);
        }
    }

    fn present(&self, key: usize) -> Option<(u64, Option<u64>)> {
        let era = self.eras[key].last().expect("an era");
        era.value.filter(|_| era.ends.is_none_or(|ends| self.now < ends)).map(|value| (value, era.ends))
    }

    fn change(&mut self, key: usize, value: Option<u64>, ends: Option<u64>) {
        self.eras[key].push(Era { step: self.step, from: self.now, value, ends });
        self.unnoticed[key] = ends.is_some();
    }

    fn apply(&mut self, op: &Op) {
        self.step += 1;
        match *op {
            Op::Set { key, life } => {
                self.change(key, Some(self.step as u64), life.map(|life| self.now + life));
                self.send(Message::Changed { key, step: self.step });
            }
            // Deleting what is not there is told to nobody.
            Op::Delete { key } if self.present(key).is_none() => {}
            Op::Delete { key } => {
                self.change(key, None, None);
                self.send(Message::Changed { key, step: self.step });
            }
            Op::Flush => {
                (0..2).for_each(|key| self.change(key, None, None));
                self.send(Message::Flushed { step: self.step });
            }
            Op::Notice { key } => {
                if std::mem::take(&mut self.unnoticed[key]) && self.present(key).is_none() {
                    self.send(Message::Changed { key, step: 0 });
                }
            }
            Op::Deliver(most) => {
                for message in self.wire.drain(..most.min(self.wire.len())).collect::<Vec<_>>() {
                    self.deliver(message);
                }
            }
            Op::Fence => {
                let (sent, generation) = (self.tick(), self.coherence.generation());
                self.send(Message::Fenced { sent, generation });
            }
            Op::Read { key } => {
                let (value, ends) =
                    self.present(key).map_or((None, None), |(value, ends)| (Some(value), ends));
                self.send(Message::Answered(Reading {
                    key,
                    held: held(value),
                    life: ends.map(|ends| ends - self.now),
                    stamp: self.coherence.stamp(self.slot(key)),
                    sent: self.tick(),
                    generation: self.coherence.generation(),
                    connection: self.connection,
                }));
            }
            Op::Keep => {
                let Some(reading) = self.arrived.pop_front() else { return };
                let stands = reading.connection == self.connection
                    && reading.generation == self.coherence.generation();
                let until = reading.sent.plus(Duration::from_millis(reading.life.unwrap_or(60_000)));
                if stands {
                    let answer = Answer { held: reading.held, stamp: reading.stamp, until };
                    self.answers.insert(self.coherence.key(&reading.key), answer);
                }
            }
            Op::Find => {
                let stamp = self.stamp_of_both();
                self.found = match [0, 1].map(|key| self.recall(key)) {
                    [Some(a), Some(b)] => Some((stamp, [a, b])),
                    _ => None,
                };
            }
            Op::Vouch => {
                if let Some((stamp, [a, b])) = self.found.take() {
                    self.memo.keep(stamp, a.until.min(b.until));
                    self.summed_up = [a.held, b.held];
                }
            }
            Op::Advance(millis) => self.now += millis,
            Op::Sever => {
                self.severed = true;
                self.wire.clear();
            }
            Op::Reconnect => {
                self.wire.clear();
                (self.severed, self.connection) = (false, self.connection + 1);
                self.coherence.everything_changed();
                self.heard = [self.step; 2];
            }
            Op::Look { key } => {
                if let Some(answer) = self.recall(key) {
                    self.check(key, answer.held);
                }
            }
            Op::Remember => {
                let known = self.memo.vouches(self.stamp_of_both(), self.tick());
                if known && self.coherence.holds(self.tick()) {
                    (0..2).for_each(|key| self.check(key, self.summed_up[key]));
                }
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Changed { key, step } => {
                self.coherence.changed(KEYS[key]);
                self.heard[key] = self.heard[key].max(step);
            }
            Message::Flushed { step } => {
                self.coherence.everything_changed();
                self.heard = self.heard.map(|heard| heard.max(step));
            }
            Message::Fenced { sent, generation } => self.coherence.fenced(sent, generation),
            Message::Answered(reading) => self.arrived.push_back(reading),
        }
    }

    fn recall(&self, key: usize) -> Option<Answer> {
        let stamp = self.coherence.stamp(self.slot(key));
        let answer = self.answers.get(&self.coherence.key(&key), stamp, self.tick());
        answer.filter(|_| self.coherence.holds(self.tick()))
    }

    /// What memory said was so at some instant of the last lease, and nothing that it has heard of says otherwise.
    fn check(&mut self, key: usize, said: Held) {
        self.hits += 1;
        let eras = &self.eras[key];
        let earliest = self.now.saturating_sub(LEASE);
        let fits = |place: usize| {
            let Era { from, value, ends, .. } = eras[place];
            let next = eras.get(place + 1);
            let (over, until) =
                (next.is_some_and(|it| it.step <= self.heard[key]), next.map_or(self.now, |it| it.from));
            let alive = said == held(value) && ends.is_none_or(|ends| self.now < ends);
            // From its end on an answer is silent, whoever has noticed.
            let dead =
                said == Held::Same(Finding::Absent) && ends.is_some_and(|ends| ends.max(from) <= until);
            !over && until >= earliest && (alive || dead)
        };
        assert!((0..eras.len()).any(fits), "{said:?} at {} of {eras:?}, heard {:?}", self.now, self.heard);
    }
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..2_usize;
    prop_oneof![
        2 => (key(), proptest::option::of(1..400_u64)).prop_map(|(key, life)| Op::Set { key, life }),
        3 => key().prop_map(|key| Op::Delete { key }),
        1 => Just(Op::Flush),
        1 => key().prop_map(|key| Op::Notice { key }),
        6 => (1..6_usize).prop_map(Op::Deliver),
        3 => Just(Op::Fence),
        6 => key().prop_map(|key| Op::Read { key }),
        6 => Just(Op::Keep),
        3 => Just(Op::Find),
        3 => Just(Op::Vouch),
        3 => (1..200_u64).prop_map(Op::Advance),
        1 => Just(Op::Sever),
        1 => Just(Op::Reconnect),
        6 => key().prop_map(|key| Op::Look { key }),
        4 => Just(Op::Remember),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn memory_never_says_what_has_not_been_so_within_the_lease(ops in proptest::collection::vec(op(), 1..150)) {
        let mut model = Model::new();
        ops.iter().for_each(|op| model.apply(op));
    }
}

/// The model would be satisfied by a memory that keeps nothing.
#[test]
fn the_model_sees_answers_from_memory() {
    let mut model = Model::new();
    let setting =
        [Op::Set { key: 0, life: None }, Op::Deliver(1), Op::Read { key: 0 }, Op::Deliver(1), Op::Keep];
    setting.iter().chain([&Op::Look { key: 0 }]).for_each(|op| model.apply(op));
    assert_eq!(model.hits, 1);
    let clearing =
        [Op::Delete { key: 0 }, Op::Deliver(1), Op::Read { key: 0 }, Op::Read { key: 1 }, Op::Deliver(2)];
    clearing.iter().chain([&Op::Keep, &Op::Keep]).for_each(|op| model.apply(op));
    [Op::Find, Op::Vouch, Op::Remember].iter().for_each(|op| model.apply(op));
    assert_eq!(model.hits, 3);
}
