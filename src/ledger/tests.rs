//! Against a real Redis, with keys as existing services write them. What the database would say is put into memory.

use std::time::Duration;

use serde_json::{Value, json};

use super::redis::tests::{Server, eventually};
use super::rule::{Condition, IfAbsent, RedisQuestion, SqlQuestion};
use super::*;
use crate::claims::{User, VerifiedParts};
use crate::template::Template;

const TOKEN: &str = "aaaa.bbbb.cccc";

fn claims(subject: &str) -> Claims {
    Claims::verified(VerifiedParts {
        issuer: "https://issuer".into(),
        user: User { realm: "".into(), subject: subject.into() },
        token_id: None,
        session: None,
        issued_at: Some(Timestamp::from_seconds(100)),
        expires_at: None,
        roles: Box::new([]),
        scopes: Box::new([]),
        all: serde_json::Map::new(),
    })
}

fn rule(name: &str, guards: Guards, key: &str, deny_if: Condition) -> Rule {
    Rule {
        name: name.into(),
        guards,
        redis: Some(RedisQuestion {
            key: Template::parse(key).expect("a key"),
            deny_if,
            if_absent: IfAbsent::Allow,
        }),
        sql: None,
        reason: name.into(),
        status: 401,
        ttl: Duration::from_secs(60),
    }
}

fn with_sql(mut rule: Rule, deny_if: Condition) -> Rule {
    let query = format!("SELECT the_answer FROM {} WHERE id = {{sub}}", rule.name);
    rule.sql = Some(SqlQuestion { query, deny_if });
    if let Some(redis) = &mut rule.redis {
        redis.if_absent = IfAbsent::AskDatabase;
    }
    rule
}

fn as_services_do() -> Vec<Rule> {
    let member = |text| Template::parse(text).expect("a member");
    let revoked = Condition::Json { pointer: "/isRevoked".into(), equals: vec![json!(true)] };
    vec![
        rule("token_revoked", Guards::Token, "blacklist:{token}", Condition::Exists),
        rule("refresh_revoked", Guards::Token, "refresh_token:{token}", revoked),
        rule("token_id_revoked", Guards::Token, "jti:{jti}", Condition::Exists),
        rule("in_set", Guards::User, "invalid_users", Condition::Contains(member("{sub}"))),
        rule("in_sorted_set", Guards::User, "invalid_sorted", Condition::ContainsSorted(member("{sub}"))),
        rule("native", Guards::User, "pc:user:{user}", Condition::NativeUser),
        rule(
            "field",
            Guards::User,
            "account:{sub}",
            Condition::Field { field: "status".into(), equals: vec![json!("frozen")] },
        ),
    ]
}

async fn ledger(server: Option<&Server>, rules: Vec<Rule>) -> (Arc<Ledger>, CancellationToken) {
    open(settings(server.map(Server::settings), rules)).await
}

fn settings(redis: Option<RedisSettings>, rules: Vec<Rule>) -> LedgerSettings {
    LedgerSettings {
        presets: Vec::new(),
        rules,
        redis,
        database: DatabaseSettings {
            url: "sqlite::memory:".into(),
            max_connections: 1,
            timeout: Duration::from_millis(250),
            migrate: false,
            poll: Duration::from_secs(1),
        },
        token_lifetime: Duration::from_secs(900),
        refresh_lifetime: Duration::from_secs(900),
        leeway: Duration::ZERO,
        adopt: false,
        answers: 1000,
        profile: Box::default(),
        max_staleness: Duration::from_millis(500),
        heartbeat: Duration::from_millis(100),
    }
}

async fn open(settings: LedgerSettings) -> (Arc<Ledger>, CancellationToken) {
    let shutdown = CancellationToken::new();
    let metrics = LedgerMetrics::register(&prometheus::Registry::new()).expect("metrics");
    (Ledger::open(&settings, metrics, shutdown.clone()).await.expect("a ledger"), shutdown)
}

async fn find(ledger: &Ledger, subject: &str) -> Lookup {
    coherent::all_pushes_are_heard(ledger).await;
    let claims = claims(subject);
    let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
    ledger.find(&questions, &claims, Timestamp::from_seconds(200)).await
}

fn reason(lookup: &Lookup) -> &str {
    match lookup {
        Lookup::Live => "live",
        Lookup::Revoked(revocation) => &revocation.reason,
        Lookup::Unknown(_) => "unknown",
    }
}

