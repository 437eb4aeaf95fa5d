//! Histories in which Redis is emptied, put back to an older copy and filled again, as often as not in the middle of
//! changes: whenever it is believed it says what the database says. Real SQLite, real Redis.

use std::collections::BTreeMap;

use ::redis::Pipeline;
use prometheus::Registry;
use proptest::prelude::*;

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

#[tokio::test]
async fn what_a_service_has_lifted_does_not_come_back_with_an_older_copy() {
    for layout in [
        keys(),
        InvalidUsersLayout::Set { key: "invalid".into() },
        InvalidUsersLayout::SortedSet { key: "invalid".into() },
    ] {
        let (redis, server) = (Redis::start().await, Server::sqlite());
        let users = "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL)";
        server.sql.execute(users, &[]).await.expect("made");
        let rows = "INSERT INTO users VALUES (1, 'active'), (2, 'banned'), (3, 'active')";
        server.sql.execute(rows, &[]).await.expect("filled");
        let scene = Scene::with(&redis, &server, layout.clone()).await;
        for user in ["1", "2", "4"] {
            match &layout {
                InvalidUsersLayout::Keys { .. } => {
                    redis.cli(&["SET", &format!("invalid_user:{user}"), "1"]).await
                }
                InvalidUsersLayout::Set { key } => redis.cli(&["SADD", key, user]).await,
                InvalidUsersLayout::SortedSet { key } => redis.cli(&["ZADD", key, "9", user]).await,
            };
        }
        redis.cli(&["SET", "pc:standing:3", "{\"status\":\"banned\"}"]).await;
        assert_eq!(scene.filler().fill(Why::OtherServer).await.expect("filled"), Ended::Filled);
        let mut there = Vec::new();
        for user in ["1", "2", "3", "4"] {
            let command = match &layout {
                InvalidUsersLayout::Keys { .. } => vec!["EXISTS".to_owned(), format!("invalid_user:{user}")],
                InvalidUsersLayout::Set { key } => {
                    vec!["SISMEMBER".to_owned(), key.to_string(), user.to_owned()]
                }
                InvalidUsersLayout::SortedSet { key } => {
                    vec!["ZSCORE".to_owned(), key.to_string(), user.to_owned()]
                }
            };
            let reply = redis.cli(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
            there.push(!matches!(reply, ::redis::Value::Nil | ::redis::Value::Int(0)));
        }
        // Of the fourth the table says nothing.
        assert_eq!(there, [false, true, false, true], "{layout:?}");
        assert_eq!(redis.cli(&["EXISTS", "pc:standing:3"]).await, ::redis::Value::Int(0));
    }
}

#[tokio::test]
async fn the_tables_of_services_are_read_whole_however_little_of_them_is_wanted() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    let rows = 25_000;
    for statement in [
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL, last_security_action DATETIME)",
        "CREATE TABLE blacklisted_tokens (token TEXT PRIMARY KEY, user_id INTEGER, expires_at DATETIME, blacklisted_at DATETIME)",
    ] {
        server.sql.execute(statement, &[]).await.expect("made");
    }
    let count = |limit: i64| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {limit})")
    };
    let users = format!(
        "{} INSERT INTO users SELECT i, CASE WHEN i % 5000 = 0 THEN 'banned' ELSE 'active' END, \
         CASE WHEN i = 7 THEN '2027-01-01 00:00:00' END FROM n",
        count(rows)
    );
    let tokens = format!(
        "{} INSERT INTO blacklisted_tokens SELECT 'a.b.' || i, i, \
         CASE WHEN i > 3 THEN '2100-01-01 00:00:00' ELSE '2001-01-01 00:00:00' END, '2026-01-01 00:00:00' FROM n",
        count(2500)
    );
    for statement in [users, tokens] {
        server.sql.execute(&statement, &[]).await.expect("filled");
    }
    let scene = Scene::new(&redis, &server).await;
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
    for (key, there) in [
        ("invalid_user:5000", 1),
        ("invalid_user:25000", 1),
        ("invalid_user:7", 0),
        ("pc:standing:7", 1),
        ("invalid_user:8", 0),
        ("blacklist:a.b.2500", 1),
        ("blacklist:a.b.4", 1),
        ("blacklist:a.b.3", 0),
    ] {
        assert_eq!(redis.cli(&["EXISTS", key]).await, ::redis::Value::Int(there), "{key}");
    }
    assert_eq!(scene.metrics.rows.get(), 5 + 1 + 2497, "only what is wanted was read");
}

