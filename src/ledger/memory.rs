//! Answers of the database, kept for a while and shared by all who ask meanwhile: a burst of one question costs one
//! query. What is kept are rows, not judgments: `iat` and the clock are compared anew each time.
//!
//! The price: where only the database is asked, a ban given through another gateway takes effect here within
//! [`super::database::Database::life`], at most [`LIFE`]. A change made through this gateway takes effect at once ([`Memory::clear`]). While somebody tells us of
//! every change of a table (the feed), answers from it live for [`LONG_LIFE`]: they are forgotten when it changes.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::sql::Row;
use super::store::StoreError;

/// How long an answer of the database is believed without asking again.
pub const LIFE: Duration = Duration::from_secs(1);

/// The same, where every change is told.
pub const LONG_LIFE: Duration = Duration::from_secs(5);

/// Users whose answers can be forgotten without forgetting all: several share a place, which costs a query at times.
const PLACES: usize = 1 << 14;

/// An answer as kept: the first row, or that there is none, or that the database could not say.
pub type Kept = Result<Option<Arc<Row>>, StoreError>;

/// 128 bits of keyed hash instead of statement and arguments: an argument may be a token of 16 KiB, and a heap dump
/// has no use for it. The keys are random per process, so nobody can choose a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64, u64);

impl Key {
    /// Of two hashes of one thing, by two random seeds.
    pub fn new(first: u64, second: u64) -> Self {
        Self(first, second)
    }
}

/// The kept answers.
#[derive(Debug)]
pub struct Memory {
    answers: Cache<Key, Entry>,
    hashers: (RandomState, RandomState),
    generation: AtomicU64,
    forgotten: AtomicU64,
    users: Box<[AtomicU64]>,
}

#[derive(Clone, Debug)]
struct Entry {
    kept: Kept,
    ticket: Ticket,
    asked: Instant,
    at: Instant,
}

/// What an answer is good for: nothing has been forgotten since it was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    generation: u64,
    place: usize,
    user: u64,
}

/// A question: what it is kept under, whose answer it is, and how long that is believed.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub key: Key,
    pub subject: &'a str,
    pub life: Duration,
}

/// Whether somebody had asked already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    Hit,
    Miss,
}