/// Makes the rule's table with this row, and forgets what was there before.
async fn the_database_says(ledger: &Ledger, table: &str, subject: &str, answer: Option<i64>) {
    let sql = &ledger.database.sql;
    let create = format!("CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, the_answer INTEGER)");
    sql.execute(&create, &[]).await.expect("a table");
    if let Some(answer) = answer {
        let insert = format!("INSERT INTO {table} (id, the_answer) VALUES (?, ?)");
        sql.execute(&insert, &[subject.into(), answer.into()]).await.expect("a row");
    }
    ledger.forget_answers();
}

/// Takes the rule's table away: its query fails, and nobody answers.
async fn the_database_is_silent(ledger: &Ledger, table: &str) {
    ledger.database.sql.execute(&format!("DROP TABLE {table}"), &[]).await.expect("dropped");
    ledger.forget_answers();
}

#[tokio::test]
async fn keys_written_by_existing_services_deny() {
    let server = Server::start().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
    let blacklist = format!("blacklist:{TOKEN}");
    let value = r#"{"userId":1,"expiresAt":"2026-11-21T05:00:00Z","blacklistedAt":"2026-11-21T04:50:00Z"}"#;
    let refresh = format!("refresh_token:{TOKEN}");
    for (command, expected) in [
        (vec!["SET", &blacklist, value, "EX", "900"], "token_revoked"),
        (vec!["SET", &refresh, r#"{"userId":1,"isRevoked":true}"#], "refresh_revoked"),
        (vec!["SADD", "invalid_users", "7"], "in_set"),
        (vec!["ZADD", "invalid_sorted", "0", "7"], "in_sorted_set"),
        (vec!["SET", "pc:user:7", r#"{"status":"banned","version":1}"#], "user_banned"),
        (vec!["SET", "pc:user:7", r#"{"status":"active","not_before":100}"#], "issued_before_cutoff"),
        (vec!["HSET", "account:7", "status", "frozen"], "field"),
    ] {
        server.cli(&command).await;
        assert_eq!(reason(&find(&ledger, "7").await), expected, "{command:?}");
        server.cli(&["FLUSHALL"]).await;
        assert_eq!(find(&ledger, "7").await, Lookup::Live);
    }
    server.cli(&["SADD", "invalid_users", "7"]).await;
    assert_eq!(find(&ledger, "8").await, Lookup::Live, "somebody else's ban");
}

#[tokio::test]
async fn a_key_of_the_wrong_type_or_content_is_an_outage_of_that_answer_only() {
    let server = Server::start().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    server.cli(&["SET", "invalid_users", "text"]).await;
    assert_eq!(reason(&find(&ledger, "7").await), "unknown");
    server.cli(&["SET", "pc:user:7", r#"{"status":"banned"}"#]).await;
    assert_eq!(reason(&find(&ledger, "7").await), "user_banned", "a known ban outweighs an outage");
    server.cli(&["FLUSHALL"]).await;
    server.cli(&["SET", "pc:user:7", "not json"]).await;
    for _ in 0..20 {
        assert_eq!(reason(&find(&ledger, "7").await), "unknown");
    }
    eventually("the server itself is well", async || ledger.mode() == Mode::Coherent).await;
    assert_eq!(find(&ledger, "8").await, Lookup::Live);
}

#[tokio::test]
async fn redis_killed_is_an_outage_at_once_and_redis_back_is_asked_again() {
    let mut server = Server::start().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
    server.kill();
    assert_eq!(reason(&find(&ledger, "7").await), "unknown");
    assert!(!matches!(ledger.mode(), Mode::Coherent | Mode::Direct));
    assert_eq!(ledger.health().redis.map(|redis| redis.up), Some(false));
    server.restart().await;
    server.cli(&["SADD", "invalid_users", "7"]).await;
    eventually("Redis is asked again", async || reason(&find(&ledger, "7").await) == "in_set").await;
    eventually("it has been filled, and is believed", async || ledger.mode() == Mode::Coherent).await;
}

#[tokio::test]
async fn a_server_that_refuses_is_left_alone() {
    let server = Server::start().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    // Connections that are logged in stay so: they have to be cut for the refusal to be seen.
    let link = ledger.redis.as_ref().expect("Redis");
    let mut quit = ::redis::Pipeline::new();
    quit.cmd("ACL").arg(&["SETUSER", "default", "off"]);
    quit.cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]);
    quit.cmd("QUIT");
    let _ = link.ask(&quit).await;
    eventually("it is left alone", async || {
        reason(&find(&ledger, "7").await) == "unknown"
            && !matches!(ledger.mode(), Mode::Coherent | Mode::Direct)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_loading_knows_nothing_yet() {
    let mut server = Server::start().await;
    server.cli(&["SADD", "invalid_users", "7"]).await;
    server.restart_loading().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    assert_ne!(ledger.mode(), Mode::Direct);
    assert_eq!(reason(&find(&ledger, "8").await), "unknown");
    eventually("it has loaded", async || find(&ledger, "8").await == Lookup::Live).await;
    assert_eq!(reason(&find(&ledger, "7").await), "in_set");
}

#[tokio::test]
async fn a_silent_server_is_a_timeout_and_not_a_pass() {
    let server = Server::start().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    let sleeper = server.try_cli(&["DEBUG", "SLEEP", "1.5"]);
    let asker = async {
        eventually("it is a timeout", async || match find(&ledger, "7").await {
            Lookup::Unknown(outage) => &*outage.cause == "no answer in time",
            _ => false,
        })
        .await;
    };
    let _ = tokio::join!(sleeper, asker);
}

#[tokio::test]
async fn what_redis_leaves_open_the_database_answers() {
    let server = Server::start().await;
    let flag = Condition::Equals(vec![json!(false)]);
    let cached = with_sql(rule("inactive", Guards::User, "user:{sub}:active", flag.clone()), flag);
    let (ledger, _shutdown) = ledger(Some(&server), vec![cached]).await;
    assert_eq!(reason(&find(&ledger, "7").await), "unknown", "there is no table to ask");
    the_database_says(&ledger, "inactive", "7", Some(0)).await;
    the_database_says(&ledger, "inactive", "8", Some(1)).await;
    let Lookup::Revoked(revocation) = find(&ledger, "7").await else { panic!("not revoked") };
    assert_ne!(revocation.source, Source::Redis);
    assert_eq!(find(&ledger, "8").await, Lookup::Live);
    server.cli(&["SET", "user:8:active", "false"]).await;
    let Lookup::Revoked(revocation) = find(&ledger, "8").await else { panic!("not revoked") };
    assert_eq!(revocation.source, Source::Redis);
}

#[tokio::test]
async fn a_session_missing_in_redis_denies_only_when_the_database_misses_it_too() {
    let server = Server::start().await;
    let session = rule("session_revoked", Guards::User, "session:{sub}", Condition::Missing);
    let (ledger, _shutdown) = ledger(Some(&server), vec![with_sql(session, Condition::Missing)]).await;
    the_database_says(&ledger, "session_revoked", "7", None).await;
    the_database_says(&ledger, "session_revoked", "8", Some(1)).await;
    assert_eq!(reason(&find(&ledger, "7").await), "session_revoked");
    assert_eq!(find(&ledger, "8").await, Lookup::Live);
    server.cli(&["SET", "session:7", "x"]).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
}

#[tokio::test]
async fn while_redis_lacks_a_change_the_database_decides() {
    let server = Server::start().await;
    let listed = with_sql(rule("banned", Guards::User, "banned:{sub}", Condition::Exists), Condition::Exists);
    let (ledger, shutdown) = ledger(Some(&server), vec![listed]).await;
    // Or the empty outbox would make Redis trusted again.
    shutdown.cancel();
    server.cli(&["SET", "banned:8", "1"]).await;
    ledger.doubt_redis();
    assert_eq!(ledger.mode(), Mode::Database);
    the_database_says(&ledger, "banned", "7", Some(1)).await;
    the_database_says(&ledger, "banned", "8", None).await;
    assert_eq!(reason(&find(&ledger, "7").await), "banned", "banned, and Redis does not know it yet");
    assert_eq!(find(&ledger, "8").await, Lookup::Live, "let in again, and Redis does not know it yet");
    the_database_is_silent(&ledger, "banned").await;
    assert_eq!(reason(&find(&ledger, "7").await), "unknown");
    assert_eq!(
        reason(&find(&ledger, "8").await),
        "banned",
        "what Redis holds against a user outweighs an outage"
    );
}

#[tokio::test]
async fn without_redis_the_database_is_asked_and_without_rules_nobody() {
    let listed = with_sql(rule("banned", Guards::User, "banned:{sub}", Condition::Exists), Condition::Exists);
    let (asking, _shutdown) = ledger(None, vec![listed]).await;
    assert_eq!(asking.health().redis, None);
    assert_eq!(reason(&find(&asking, "8").await), "unknown", "there is no table to ask");
    the_database_says(&asking, "banned", "7", Some(1)).await;
    assert_eq!(reason(&find(&asking, "7").await), "banned");
    assert_eq!(find(&asking, "8").await, Lookup::Live);
    let (idle, _shutdown) = ledger(None, vec![]).await;
    assert_eq!(find(&idle, "7").await, Lookup::Live);
    assert_eq!(idle.mode(), Mode::Database);
}

#[tokio::test]
async fn a_subject_cannot_name_another_rules_key() {
    let rules = vec![
        rule("user", Guards::User, "user:{sub}", Condition::NativeUser),
        rule("inactive", Guards::User, "user:{sub}:active", Condition::Exists),
        rule("listed", Guards::Token, "{token}", Condition::Exists),
        rule("session", Guards::Session, "session:{sid}", Condition::Exists),
    ];
    let rules = rules.into_iter().map(|rule| with_sql(rule, Condition::Exists)).collect();
    let (ledger, _shutdown) = ledger(None, rules).await;
    let askable = |subject: &str| ledger.questions(&claims(subject), &Token::new(TOKEN)).is_ok();
    assert!(askable("7"));
    assert!(askable("0c1c9a62-9d8e-4f0b-8d0a-1f2e3d4c5b6a"));
    assert!(!askable("7:active"));
    assert!(!askable("7:session"));
    assert!(!askable("*"));
}

#[tokio::test]
async fn a_missing_claim_excuses_a_token_rule_and_refuses_for_a_user_rule() {
    let server = Server::start().await;
    let (ledger, _shutdown) = ledger(Some(&server), as_services_do()).await;
    let questions = ledger.questions(&claims("7"), &Token::new(TOKEN)).expect("askable");
    assert_eq!(questions.asked.len(), 6, "there is no `jti` to be listed");
    assert!(!format!("{questions:?}").contains("aaaa"), "Debug shows no token");
    let tenant = rule("tenant", Guards::User, "tenant:{claims.tenant}", Condition::Exists);
    let (ledger, _shutdown) = self::ledger(Some(&server), vec![tenant]).await;
    let refused = ledger.questions(&claims("7"), &Token::new(TOKEN)).expect_err("refused");
    assert_eq!(refused, Unaskable("claims.tenant".into()));
}

#[test]
fn a_rule_that_nobody_can_ever_answer_does_not_start() {
    let listed = || vec![rule("banned", Guards::User, "banned:{sub}", Condition::Exists)];
    assert!(Rules::compile(listed(), sql::Dialect::Sqlite, true).is_ok());
    let problem = Rules::compile(listed(), sql::Dialect::Sqlite, false).expect_err("no Redis");
    assert!(problem.to_string().contains("no Redis is configured"));
}

#[test]
fn what_is_kept_in_redis_says_the_same_as_the_database() {
    let flag = || Condition::Equals(vec![json!(false)]);
    let kept = |rule: Rule, value: Value| {
        let rules = Rules::compile(vec![rule], sql::Dialect::Sqlite, true).expect("rules");
        let row = vec![("answer".to_owned(), value)];
        chain::text_for_redis(rules.first(), &Ok(Some(Arc::new(row))))
    };
    let cached = |in_table| with_sql(rule("inactive", Guards::User, "user:{sub}:active", flag()), in_table);
    assert_eq!(kept(cached(flag()), json!(true)).as_deref(), Some("true"));
    assert_eq!(kept(cached(flag()), json!(0)).as_deref(), Some("0"));
    assert_eq!(kept(cached(flag()), json!(null)), None);
    let word = Condition::Equals(vec![json!("banned")]);
    assert_eq!(kept(cached(word), json!("banned")), None, "the flag in Redis could not say it");
    let profile = Condition::Json { pointer: "/is_active".into(), equals: vec![json!(false)] };
    let profile = with_sql(rule("inactive", Guards::User, "user:id:{sub}", profile), flag());
    assert_eq!(kept(profile, json!(true)), None, "others keep more under that key");
}

#[test]
fn asking_is_something_a_server_task_can_do() {
    fn is_send<T: Send>(_: fn(&'static Ledger, &'static Questions, &'static Claims) -> T) {}
    is_send(|ledger, questions, claims| ledger.find(questions, claims, Timestamp::from_millis(0)));
}

#[test]
fn looking_settles_the_doubts_from_before_and_not_one_raised_meanwhile() {
    let doubt = Doubt::default();
    doubt.raise();
    let looked = doubt.number();
    doubt.settle(looked);
    assert!(!doubt.is_raised());
    let looked = doubt.number();
    doubt.raise();
    doubt.settle(looked);
    assert!(doubt.is_raised(), "the change came after the look");
    let looked = doubt.number();
    doubt.raise();
    doubt.settle(looked);
    assert!(doubt.is_raised());
}

mod coherent;
