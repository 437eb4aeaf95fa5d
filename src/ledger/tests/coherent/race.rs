//! Readers and writers of the same few keys at the same time, as hard as they can: whatever memory holds when they are
//! done is what Redis holds.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const KEYS: u64 = 32;
const READERS: usize = 16;
const ROUNDS: usize = 320;
/// So many hits and misses prove something.
const ENOUGH: u64 = 10_000;
const ROUND: Duration = Duration::from_millis(20);

struct Race {
    server: Server,
    ledger: Arc<Ledger>,
    users: Vec<(Claims, Questions)>,
    over: AtomicBool,
    _shutdown: CancellationToken,
}

impl Race {
    async fn start() -> Arc<Self> {
        let server = Server::start().await;
        let banned = rule("banned", Guards::User, "banned:{sub}", Condition::Exists);
        let mut settings = settings(Some(server.settings()), vec![banned]);
        // A slow machine is no outage.
        settings.max_staleness = Duration::from_secs(5);
        let (ledger, shutdown) = super::super::open(settings).await;
        becomes(&ledger, Mode::Coherent).await;
        let users = (0..KEYS).map(|user| {
            let claims = claims(&user.to_string());
            let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
            (claims, questions)
        });
        let users = users.collect();
        Arc::new(Self { server, ledger, users, over: AtomicBool::new(false), _shutdown: shutdown })
    }

    async fn denies(&self, user: u64) -> bool {
        let (claims, questions) = &self.users[usize::try_from(user).expect("small")];
        match self.ledger.find(questions, claims, Timestamp::from_seconds(200)).await {
            Lookup::Live => false,
            Lookup::Revoked(_) => true,
            Lookup::Unknown(outage) => panic!("{outage}"),
        }
    }

    async fn connect(&self) -> ::redis::aio::MultiplexedConnection {
        let client = ::redis::Client::open(self.server.url()).expect("a URL");
        client.get_multiplexed_async_connection().await.expect("a connection")
    }

    async fn write(self: Arc<Self>, seed: u64, flush: bool) {
        let mut connection = self.connect().await;
        let mut random = seed;
        while !self.over.load(Ordering::Relaxed) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("banned:{}", (random >> 33) % KEYS);
            let mut command = match (random >> 60, flush) {
                (0, true) => ::redis::cmd("FLUSHALL"),
                (0..8, _) => ::redis::cmd("DEL"),
                _ => ::redis::cmd("SET"),
            };
            if random >> 60 != 0 || !flush {
                command.arg(&key);
            }
            if random >> 60 >= 8 {
                command.arg(1);
            }
            command.query_async::<::redis::Value>(&mut connection).await.expect("written");
        }
    }

    async fn read(self: Arc<Self>, seed: u64) {
        let mut user = seed;
        while !self.over.load(Ordering::Relaxed) {
            user = (user + 7) % KEYS;
            self.denies(user).await;
            tokio::task::yield_now().await;
        }
    }

    /// What is believed and not so. Memory is asked, not Redis: it is the same in both when all pushes are heard.
    async fn stale(&self) -> usize {
        all_pushes_are_heard(&self.ledger).await;
        becomes(&self.ledger, Mode::Coherent).await;
        let mut connection = self.connect().await;
        let mut stale = 0;
        for user in 0..KEYS {
            let mut command = ::redis::cmd("EXISTS");
            command.arg(format!("banned:{user}"));
            let exists: bool = command.query_async(&mut connection).await.expect("an answer");
            stale += usize::from(self.denies(user).await != exists);
        }
        stale
    }

    async fn rounds(self: Arc<Self>, flush: bool) {
        let (mut stale, mut round) = (0, 0);
        // Beside others a round is worth less.
        while round < ROUNDS as u64 || (self.counted().1 <= ENOUGH && round < 10 * ROUNDS as u64) {
            self.over.store(false, Ordering::Relaxed);
            let mut tasks = tokio::task::JoinSet::new();
            for writer in 0..2 {
                tasks.spawn(self.clone().write(round * 2 + writer + 1, flush));
            }
            for reader in 0..READERS as u64 {
                tasks.spawn(self.clone().read(reader));
            }
            tokio::time::sleep(ROUND).await;
            self.over.store(true, Ordering::Relaxed);
            tasks.join_all().await;
            stale += self.stale().await;
            round += 1;
        }
        let (hits, misses) = self.counted();
        assert!(hits > ENOUGH && misses > ENOUGH, "{hits} hits and {misses} misses prove nothing");
        assert_eq!(stale, 0, "stale answers in {round} rounds, {hits} hits, {misses} misses");
    }

    /// Hits and misses so far.
    fn counted(&self) -> (u64, u64) {
        let metrics = &self.ledger.metrics;
        (metrics.memory_hit.get(), metrics.memory_miss.get())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_stays_behind_when_reads_and_pushes_overtake_each_other() {
    Race::start().await.rounds(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_stays_behind_when_everything_is_flushed_meanwhile() {
    Race::start().await.rounds(true).await;
}