#[tokio::test]
async fn who_is_let_in_while_a_page_is_written_is_looked_at_again() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    for statement in [
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL)",
        "INSERT INTO users VALUES (1, 'banned'), (2, 'banned'), (3, 'active')",
    ] {
        server.sql.execute(statement, &[]).await.expect("made");
    }
    let scene = Scene::new(&redis, &server).await;
    let (filler, from) = (scene.filler(), From::Key(Vec::new()));
    let link = Arc::new(scene.stores[0].new_link(PATIENCE).await.expect("a link"));
    let sources = Source::all(&scene.writer, NOW);
    let users = sources.iter().find(|source| matches!(source, Source::Denied(..))).expect("a table");
    let page = users.read(&scene.writer, &from, 7, NOW).await.expect("read");
    // As a service does it: its table, then Redis.
    server.sql.execute("UPDATE users SET status = 'active' WHERE user_id = 1", &[]).await.expect("changed");
    redis.cli(&["DEL", "invalid_user:1"]).await;
    filler.put(&link, (users, &from), &page, 7, &mut Pace::new(&scene.metrics)).await.expect("put");
    assert_eq!(redis.cli(&["EXISTS", "invalid_user:1", "invalid_user:2"]).await, ::redis::Value::Int(2));
    let turn = tokio::time::timeout(Duration::from_secs(5), scene.rechecks.next()).await.expect("a turn");
    assert_eq!((&*turn.subject, turn.cause), ("1", Cause::Row));
    let none = tokio::time::timeout(Duration::from_millis(10), scene.rechecks.next()).await;
    assert!(none.is_err(), "{none:?}");
}

#[tokio::test]
async fn two_layouts_over_one_table_are_both_filled_from_all_of_it() {
    let (redis, server) = (Redis::start().await, Server::sqlite());
    for statement in [
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) \
         INSERT INTO users SELECT i, CASE WHEN i % 5000 = 0 THEN 'banned' ELSE 'active' END FROM n",
    ] {
        server.sql.execute(statement, &[]).await.expect("made");
    }
    let layouts = [keys(), InvalidUsersLayout::Keys { prefix: "denied:".into() }];
    let both = layouts.into_iter().flat_map(|layout| presets(layout).into_iter().skip(2)).collect();
    let scene = Scene::over(&redis, &server, both).await;
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
    for user in [5000, 10_000, 15_000, 20_000, 25_000] {
        for prefix in ["invalid_user:", "denied:"] {
            let key = format!("{prefix}{user}");
            assert_eq!(redis.cli(&["EXISTS", &key]).await, ::redis::Value::Int(1), "{key}");
        }
    }
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

/// Pages of our own tables and of theirs, whatever the ids are.
async fn is_read_in_pages(server: &Server, id: &str, ids: [&str; 2]) {
    let redis = Redis::start().await;
    for statement in [
        format!("CREATE TABLE users (user_id {id} PRIMARY KEY, status VARCHAR(20) NOT NULL)"),
        format!("INSERT INTO users VALUES ('{}', 'banned'), ('{}', 'active')", ids[0], ids[1]),
    ] {
        server.sql.execute(&statement, &[]).await.expect("made");
    }
    let scene = Scene::new(&redis, server).await;
    // More than two pages, in one statement for each.
    for start in [0, 800, 1600] {
        let rows = |row: &dyn Fn(i32) -> String| (start..start + 800).map(row).collect::<Vec<_>>().join(", ");
        let users = rows(&|n| format!("('r{}', 'user-{n}', 'banned', {n}, 0, 0)", n % 3));
        let tokens = rows(&|n| format!("('jti', 'id-{n}', 0, {n})"));
        for statement in [
            format!(
                "INSERT INTO portcullis_users (realm, subject, status, version, updated_at, renewed_at) VALUES {users}"
            ),
            format!("INSERT INTO portcullis_tokens (kind, id, revoked_at, version) VALUES {tokens}"),
            format!(
                "INSERT INTO blacklisted_tokens (token, blacklisted_at) VALUES ('t.{start}', '2026-01-01 00:00:00')"
            ),
        ] {
            server.sql.execute(&statement, &[]).await.expect("filled");
        }
    }
    assert_eq!(scene.filler().fill(Why::Missing).await.expect("filled"), Ended::Filled);
    assert_eq!(scene.metrics.rows.get(), 2400 + 2400 + 1 + 3);
    let (denied, active) = (format!("invalid_user:{}", ids[0]), format!("invalid_user:{}", ids[1]));
    for (key, there) in [
        ("pc:user:r0/user-0", 1),
        ("pc:user:r2/user-2399", 1),
        ("pc:jti:id-1000", 1),
        ("pc:jti:id-2399", 1),
        ("blacklist:t.1600", 1),
        (denied.as_str(), 1),
        (active.as_str(), 0),
    ] {
        assert_eq!(redis.cli(&["EXISTS", key]).await, ::redis::Value::Int(there), "{id}: {key}");
    }
    // And by version.
    redis.cli(&["DEL", "pc:user:r0/user-0", "pc:user:r2/user-2399"]).await;
    let mark = scene.stores[0].mark().await.expect("asked").expect("a mark");
    scene.filler().close_gap(&Mark { seq: 0, ..mark.clone() }, mark.seq).await.expect("closed");
    assert_eq!(redis.cli(&["EXISTS", "pc:user:r2/user-2399"]).await, ::redis::Value::Int(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_read_in_pages() {
    let ids = ["d9428888-122b-11e1-b85c-61cd3cbb3210", "0c1c9a62-9d8e-4f0b-8d0a-1f2e3d4c5b6a"];
    is_read_in_pages(&Server::postgres().await, "uuid", ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_read_in_pages() {
    is_read_in_pages(&Server::mariadb().await, "BIGINT", ["9007199254740993", "8"]).await;
}
