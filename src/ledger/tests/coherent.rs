//! Memory that follows a real Redis: it answers without asking, and never what Redis says no more.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::*;
use crate::ledger::redis::RedisWrite;
use crate::ledger::settings::Login;
use proxy::Proxy;

mod proxy;
mod race;

/// Shorter than usual: what ends with it is waited for in these tests.
const LEASE: Duration = Duration::from_millis(300);

async fn open(redis: RedisSettings, rules: Vec<Rule>) -> (Arc<Ledger>, CancellationToken) {
    let mut settings = settings(Some(redis), rules);
    settings.max_staleness = LEASE;
    settings.heartbeat = Duration::from_millis(50);
    super::open(settings).await
}

async fn coherent(server: &Server) -> (Arc<Ledger>, CancellationToken) {
    let (ledger, shutdown) = open(server.settings(), as_services_do()).await;
    becomes(&ledger, Mode::Coherent).await;
    (ledger, shutdown)
}

async fn becomes(ledger: &Ledger, mode: Mode) {
    eventually(mode.word(), async || ledger.mode() == mode).await;
}

/// Waits until every push is heard that Redis has sent by now, or memory is not believed in any case.
pub(super) async fn all_pushes_are_heard(ledger: &Ledger) {
    let Some(coherent) = &ledger.coherent else { return };
    let since = coherent.coherence.now();
    while ledger.is_coherent() && coherent.coherence.last_fence() < since {
        coherent.link.ear.alarm.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// As a request does: whatever has been heard by now counts.
async fn find_now(ledger: &Ledger, subject: &str) -> Lookup {
    let claims = claims(subject);
    let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
    ledger.find(&questions, &claims, Timestamp::from_seconds(200)).await
}

/// A ban is enforced for every request that begins later than the lease after it, whatever happens to the link.
async fn is_denied_in_time(ledger: &Ledger, banned_at: Instant) {
    let mut last = None;
    loop {
        let asked_at = Instant::now();
        match find_now(ledger, "7").await {
            Lookup::Live => last = Some(asked_at),
            Lookup::Revoked(_) | Lookup::Unknown(_) if asked_at > banned_at + LEASE => break,
            Lookup::Revoked(_) | Lookup::Unknown(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let late = last.map(|last| last.saturating_duration_since(banned_at));
    assert!(late.is_none_or(|late| late <= LEASE), "passed {late:?} after the ban");
}

/// How often Redis has run a command.
async fn calls(server: &Server, command: &str) -> u64 {
    let ::redis::Value::BulkString(info) = server.cli(&["INFO", "commandstats"]).await else {
        panic!("no text")
    };
    let info = String::from_utf8(info).expect("text");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().expect("a number").parse().expect("a number"))
}

fn generation(ledger: &Ledger) -> u64 {
    ledger.coherent.as_ref().expect("Redis").coherence.generation()
}

#[tokio::test]
async fn a_change_of_a_key_that_is_counted_with_those_of_a_credential_costs_no_command() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    let claims = claims("7");
    let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
    let find = async || ledger.find(&questions, &claims, Timestamp::from_seconds(200)).await;
    let coherence = &ledger.coherent.as_ref().expect("Redis").coherence;
    let own = questions.slots[0];
    let mut keys = (0..).map(|number| format!("invalid_user:neighbour-{number}"));
    let beside = |key: &String| {
        let slot = coherence.slot(key.as_bytes());
        slot.group() == own.group() && !questions.slots.contains(&slot)
    };
    let neighbour = keys.find(beside).expect("a key");
    eventually("the change is one of its group and nothing is asked", async || {
        find().await;
        let (asked, before) = (calls(&server, "sismember").await, coherence.stamp_of_all(&questions.slots));
        coherence.changed(neighbour.as_bytes());
        assert_ne!(coherence.stamp_of_all(&questions.slots), before);
        assert_eq!(find().await, Lookup::Live);
        calls(&server, "sismember").await == asked
    })
    .await;
}

#[tokio::test]
async fn a_credential_that_was_good_a_moment_ago_costs_no_command() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    let claims = claims("7");
    let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
    let find = async || ledger.find(&questions, &claims, Timestamp::from_seconds(200)).await;
    eventually("an answer is kept", async || {
        let asked = calls(&server, "sismember").await;
        find().await;
        calls(&server, "sismember").await == asked
    })
    .await;
    let asked = calls(&server, "sismember").await;
    let hits = ledger.metrics.memory_hit.get();
    for _ in 0..1000 {
        assert_eq!(find().await, Lookup::Live);
    }
    assert_eq!(find_now(&ledger, "7").await, Lookup::Live, "another token of the same user");
    assert_eq!(calls(&server, "sismember").await, asked);
    assert_eq!(ledger.metrics.memory_hit.get() - hits, 6 * 1001);
    server.cli(&["SADD", "invalid_users", "7"]).await;
    all_pushes_are_heard(&ledger).await;
    for source in [Source::Redis, Source::Memory, Source::Memory] {
        let Lookup::Revoked(revocation) = find().await else { panic!("not revoked") };
        assert_eq!(revocation.source, source);
    }
    assert_eq!(find_now(&ledger, "8").await, Lookup::Live, "another user is another question");
    assert_eq!(calls(&server, "sismember").await, asked + 2);
}

#[tokio::test]
async fn who_writes_through_this_ledger_reads_it_at_once() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    let redis = ledger.redis.as_ref().expect("Redis");
    for version in 0..200 {
        let write = match version % 2 {
            0 => {
                RedisWrite::Set { key: "pc:user:7".into(), value: r#"{"status":"banned"}"#.into(), ttl: None }
            }
            _ => RedisWrite::Delete { key: "pc:user:7".into() },
        };
        redis.write(&[write], version, version % 2 == 0).await.expect("written");
        let expected = if version % 2 == 0 { "user_banned" } else { "live" };
        assert_eq!(reason(&find_now(&ledger, "7").await), expected);
    }
}

#[tokio::test]
async fn an_answer_ends_with_its_key_although_redis_has_not_told() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    server.cli(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
    server.cli(&["SET", "pc:user:7", r#"{"status":"banned"}"#, "PX", "1500"]).await;
    let written = Instant::now();
    assert_eq!(reason(&find(&ledger, "7").await), "user_banned");
    tokio::time::sleep_until(written + Duration::from_millis(1510)).await;
    let before = generation(&ledger);
    assert_eq!(find_now(&ledger, "7").await, Lookup::Live);
    assert_eq!(generation(&ledger), before);
}

#[tokio::test]
async fn what_the_database_said_is_believed_for_its_time_and_no_longer() {
    let server = Server::start().await;
    let session =
        with_sql(rule("session", Guards::User, "session:{sub}", Condition::Missing), Condition::Missing);
    let (ledger, _shutdown) = open(server.settings(), vec![session]).await;
    becomes(&ledger, Mode::Coherent).await;
    the_database_says(&ledger, "session", "7", Some(1)).await;
    let claims = claims("7");
    let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
    let find = async || ledger.find(&questions, &claims, Timestamp::from_seconds(200)).await;
    let asked = Instant::now();
    assert_eq!(find().await, Lookup::Live);
    ledger.database.sql.execute("DELETE FROM session", &[]).await.expect("deleted");
    let life = ledger.database.life;
    let (again, now) = (find().await, asked.elapsed());
    assert!(again == Lookup::Live || now >= life, "its time is not over");
    tokio::time::sleep_until(asked + life * 2).await;
    assert_eq!(reason(&find().await), "session");
    the_database_says(&ledger, "session", "7", Some(1)).await;
    assert_eq!(find().await, Lookup::Live, "a change made here counts at once");
    ledger.doubt_redis();
    assert_ne!(ledger.mode(), Mode::Coherent);
}

#[tokio::test]
async fn a_network_that_swallows_everything_lets_nobody_pass_for_longer_than_the_lease() {
    let server = Server::start().await;
    let proxy = Proxy::before(&server).await;
    let (ledger, _shutdown) = open(proxy.settings(), as_services_do()).await;
    for _ in 0..8 {
        becomes(&ledger, Mode::Coherent).await;
        assert_eq!(find(&ledger, "7").await, Lookup::Live);
        proxy.silence(true);
        let banned_at = Instant::now();
        server.cli(&["SADD", "invalid_users", "7"]).await;
        is_denied_in_time(&ledger, banned_at).await;
        assert_ne!(ledger.mode(), Mode::Coherent);
        server.cli(&["SREM", "invalid_users", "7"]).await;
        proxy.silence(false);
        eventually("asked again", async || find_now(&ledger, "7").await == Lookup::Live).await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_is_believed_for_the_lease_and_again_when_it_goes_on() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
    let stopped_at = Instant::now();
    server.signal("STOP");
    is_denied_in_time(&ledger, stopped_at).await;
    assert_ne!(ledger.mode(), Mode::Coherent);
    server.signal("CONT");
    becomes(&ledger, Mode::Coherent).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
}

#[tokio::test]
async fn a_link_that_is_cut_is_made_anew_and_nothing_from_before_is_believed() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    for _ in 0..5 {
        becomes(&ledger, Mode::Coherent).await;
        assert_eq!(find(&ledger, "7").await, Lookup::Live);
        let before = generation(&ledger);
        let banned_at = Instant::now();
        server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        server.cli(&["SADD", "invalid_users", "7"]).await;
        is_denied_in_time(&ledger, banned_at).await;
        assert!(generation(&ledger) > before);
        server.cli(&["SREM", "invalid_users", "7"]).await;
        eventually("asked again", async || find_now(&ledger, "7").await == Lookup::Live).await;
    }
}

#[tokio::test]
async fn a_link_that_redis_gives_up_because_too_much_waits_for_it_is_made_anew() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    server.cli(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"]).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
    let (before, banned_at) = (generation(&ledger), Instant::now());
    let flood = "redis.call('SADD','invalid_users','7')
                 for i = 1, 100000 do redis.call('SET', 'pc:user:somebody-else-' .. i, '1', 'PX', 60000) end";
    server.cli(&["EVAL", flood, "0"]).await;
    is_denied_in_time(&ledger, banned_at).await;
    assert!(generation(&ledger) > before, "the connection was cut");
    becomes(&ledger, Mode::Coherent).await;
    assert_eq!(reason(&find(&ledger, "7").await), "in_set");
}

#[tokio::test]
async fn a_panic_over_a_push_costs_what_is_kept_and_not_the_link() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live);
    let before = generation(&ledger);
    let ear = &ledger.coherent.as_ref().expect("Redis").link.ear;
    ear.stumble.store(true, Ordering::Relaxed);
    server.cli(&["SADD", "invalid_users", "7"]).await;
    assert_eq!(reason(&find(&ledger, "7").await), "in_set", "the push it stumbled over is heeded");
    assert_eq!(generation(&ledger), before + 1);
    becomes(&ledger, Mode::Coherent).await;
    server.cli(&["SREM", "invalid_users", "7"]).await;
    assert_eq!(find(&ledger, "7").await, Lookup::Live, "and the next ones are heard");
    assert_eq!(generation(&ledger), before + 1, "over the same connection");
}

#[tokio::test]
async fn a_flush_and_a_reload_make_everything_be_asked_again() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    server.cli(&["SADD", "invalid_users", "7"]).await;
    for wipe in [&["FLUSHALL"][..], &["FLUSHDB", "ASYNC"], &["DEBUG", "RELOAD"]] {
        server.cli(&["SADD", "invalid_users", "7"]).await;
        assert_eq!(reason(&find(&ledger, "7").await), "in_set");
        let before = generation(&ledger);
        server.cli(wipe).await;
        let expected = if wipe[0] == "DEBUG" { "in_set" } else { "live" };
        eventually("it is asked again", async || {
            becomes(&ledger, Mode::Coherent).await;
            reason(&find(&ledger, "7").await) == expected && generation(&ledger) > before
        })
        .await;
    }
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_not_followed() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]).await;
    becomes(&ledger, Mode::Direct).await;
    server.cli(&["REPLICAOF", "NO", "ONE"]).await;
    becomes(&ledger, Mode::Coherent).await;
}