impl Memory {
    /// Holds at most `answers` answers.
    pub fn new(answers: usize) -> Self {
        Self {
            answers: Cache::new(answers.max(1)),
            hashers: (RandomState::new(), RandomState::new()),
            generation: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            users: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// What a question is kept under.
    pub fn key(&self, question: &impl Hash) -> Key {
        Key::new(self.hashers.0.hash_one(question), self.hashers.1.hash_one(question))
    }

    /// Forgets everything, and the answers that are on their way: what was asked before a change says nothing after it.
    pub fn clear(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.forgotten.fetch_add(1, Ordering::Release);
        self.answers.clear();
    }

    /// Forgets what is known of one user, and what is on its way.
    pub fn forget(&self, subject: &str) {
        if let Some(user) = self.users.get(self.place(subject)) {
            user.fetch_add(1, Ordering::Release);
        }
        self.forgotten.fetch_add(1, Ordering::Release);
    }

    /// Counts the times that anything was forgotten: what was concluded from several answers goes by this.
    pub fn generation(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Ids that are hexadecimal are spelled in either case, and name one user.
    fn place(&self, subject: &str) -> usize {
        let hash = self.hashers.0.hash_one(subject.to_ascii_lowercase());
        usize::try_from(hash % PLACES as u64).unwrap_or(0)
    }

    fn ticket(&self, place: usize) -> Ticket {
        let user = self.users.get(place).map_or(0, |user| user.load(Ordering::Acquire));
        Ticket { generation: self.generation.load(Ordering::Acquire), place, user }
    }

    /// The kept answer, or what `ask` finds out; one asks for all who want to know at the same time. And when it was
    /// asked: the answer may be as old as that.
    pub async fn answer<F: Future<Output = Kept>>(
        &self,
        question: Question<'_>,
        ask: impl Fn() -> F,
    ) -> (Kept, Recall, Instant) {
        let Question { key, subject, life } = question;
        let (arrived, place) = (Instant::now(), self.place(subject));
        loop {
            let guard = match self.answers.get_value_or_guard_async(&key).await {
                Ok(entry) if self.is_good(&entry, arrived, life) => {
                    return (entry.kept, Recall::Hit, entry.asked);
                }
                Ok(stale) => {
                    self.answers.remove_if(&key, |entry| entry.is(&stale));
                    continue;
                }
                Err(guard) => guard,
            };
            // The ticket is drawn before the question is put.
            let (ticket, asked) = (self.ticket(place), Instant::now());
            let kept = ask().await;
            let entry = Entry { kept, ticket, asked, at: Instant::now() };
            // It fails when the entry was removed meanwhile; then nobody waits for it either.
            let _ = guard.insert(entry.clone());
            if self.is_good(&entry, arrived, life) {
                return (entry.kept, Recall::Miss, entry.asked);
            }
        }
    }

    /// A row is believed for its life, which begins with the question: the answer may be from that moment. How long that
    /// is says the one who asks now: whoever told of changes may have fallen silent since. That the database could not
    /// say is believed only by those who were already waiting: else each would wait a whole timeout, one after the other.
    fn is_good(&self, entry: &Entry, arrived: Instant, life: Duration) -> bool {
        let life = if entry.kept.is_ok() { life } else { Duration::ZERO };
        entry.ticket == self.ticket(entry.ticket.place)
            && (entry.at >= arrived || entry.asked.elapsed() < life)
    }
}

impl Entry {
    fn is(&self, other: &Self) -> bool {
        self.at == other.at && self.ticket == other.ticket
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Database {
        asked: AtomicUsize,
        down: bool,
    }

    impl Database {
        async fn ask(&self) -> Kept {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self.down { Err(StoreError::Timeout) } else { Ok(None) }
        }
    }

    fn database(down: bool) -> (Arc<Memory>, Arc<Database>) {
        (Arc::new(Memory::new(100)), Arc::new(Database { asked: AtomicUsize::new(0), down }))
    }

    fn question(key: Key) -> Question<'static> {
        Question { key, subject: "7", life: LIFE }
    }

    async fn burst(memory: &Arc<Memory>, database: &Arc<Database>) -> Duration {
        let key = memory.key(&(0, "7"));
        let started = Instant::now();
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (memory, database) = (memory.clone(), database.clone());
                tokio::spawn(async move { memory.answer(question(key), || database.ask()).await.0 })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.expect("a task").is_err(), database.down);
        }
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_one_question_costs_one_query_and_is_remembered_for_its_life() {
        let (memory, database) = database(false);
        burst(&memory, &database).await;
        burst(&memory, &database).await;
        assert_eq!(database.asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(LIFE - Duration::from_millis(250)).await;
        burst(&memory, &database).await;
        assert_eq!(database.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_database_makes_those_who_wait_wait_once() {
        let (memory, database) = database(true);
        assert!(burst(&memory, &database).await < Duration::from_millis(300));
        assert_eq!(database.asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        burst(&memory, &database).await;
        assert_eq!(database.asked.load(Ordering::SeqCst), 2, "an outage is not remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_asked_for_before_a_change_is_not_believed_after_it() {
        let (memory, database) = database(false);
        let key = memory.key(&(0, "7"));
        let early = tokio::spawn({
            let (memory, database) = (memory.clone(), database.clone());
            async move { memory.answer(question(key), || database.ask()).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        memory.clear();
        assert!(early.await.expect("a task").0.is_ok());
        assert_eq!(database.asked.load(Ordering::SeqCst), 2, "it was asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_is_forgotten_and_the_others_are_not() {
        let (memory, database) = database(false);
        let ask = async |subject: &'static str| {
            let question = Question { key: memory.key(&subject), subject, life: LONG_LIFE };
            memory.answer(question, || database.ask()).await.1
        };
        for subject in ["d9428888", "8"] {
            assert_eq!((ask(subject).await, ask(subject).await), (Recall::Miss, Recall::Hit));
        }
        tokio::time::advance(LIFE * 3).await;
        memory.forget("D9428888");
        assert_eq!((ask("d9428888").await, ask("8").await), (Recall::Miss, Recall::Hit));
        let silent = Question { key: memory.key(&"8"), subject: "8", life: LIFE };
        let (_, recall, _) = memory.answer(silent, || database.ask()).await;
        assert_eq!(recall, Recall::Miss, "nobody tells of changes any more");
    }

    #[test]
    fn memory_stays_within_its_bound() {
        let memory = Memory::new(100);
        for n in 0..10_000 {
            let now = Instant::now();
            let entry = Entry { kept: Ok(None), ticket: memory.ticket(0), asked: now, at: now };
            memory.answers.insert(memory.key(&n), entry);
        }
        assert!(memory.answers.len() <= 100);
    }
}
