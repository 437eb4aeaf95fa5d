//! Histories in which Redis is emptied, put back to an older copy and filled again, as often as not in the middle of
//! changes: whenever it is believed it says what the database says. Real SQLite, real Redis.

use std::collections::BTreeMap;

use ::redis::Pipeline;
use prometheus::Registry;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::ledger::LedgerMetrics;
use crate::ledger::breaker::Breaker;
use crate::ledger::change::{Change, Status};
use crate::ledger::preset::{InvalidUsersLayout, Preset};
use crate::ledger::redis::tests::Server as Redis;
use crate::ledger::sql::testing::Server;
use crate::ledger::watermark::{Authority, Ground};
use crate::ledger::write::tests::{keys, presets, user, writer};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// `told`: else the teller dies between the database and Redis.
    Change {
        user: u8,
        status: Status,
        told: bool,
    },
    Token {
        number: u8,
        told: bool,
    },
    Deliver,
    KeepUp,
    Flush,
    Save,
    /// To what it was at the last `Save`, in the same process.
    Restore,
    Fill,
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![Just(Status::Active), Just(Status::Banned), Just(Status::Deleted)];
    prop_oneof![
        6 => (0_u8..3, status, prop::bool::weighted(0.8))
            .prop_map(|(user, status, told)| Step::Change { user, status, told }),
        2 => (0_u8..4, prop::bool::weighted(0.8)).prop_map(|(number, told)| Step::Token { number, told }),
        1 => Just(Step::Deliver),
        1 => Just(Step::KeepUp),
        1 => Just(Step::Flush),
        1 => Just(Step::Save),
        1 => Just(Step::Restore),
        2 => Just(Step::Fill),
    ]
}

struct Scene<'a> {
    redis: &'a Redis,
    writer: Writer,
    outbox: Outbox,
    metrics: ReconcileMetrics,
    rechecks: Queue,
    /// One gateway changes and fills, the other only asks.
    stores: [Arc<RedisStore>; 2],
    denied: BTreeMap<String, bool>,
}

impl<'a> Scene<'a> {
    async fn new(redis: &'a Redis, server: &Server) -> Self {
        Self::with(redis, server, keys()).await
    }

    async fn with(redis: &'a Redis, server: &Server, layout: InvalidUsersLayout) -> Self {
        Self::over(redis, server, presets(layout)).await
    }

    async fn over(redis: &'a Redis, server: &Server, presets: Vec<Preset>) -> Self {
        redis.cli(&["FLUSHALL"]).await;
        let writer = writer(&server.sql, presets).await;
        let epoch = migrate::epoch(&server.sql).await.expect("answered");
        let gauge = || prometheus::IntGauge::new("gauge", "gauge").expect("a gauge");
        let store = async || {
            let ground = Ground::of(epoch, &writer.presets, false);
            let authority = Arc::new(Authority::new(ground, 0, Arc::default()));
            let breaker = Breaker::new("redis", Duration::from_secs(20), gauge(), Arc::default());
            let settings =
                crate::ledger::RedisSettings { timeout: Duration::from_secs(20), ..redis.settings() };
            RedisStore::open(&settings, breaker, authority).await.expect("a store")
        };
        Self {
            redis,
            outbox: Outbox::new(server.sql.clone(), gauge(), gauge()),
            metrics: ReconcileMetrics::register(&Registry::new()).expect("metrics"),
            rechecks: Queue::new(100, Duration::ZERO),
            stores: [store().await, store().await],
            denied: BTreeMap::new(),
            writer,
        }
    }

