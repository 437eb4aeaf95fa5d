//! The presets over tables as services really have them, without a Redis: what the rules find, and what changes write.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::claims::{Claims, VerifiedParts};
use crate::ledger::change::TokenFacts;
use crate::ledger::rule::Spelling;
use crate::ledger::sql::testing::Server;
use crate::ledger::{Change, DatabaseSettings, Ledger, LedgerMetrics, LedgerSettings, Lookup};
use crate::token::Token;

fn name(name: &str) -> SqlName {
    SqlName::parse(name).expect("a good name")
}

fn flags(table: &str) -> Preset {
    Preset::ActiveFlagCache(ActiveFlagCache {
        prefix: "user:".into(),
        suffix: ":active".into(),
        ttl: Duration::from_secs(300),
        encoding: Spelling::Plain,
        table: name(table),
        user_id: name("id"),
        is_active: name("is_active"),
        unknown_user: UnknownUser::Deny,
    })
}

fn users(table: &str) -> Preset {
    Preset::UserCache(UserCache {
        prefixes: UserPrefixes {
            id: "user:id:".into(),
            email: "user:email:".into(),
            username: "user:username:".into(),
            phone: "user:phone:".into(),
        },
        ttl: Duration::from_secs(300),
        aliases: vec![AliasKind::Email, AliasKind::Username, AliasKind::Phone],
        profile: None,
        table: name(table),
        columns: UserColumns {
            id: name("id"),
            email: name("email"),
            username: name("username"),
            phone_number: name("phone_number"),
            is_active: name("is_active"),
        },
        unknown_user: UnknownUser::Deny,
    })
}

fn sessions(table: &str) -> Preset {
    Preset::SessionStore(SessionStore {
        tokens: "user:tokens:".into(),
        session: "session:".into(),
        blacklist: "blacklist:".into(),
        profile: "user:profile:".into(),
        ttl: Duration::from_secs(86_400),
        table: name(table),
        columns: SessionColumns {
            token: name("token"),
            user_id: name("user_id"),
            expires_at: name("expires_at"),
            is_active: name("is_active"),
        },
    })
}

struct Scene {
    ledger: Arc<Ledger>,
    _end: tokio_util::sync::DropGuard,
}

impl Scene {
    async fn open(server: &Server, presets: Vec<Preset>) -> Self {
        let settings = LedgerSettings {
            presets,
            rules: Vec::new(),
            redis: None,
            database: DatabaseSettings {
                url: server.url.clone(),
                max_connections: 4,
                timeout: Duration::from_secs(5),
                migrate: true,
            },
            token_lifetime: Duration::from_secs(900),
            refresh_lifetime: Duration::from_secs(604_800),
            leeway: Duration::ZERO,
            answers: 1000,
            profile: ["email".into()].into(),
            max_staleness: Duration::from_millis(500),
            heartbeat: Duration::from_millis(100),
        };
        let end = CancellationToken::new();
        let metrics = LedgerMetrics::register(&prometheus::Registry::new()).expect("metrics");
        let ledger = Ledger::open(&settings, metrics, end.clone()).await.expect("a ledger");
        Self { ledger, _end: end.drop_guard() }
    }

    async fn finds(&self, subject: &str, token: &str) -> String {
        self.ledger.forget_answers();
        let claims = Claims::verified(VerifiedParts {
            issuer: "https://issuer".into(),
            user: user(subject),
            token_id: None,
            session: None,
            issued_at: Some(Timestamp::from_seconds(100)),
            expires_at: None,
            roles: Box::new([]),
            scopes: Box::new([]),
            all: serde_json::Map::new(),
        });
        let questions = self.ledger.questions(&claims, &Token::new(token)).expect("askable");
        match self.ledger.find(&questions, &claims, Timestamp::now()).await {
            Lookup::Live => "live".to_owned(),
            Lookup::Revoked(revocation) => revocation.reason.to_string(),
            Lookup::Unknown(outage) => format!("unknown: {outage}"),
        }
    }

    async fn sets(&self, subject: &str, status: Status) {
        let change = Change::Status { user: user(subject), status, reason: None, until: None };
        self.ledger.apply(&change, Timestamp::now()).await.expect("changed");
    }
}

fn user(subject: &str) -> User {
    User { realm: "".into(), subject: subject.into() }
}

/// The types of id, flag and instant, with an id; and a flag that is up and one that is down, as SQL.
struct Shape {
    id: &'static str,
    subject: &'static str,
    /// The subject as SQL.
    literal: &'static str,
    flag: &'static str,
    up: &'static str,
    down: &'static str,
    /// Its default, in SQL: an instant tomorrow.
    instant: &'static str,
    tomorrow: &'static str,
    yesterday: &'static str,
}