/// Redis asks no questions here and is asked for everything.
async fn stays_direct(server: &Server, redis: RedisSettings) {
    let (ledger, _shutdown) = open(redis, as_services_do()).await;
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert_eq!(ledger.mode(), Mode::Direct);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(find_now(&ledger, "7").await, Lookup::Live);
    server.cli(&["SADD", "invalid_users", "7"]).await;
    assert_eq!(reason(&find_now(&ledger, "7").await), "in_set");
    server.cli(&["SREM", "invalid_users", "7"]).await;
}

#[tokio::test]
async fn where_coherence_cannot_be_had_every_request_asks_redis() {
    let server = Server::start().await;
    for missing in ["-client|tracking", "-role", "-pttl"] {
        server.cli(&["ACL", "SETUSER", "default", missing]).await;
        stays_direct(&server, server.settings()).await;
        server.cli(&["ACL", "SETUSER", "default", "+@all"]).await;
    }
    let old = Server::start_with(&["--rename-command", "HELLO", ""]).await;
    stays_direct(&old, old.settings()).await;
    let proxy = Proxy::before(&server).await;
    proxy.swallow_pushes();
    stays_direct(&server, proxy.settings()).await;
}

#[tokio::test]
async fn a_user_with_only_what_is_documented_is_enough_and_one_who_may_not_write_too() {
    let server = Server::start().await;
    let commands = "+hello +auth +select +ping +subscribe +role +info +pttl +get +exists +hget +sismember +zscore \
        +client|setname +client|tracking +client|trackinginfo";
    for more in ["%R~* +set ~pc:watermark:canary:*", "%R~*"] {
        let user = format!("ACL SETUSER gateway reset on >secret resetchannels &pc:link {commands} {more}");
        server.cli(&user.split_whitespace().collect::<Vec<_>>()).await;
        let login = Login { user: Some("gateway".into()), password: Some("secret".into()) };
        let (ledger, _shutdown) = open(RedisSettings { login, ..server.settings() }, as_services_do()).await;
        becomes(&ledger, Mode::Coherent).await;
        assert_eq!(find(&ledger, "7").await, Lookup::Live);
        server.cli(&["SADD", "invalid_users", "7"]).await;
        assert_eq!(reason(&find(&ledger, "7").await), "in_set");
        server.cli(&["SREM", "invalid_users", "7"]).await;
    }
}