    fn filler(&self) -> Filler<'_> {
        self.filler_of(&self.writer)
    }

    fn filler_of<'b>(&'b self, writer: &'b Writer) -> Filler<'b> {
        let Self { rechecks, metrics, .. } = self;
        Filler { writer, redis: &self.stores[0], adoption: None, rechecks, metrics }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Change { user: number, status, told } => {
                let change =
                    Change::Status { user: user(&number.to_string()), status, reason: None, until: None };
                self.change(&change, told).await;
                self.denied.insert(format!("invalid_user:{number}"), status != Status::Active);
                self.denied.insert(format!("pc:user:{number}"), status != Status::Active);
            }
            Step::Token { number, told } => {
                let compact = format!("a.b.{number}");
                self.change(&Change::Token { compact: compact.as_str().into(), claims: None }, told).await;
                self.denied.insert(format!("blacklist:{compact}"), true);
            }
            // Without a mark it waits.
            Step::Deliver => drop(self.outbox.deliver(&self.stores[0]).await),
            Step::KeepUp => self.filler().keep_up(&self.outbox, Gap::Any).await.expect("kept up"),
            Step::Flush => {
                self.redis.cli(&["FLUSHALL"]).await;
            }
            Step::Save => {
                self.redis.cli(&["SAVE"]).await;
            }
            Step::Restore => {
                // Without a copy there is nothing to go back to.
                let _ = self.redis.try_cli(&["DEBUG", "RELOAD", "NOSAVE"]).await;
            }
            Step::Fill => {
                self.filler().fill(self.stores[0].authority.why()).await.expect("filled");
            }
        }
    }

    async fn change(&self, change: &Change, told: bool) {
        let committed = self.writer.commit(change, NOW).await.expect("committed");
        if told {
            self.writer.tell(&self.stores[0], &committed).await.expect("told");
        }
    }

    /// Whoever believes it believes the truth. While something waits in the outbox nobody does.
    async fn is_never_wrong(&self, after: &str) -> bool {
        let waits = self.outbox.is_waiting_up_to(i64::MAX).await.expect("looked");
        let mut believed = true;
        for store in &self.stores {
            let mut questions = Pipeline::new();
            self.denied.keys().for_each(|key| {
                questions.cmd("EXISTS").arg(key);
            });
            let answered = store.ask(&questions).await.expect("answered");
            believed &= answered.believed && !waits;
            for ((key, denied), reply) in self.denied.iter().zip(&answered.replies) {
                let there = *reply == ::redis::Value::Int(1);
                assert!(!answered.believed || waits || there == *denied, "{key} after {after}: {reply:?}");
            }
        }
        believed
    }
}

async fn live(redis: &Redis, steps: &[Step]) {
    let server = Server::memory();
    // No table of users: what the services' own says is another test's affair.
    let mut scene = Scene::new(redis, &server).await;
    // What another history saved is none of this one's.
    redis.cli(&["SAVE"]).await;
    for step in steps {
        scene.take(*step).await;
        scene.is_never_wrong(&format!("{step:?}")).await;
    }
    for step in [Step::Deliver, Step::Fill, Step::Deliver, Step::KeepUp] {
        scene.take(step).await;
        scene.is_never_wrong(&format!("{step:?}")).await;
    }
    assert!(
        scene.is_never_wrong("all").await,
        "it is believed in the end: {:?}",
        scene.stores[0].authority.why()
    );
}

#[test]
fn whenever_redis_is_believed_it_says_what_the_database_says() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let redis = runtime.block_on(Redis::start());
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..24))| {
        runtime.block_on(live(&redis, &steps));
    });
}

/// A history that was found at random: a Redis that is emptied takes a change, and is put back to a copy that has a mark.
#[test]
fn a_change_told_to_a_redis_without_a_mark_is_told_again_to_whatever_takes_its_place() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let redis = runtime.block_on(Redis::start());
    let change = |user, status, told| Step::Change { user, status, told };
    for (before, after) in [(Status::Banned, Status::Active), (Status::Active, Status::Banned)] {
        let steps = [
            change(2, before, true),
            Step::Fill,
            Step::Save,
            Step::Flush,
            change(2, after, true),
            Step::Restore,
            Step::Deliver,
        ];
        runtime.block_on(live(&redis, &steps));
    }
}