/// One shape, one set of tables: the tests of one server do not meet.
async fn every_shape_holds(server: &Server, shapes: &[Shape]) {
    for (number, shape) in shapes.iter().enumerate() {
        let Shape { id, subject, literal, flag, up, .. } = shape;
        let table = format!("users_{number}");
        let sql = &server.sql;
        let run = async |statement: &str| sql.execute(statement, &[]).await.expect(statement);
        run(&format!(
            "CREATE TABLE {table} (id {id} NOT NULL PRIMARY KEY, email VARCHAR(100), username VARCHAR(100), \
             phone_number VARCHAR(40), hashed_password VARCHAR(100), is_active {flag})"
        ))
        .await;
        run(&format!(
            "INSERT INTO {table} (id, email, username, phone_number, hashed_password, is_active) VALUES \
             ({literal}, 'alice@example.com', 'alice', '+49 170 1', 'secret', {up})"
        ))
        .await;
        for preset in [flags(&table), users(&table)] {
            a_flag_is_read_and_written(server, &preset, &table, shape).await;
        }
        let scene = Scene::open(server, vec![users(&table)]).await;
        for alias in ["alice@example.com", "alice", "+49 170 1"] {
            // A phone number with spaces can name no key: with Redis it would be refused.
            if !alias.contains(' ') {
                assert_eq!(scene.finds(alias, "a.b.c").await, "live", "{id} {alias}");
                scene.sets(alias, Status::Banned).await;
                assert_eq!(scene.finds(subject, "a.b.c").await, "user_banned", "{id} {alias}");
                scene.sets(subject, Status::Active).await;
                assert_eq!(scene.finds(alias, "a.b.c").await, "live", "{id} {alias}");
            }
        }
        assert_eq!(scene.finds("mallory", "a.b.c").await, "user_unknown", "{id}");
        sessions_are_read_and_written(server, number, shape).await;
    }
}

async fn a_flag_is_read_and_written(server: &Server, preset: &Preset, table: &str, shape: &Shape) {
    let Shape { subject, up, down, flag, .. } = shape;
    let scene = Scene::open(server, vec![preset.clone()]).await;
    let sql = &server.sql;
    let is_active = async || {
        let rows = sql.rows(&format!("SELECT COUNT(*) FROM {table} WHERE is_active = {up}"), &[]).await;
        crate::ledger::schema::number(&rows.expect("answered")[0], 0) == Some(1)
    };
    assert_eq!(scene.finds(subject, "a.b.c").await, "live", "{flag}");
    sql.execute(&format!("UPDATE {table} SET is_active = {down}"), &[]).await.expect("updated");
    assert_eq!(scene.finds(subject, "a.b.c").await, "user_deactivated", "{flag}");
    sql.execute(&format!("UPDATE {table} SET is_active = {up}"), &[]).await.expect("updated");
    for (status, reason) in [(Status::Banned, "user_banned"), (Status::Deleted, "user_deleted")] {
        scene.sets(subject, status).await;
        assert!(!is_active().await, "{flag}");
        assert_eq!(scene.finds(subject, "a.b.c").await, reason, "{flag}");
    }
    scene.sets(subject, Status::Active).await;
    assert!(is_active().await, "{flag}: as the service would write it");
    assert_eq!(scene.finds(subject, "a.b.c").await, "live", "{flag}");
    scene.ledger.apply(&Change::Logout { user: user(subject) }, Timestamp::now()).await.expect("logged out");
    assert_eq!(scene.finds(subject, "a.b.c").await, "issued_before_cutoff");
    assert!(is_active().await);
    sql.execute("DELETE FROM portcullis_users", &[]).await.expect("deleted");
}

async fn sessions_are_read_and_written(server: &Server, number: usize, shape: &Shape) {
    let Shape { id, subject, literal, flag, up, down, instant, tomorrow, yesterday } = shape;
    let table = format!("sessions_{number}");
    let sql = &server.sql;
    let run = async |statement: &str| sql.execute(statement, &[]).await.expect(statement);
    run(&format!(
        "CREATE TABLE {table} (token VARCHAR(500) NOT NULL PRIMARY KEY, user_id {id} NOT NULL, expires_at {instant}, \
         is_active {flag})"
    ))
    .await;
    for (token, end, active) in
        [("live", tomorrow, up), ("over", yesterday, up), ("ended", tomorrow, down), ("other", tomorrow, up)]
    {
        run(&format!(
            "INSERT INTO {table} (token, user_id, expires_at, is_active) VALUES ('{token}', {literal}, {end}, {active})"
        ))
        .await;
    }
    let scene = Scene::open(server, vec![sessions(&table)]).await;
    let finds = async |token: &str| scene.finds(subject, token).await;
    for (token, reason) in [
        ("live", "live"),
        ("over", "session_revoked"),
        ("ended", "session_revoked"),
        ("none", "session_revoked"),
    ] {
        assert_eq!(finds(token).await, reason, "{id} {instant} {token}");
    }
    let shown = scene.ledger.sessions(&user(subject)).await.expect("answered");
    let mut shown: Vec<_> = shown.iter().map(|session| &*session.compact).collect();
    shown.sort_unstable();
    assert_eq!(shown, ["live", "other"], "{id} {instant}");

    // What a login opens, and one token revoked.
    let opened = crate::ledger::change::OpenedToken {
        compact: "new".into(),
        kind: crate::ledger::change::TokenKind::Access,
        expires_at: Some(Timestamp::now().plus(Duration::from_secs(900))),
    };
    let tracked = Change::Track { user: user(subject), tokens: vec![opened] };
    scene.ledger.apply(&tracked, Timestamp::now()).await.expect("tracked");
    assert_eq!(finds("new").await, "live", "{id} {instant}");
    let facts = TokenFacts { user: user(subject), token_id: None, expires_at: None };
    let revoked = Change::Token { compact: "other".into(), claims: Some(facts) };
    scene.ledger.apply(&revoked, Timestamp::now()).await.expect("revoked");
    assert_eq!(finds("other").await, "session_revoked");
    assert_eq!(finds("live").await, "live");
    scene.ledger.apply(&Change::Logout { user: user(subject) }, Timestamp::now()).await.expect("logged out");
    assert_eq!(finds("live").await, "issued_before_cutoff");
    assert!(scene.ledger.sessions(&user(subject)).await.expect("answered").is_empty(), "{flag}");
    run("DELETE FROM portcullis_users").await;
}

