//! Who is to be rechecked: bounded, each user once, some of them a moment later.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Why somebody is rechecked; of several reasons the last one here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A copy of a row was written or has gone.
    Copy,
    /// An entry of a deny list was written or has gone.
    List,
    /// The row itself has changed.
    Row,
}

/// Somebody whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub subject: Box<str>,
    pub cause: Cause,
    /// Whether this is the second look, some time after the first.
    pub again: bool,
}

/// Who waits.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    most: usize,
    /// How long a second look waits: longer than a service takes between its two writes.
    pause: Duration,
    arrived: Notify,
    left: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    causes: HashMap<Box<str>, Cause>,
    order: VecDeque<Box<str>>,
    later: VecDeque<(Instant, Turn)>,
}

impl Queue {
    pub fn new(most: usize, pause: Duration) -> Self {
        Self { waiting: Mutex::default(), most, pause, arrived: Notify::new(), left: Notify::new() }
    }

    /// Takes somebody in, waiting for room: a change that is told once must not be lost.
    pub async fn put(&self, subject: Box<str>, cause: Cause) {
        loop {
            let left = self.left.notified();
            if self.offer(subject.clone(), cause) {
                return;
            }
            left.await;
        }
    }

    /// Takes somebody in, if there is room.
    pub fn offer(&self, subject: Box<str>, cause: Cause) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = waiting.order.len() < self.most;
        let Waiting { causes, order, .. } = &mut *waiting;
        match causes.entry(subject) {
            Entry::Occupied(mut known) => {
                let cause = cause.max(*known.get());
                known.insert(cause);
                return true;
            }
            Entry::Vacant(_) if !room => return false,
            Entry::Vacant(free) => {
                order.push_back(free.key().clone());
                free.insert(cause);
            }
        }
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    /// For a second look. Where too many wait already, the next push or change has to do.
    pub fn later(&self, subject: Box<str>, cause: Cause) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.later.len() >= self.most {
            return false;
        }
        let turn = Turn { subject, cause, again: true };
        waiting.later.push_back((Instant::now() + self.pause, turn));
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    /// Whose turn it is; waits for somebody to come.
    pub async fn next(&self) -> Turn {
        loop {
            let arrived = self.arrived.notified();
            let due = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                match waiting.later.front().map(|(due, _)| *due) {
                    Some(due) if due <= Instant::now() => {
                        if let Some((_, turn)) = waiting.later.pop_front() {
                            self.pass_on(&waiting);
                            return turn;
                        }
                    }
                    _ => {}
                }
                if let Some(subject) = waiting.order.pop_front() {
                    let cause = waiting.causes.remove(&subject).unwrap_or(Cause::Row);
                    self.pass_on(&waiting);
                    self.left.notify_waiters();
                    return Turn { subject, cause, again: false };
                }
                waiting.later.front().map(|(due, _)| *due)
            };
            match due {
                None => arrived.await,
                Some(due) => drop(tokio::time::timeout_at(due, arrived).await),
            }
        }
    }

    /// Several wait for a turn, and one ring wakes one of them.
    fn pass_on(&self, waiting: &Waiting) {
        if !waiting.order.is_empty() || !waiting.later.is_empty() {
            self.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_user_waits_once_for_the_weightiest_reason_and_a_second_look_waits_longer() {
        let queue = Queue::new(2, Duration::from_secs(2));
        assert!(queue.later("7".into(), Cause::List));
        assert!(queue.offer("7".into(), Cause::Copy));
        assert!(queue.offer("7".into(), Cause::Row));
        assert!(queue.offer("8".into(), Cause::List));
        assert!(!queue.offer("9".into(), Cause::List), "no room");
        assert_eq!(queue.next().await, Turn { subject: "7".into(), cause: Cause::Row, again: false });
        assert_eq!(&*queue.next().await.subject, "8");
        let asked = Instant::now();
        assert_eq!(queue.next().await, Turn { subject: "7".into(), cause: Cause::List, again: true });
        assert!(asked.elapsed() >= Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_must_not_be_lost_waits_for_room() {
        let queue = std::sync::Arc::new(Queue::new(1, Duration::ZERO));
        assert!(queue.offer("7".into(), Cause::Row));
        let put = tokio::spawn({
            let queue = queue.clone();
            async move { queue.put("8".into(), Cause::Row).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(&*queue.next().await.subject, "7");
        put.await.expect("there is room now");
        assert_eq!(&*queue.next().await.subject, "8");
    }
}