#[tokio::test]
async fn a_gateway_that_dies_while_it_fills_is_gone_on_from() {
    let (redis, server) = (Redis::start().await, Server::memory());
    let mut scene = Scene::new(&redis, &server).await;
    for number in 0..3 {
        scene.take(Step::Change { user: number, status: Status::Banned, told: false }).await;
    }
    let link = Arc::new(scene.stores[0].new_link(PATIENCE).await.expect("a link"));
    let filler = scene.filler();
    let field = filler.note_field();
    let (note, written) = filler.begin(&link, &field, Timestamp::now(), false).await.expect("begun");
    let half = Note { source: "tokens".to_owned(), ..note.clone() };
    let written = filler.put_note(&link, &field, &written, &half).await.expect("noted");
    let (again, _) = filler.begin(&link, &field, Timestamp::now(), false).await.expect("begun");
    assert_eq!((&again.attempt, &again.source, again.version), (&note.attempt, &half.source, note.version));
    let late = Timestamp::now().plus(STALE);
    let (anew, _) = filler.begin(&link, &field, late, false).await.expect("begun");
    assert_ne!(anew.attempt, note.attempt, "that was too long ago");
    assert!(anew.version > note.version);
    // Who has been overtaken sets no mark, and neither does anybody after a flush.
    let overtaken = filler.put_note(&link, &field, &written, &half).await;
    assert!(matches!(overtaken, Err(FillError::Overtaken)), "{overtaken:?}");
    redis.cli(&["FLUSHALL"]).await;
    let mark = Mark::of_new_round(anew.version, &link.server.run_id);
    assert!(!filler.redis.finish(&link, (&field, &written), &mark).await.expect("asked"));
    assert_eq!(filler.fill(Why::Missing).await.expect("filled"), Ended::Filled);
    scene.take(Step::Deliver).await;
    scene.is_never_wrong("all").await;
}

#[tokio::test]
async fn while_one_gateway_fills_the_others_wait() {
    let (redis, server) = (Redis::start().await, Server::memory());
    let scene = Scene::new(&redis, &server).await;
    let field = scene.stores[0].authority.field().expect("a field").to_owned();
    redis.cli(&["SET", &format!("pc:reconcile:fill:{field}"), "another", "PX", "60000"]).await;
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("asked"), Ended::Elsewhere);
    redis.cli(&["DEL", &format!("pc:reconcile:fill:{field}")]).await;
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
}

/// `cargo test --lib a_million_bans -- --ignored --nocapture` says how fast it is and what it takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_million_bans_are_filled_in_with_bounded_memory() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    let scene = Scene::new(&redis, &server).await;
    let native: Vec<Preset> = presets(keys()).into_iter().take(1).collect();
    let writer = Writer { presets: native, ..writer(&server.sql, Vec::new()).await };
    let bans = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) \
                INSERT INTO portcullis_users (realm, subject, status, version, updated_at, renewed_at) \
                SELECT '', 'user-' || i, 'banned', i, 0, 0 FROM n";
    // Longer than any statement of ours would be waited for.
    let pool = sqlx::SqlitePool::connect(&server.url).await.expect("connected");
    sqlx::query(bans).execute(&pool).await.expect("filled");
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok()).expect("a number") * 4096
    };
    let (before, began) = (resident(), Instant::now());
    let filler = scene.filler_of(&writer);
    let mut most = before;
    {
        let filling = filler.fill(Why::Missing);
        tokio::pin!(filling);
        loop {
            tokio::select! {
                ended = &mut filling => break assert_eq!(ended.expect("filled"), Ended::Filled),
                () = tokio::time::sleep(Duration::from_millis(100)) => most = most.max(resident()),
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rows = scene.metrics.rows.get();
    assert_eq!(rows, 1_000_000);
    assert_eq!(redis.cli(&["EXISTS", "pc:user:user-1000000"]).await, ::redis::Value::Int(1));
    let grown = most - before;
    #[expect(clippy::print_stdout, reason = "that is what it is for")]
    {
        println!(
            "{rows} rows in {seconds:.1} s: {:.0} rows/s; memory grew by {} KiB at most",
            1e6 / seconds,
            grown / 1024
        );
    }
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// What the ledger's own metrics are made of is made once.
#[test]
fn the_metrics_of_filling_exist_from_the_first_second() {
    let registry = Registry::new();
    LedgerMetrics::register(&registry).expect("metrics");
    let names: Vec<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
    for name in
        ["portcullis_reconcile_running", "portcullis_reconcile_rows_total", "portcullis_outbox_refused"]
    {
        assert!(names.iter().any(|it| it == name), "{name}");
    }
}

mod tables;
