//! What Redis says unasked. It is heard inside the connection's driver, before any later answer is handed out: that is
//! what makes an answered fence mean that all pushes before it have been counted. So nothing here may wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc};

use super::prefixes::WATERMARK;
use crate::ledger::coherence::{Coherence, Tick};
use crate::ledger::metrics::LinkMetrics;

/// Names that may wait for whoever looks into them.
const WAITING: usize = 16 * 1024;

/// One gateway's ear, the same for one connection after the other.
pub struct Ear {
    coherence: Arc<Coherence>,
    /// What the keys begin with that only this gateway writes, to hear itself.
    canary: Box<str>,
    /// Those that are listened for.
    canaries: Mutex<Vec<Flown>>,
    /// Rung when something was heard that calls for a fence now, or for an end.
    pub alarm: Notify,
    followed: AtomicBool,
    names: mpsc::Sender<Vec<u8>>,
    metrics: LinkMetrics,
    /// Makes the next push stumble over itself.
    #[cfg(test)]
    pub stumble: AtomicBool,
}

/// One key that was written to be heard of.
struct Flown {
    key: Box<[u8]>,
    heard: Option<Tick>,
}

impl Ear {
    /// The ear, and where the names it hears come out.
    pub fn new(coherence: Arc<Coherence>, metrics: LinkMetrics) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (names, heard) = mpsc::channel(WAITING);
        let ear = Self {
            coherence,
            canary: format!("{WATERMARK}:canary:{}", uuid::Uuid::new_v4().simple()).into(),
            canaries: Mutex::default(),
            alarm: Notify::new(),
            followed: AtomicBool::new(false),
            names,
            metrics,
            #[cfg(test)]
            stumble: AtomicBool::new(false),
        };
        (ear, heard)
    }

    /// Somebody listens to the names from now on.
    pub fn follow(&self) {
        self.followed.store(true, Ordering::Relaxed);
    }

    pub fn canary(&self) -> &str {
        &self.canary
    }

    /// From now on these are listened for, and whatever was heard so far is forgotten.
    pub fn listen_for(&self, keys: &[String]) -> Tick {
        *self.canaries.lock() =
            keys.iter().map(|key| Flown { key: key.as_bytes().into(), heard: None }).collect();
        self.coherence.now()
    }

    /// When the last of them was heard; `None` while one is missing.
    pub fn canaries_heard(&self) -> Option<Tick> {
        let heard: Option<Vec<Tick>> = self.canaries.lock().iter().map(|it| it.heard).collect();
        heard?.into_iter().max()
    }

    /// A panic in here would end the connection's driver without a word to anybody.
    pub fn hear(&self, push: PushInfo) {
        if catch_unwind(AssertUnwindSafe(|| self.listen(push))).is_err() {
            self.everything_changed();
        }
    }

    /// Everything kept is given up; what is believed next is up to the next fence.
    pub fn everything_changed(&self) {
        self.coherence.everything_changed();
        self.metrics.generations.inc();
        self.alarm.notify_one();
    }

    fn listen(&self, push: PushInfo) {
        #[cfg(test)]
        assert!(!self.stumble.swap(false, Ordering::Relaxed), "told to stumble");
        match push.kind {
            // One list of names. A flush has nothing in its place; whatever else stands there is as bad.
            PushKind::Invalidate if matches!(*push.data, [Value::Array(_)]) => {
                push.data.into_iter().for_each(|names| self.changed(names));
            }
            // What we subscribe to only serves to be counted among subscribers (see `handshake`).
            PushKind::Subscribe | PushKind::Message => {}
            _ => self.everything_changed(),
        }
    }

    fn changed(&self, names: Value) {
        let Value::Array(names) = names else { return self.everything_changed() };
        self.metrics.pushes.inc_by(names.len() as u64);
        for name in names {
            let Value::BulkString(name) = name else { return self.everything_changed() };
            self.coherence.changed(&name);
            if name.starts_with(self.canary.as_bytes()) {
                let mut canaries = self.canaries.lock();
                if let Some(canary) = canaries.iter_mut().find(|it| *it.key == *name) {
                    canary.heard = Some(self.coherence.now());
                }
            } else if self.followed.load(Ordering::Relaxed)
                && !name.starts_with(WATERMARK.as_bytes())
                && self.names.try_send(name).is_err()
            {
                self.metrics.pushes_dropped.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LedgerMetrics;
    use crate::ledger::coherence::Stamp;

    fn ear() -> (Ear, mpsc::Receiver<Vec<u8>>) {
        let coherence = Arc::new(Coherence::new(1, std::time::Duration::from_secs(1)));
        let metrics = LedgerMetrics::register(&prometheus::Registry::new()).expect("metrics");
        Ear::new(coherence, metrics.link)
    }

    fn stamp(ear: &Ear, key: &[u8]) -> Stamp {
        ear.coherence.stamp(ear.coherence.slot(key))
    }

    fn names(names: &[&str]) -> PushInfo {
        let names = names.iter().map(|name| Value::BulkString(name.as_bytes().to_vec())).collect();
        PushInfo { kind: PushKind::Invalidate, data: vec![Value::Array(names)] }
    }

    #[test]
    fn every_name_of_a_push_is_counted_and_handed_on() {
        let (ear, mut heard) = ear();
        let before = ["a", "b", "c"].map(|key| stamp(&ear, key.as_bytes()));
        ear.follow();
        ear.hear(names(&["a", "b", "pc:watermark"]));
        assert_ne!(stamp(&ear, b"a"), before[0]);
        assert_ne!(stamp(&ear, b"b"), before[1]);
        assert_eq!(stamp(&ear, b"c"), before[2]);
        assert_eq!(heard.try_recv().ok().as_deref(), Some(&b"a"[..]));
        assert_eq!(heard.try_recv().ok().as_deref(), Some(&b"b"[..]));
        assert!(heard.try_recv().is_err(), "the watermark is not what rules guard");
        assert_eq!(ear.canaries_heard(), None);
        let canaries = ["{1}", "{2}"].map(|tag| format!("{}:{tag}", ear.canary()));
        ear.listen_for(&canaries);
        ear.hear(names(&[&canaries[0]]));
        assert_eq!(ear.canaries_heard(), None, "one server is deaf");
        ear.hear(names(&[&canaries[1]]));
        assert!(ear.canaries_heard().is_some());
        ear.listen_for(&canaries);
        assert_eq!(ear.canaries_heard(), None);
    }

    #[test]
    fn names_that_nobody_takes_are_dropped_and_counted_and_heeded_nevertheless() {
        let (ear, _heard) = ear();
        ear.follow();
        for _ in 0..=WAITING {
            ear.hear(names(&["a"]));
        }
        assert_eq!(ear.metrics.pushes_dropped.get(), 1);
        let before = stamp(&ear, b"a");
        ear.hear(names(&["a"]));
        assert_ne!(stamp(&ear, b"a"), before);
    }

    #[test]
    fn whatever_is_not_understood_and_a_panic_give_everything_up() {
        let (ear, _heard) = ear();
        let odd = |kind: PushKind, data: Vec<Value>| PushInfo { kind, data };
        for push in [
            odd(PushKind::Invalidate, vec![Value::Nil]),
            odd(PushKind::Invalidate, vec![Value::Array(vec![Value::Int(1)])]),
            odd(PushKind::Invalidate, vec![Value::BulkString(b"a".to_vec())]),
            odd(PushKind::Disconnection, vec![]),
            odd(PushKind::Other("tracking-redir-broken".into()), vec![]),
            odd(PushKind::Unsubscribe, vec![]),
        ] {
            let before = ear.coherence.generation();
            let told = format!("{push:?}");
            ear.hear(push);
            assert_eq!(ear.coherence.generation(), before + 1, "{told}");
        }
        let before = ear.coherence.generation();
        ear.stumble.store(true, Ordering::Relaxed);
        ear.hear(names(&["a"]));
        assert_eq!(ear.coherence.generation(), before + 1);
        ear.hear(odd(PushKind::Subscribe, vec![]));
        ear.hear(names(&[]));
        assert_eq!(ear.coherence.generation(), before + 1);
    }
}