const UUID: &str = "d9428888-122b-11e1-b85c-61cd3cbb3210";
const FLAG: (&str, &str, &str) = ("BOOLEAN", "true", "false");

fn shape(
    (id, subject, literal): (&'static str, &'static str, &'static str),
    (flag, up, down): (&'static str, &'static str, &'static str),
    (instant, tomorrow, yesterday): (&'static str, &'static str, &'static str),
) -> Shape {
    Shape { id, subject, literal, flag, up, down, instant, tomorrow, yesterday }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_read_and_written_whatever_its_columns_types_are() {
    let stamps = ("TIMESTAMP", "datetime('now', '+1 day')", "datetime('now', '-1 day')");
    let unix = ("INTEGER", "unixepoch() + 86400", "unixepoch() - 86400");
    let blob = ("BLOB", UUID, "X'd9428888122b11e1b85c61cd3cbb3210'");
    let shapes = [
        shape(("INTEGER", "7", "7"), ("BOOLEAN", "1", "0"), stamps),
        shape(("TEXT", "user_7", "'user_7'"), ("TEXT", "'true'", "'false'"), unix),
        shape(blob, ("INTEGER", "1", "0"), stamps),
    ];
    every_shape_holds(&Server::sqlite(), &shapes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_read_and_written_whatever_its_columns_types_are() {
    let zoned = ("TIMESTAMPTZ", "now() + interval '1 day'", "now() - interval '1 day'");
    let bare = (
        "TIMESTAMP",
        "now() at time zone 'utc' + interval '1 day'",
        "now() at time zone 'utc' - interval '1 day'",
    );
    let unix = ("BIGINT", "extract(epoch from now())::bigint * 1000 + 86400000", "0");
    let shapes = [
        shape(("INTEGER", "7", "7"), FLAG, zoned),
        shape(("BIGINT", "9007199254740993", "9007199254740993"), ("SMALLINT", "1", "0"), bare),
        shape(("UUID", UUID, "'d9428888-122b-11e1-b85c-61cd3cbb3210'"), FLAG, unix),
        shape(("TEXT", "user_7", "'user_7'"), ("VARCHAR(8)", "'true'", "'false'"), zoned),
    ];
    every_shape_holds(&Server::postgres().await, &shapes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_read_and_written_whatever_its_columns_types_are() {
    let stamps = ("DATETIME(3)", "now() + interval 1 day", "now() - interval 1 day");
    let unix = ("INT", "unix_timestamp() + 86400", "unix_timestamp() - 86400");
    let binary = ("BINARY(16)", UUID, "X'd9428888122b11e1b85c61cd3cbb3210'");
    let shapes = [
        shape(("BIGINT", "7", "7"), ("TINYINT(1)", "1", "0"), stamps),
        shape(binary, ("BIT(1)", "b'1'", "b'0'"), unix),
        shape(("VARCHAR(40)", "user_7", "'user_7'"), ("ENUM('N','Y')", "'Y'", "'N'"), stamps),
    ];
    every_shape_holds(&Server::mariadb().await, &shapes).await;
}

#[tokio::test]
async fn presets_need_a_record_of_ours_beside_them_where_they_cannot_say_why() {
    let decides = |presets: &[Preset]| {
        complete(presets).iter().find_map(|preset| match preset {
            Preset::Record(_) => Some(
                preset.rules(&PresetContext::assumed(
                    Dialect::Sqlite,
                    presets,
                    Duration::ZERO,
                    Duration::ZERO,
                    Duration::ZERO,
                ))[0]
                    .redis
                    .as_ref()
                    .map(|redis| redis.deny_if.clone()),
            ),
            _ => None,
        })
    };
    let record = |decides| Some(Some(Condition::Record { decides }));
    assert_eq!(decides(&[sessions("sessions")]), record(true));
    assert_eq!(decides(&[sessions("sessions"), users("users")]), record(false));
    assert_eq!(decides(&[flags("users")]), record(false));
    assert_eq!(decides(&[flags("users"), Preset::Native(Native { prefix: "pc:".into() })]), None);
    assert_eq!(json!(complete(&[]).len()), 0);
}
