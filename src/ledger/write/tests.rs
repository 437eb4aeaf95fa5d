use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ledger::migrate::{is_migrated, migrate};
use crate::ledger::outbox::{self, Outbox};
use crate::ledger::preset::{
    InvalidUsers, InvalidUsersColumns, InvalidUsersLayout, RefreshTokens, SqlName, TokenBlacklist,
    TokenBlacklistColumns, UnknownUser,
};
use crate::ledger::redis::tests as redis;
use crate::ledger::sql::testing::{Server, store};
use crate::ledger::sql::{Argument, Row, Statement};
use crate::ledger::upkeep;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn name(name: &str) -> SqlName {
    SqlName::parse(name).expect("a good name")
}

pub(in crate::ledger) fn presets(layout: InvalidUsersLayout) -> Vec<Preset> {
    vec![
        Preset::Native(Native { prefix: "pc:".into() }),
        Preset::TokenBlacklist(TokenBlacklist {
            prefix: "blacklist:".into(),
            table: name("blacklisted_tokens"),
            columns: TokenBlacklistColumns {
                token: name("token"),
                user_id: name("user_id"),
                expires_at: name("expires_at"),
                blacklisted_at: name("blacklisted_at"),
            },
            refresh: refresh_tokens(),
        }),
        Preset::InvalidUsers(InvalidUsers {
            layout,
            ttl: None,
            table: name("users"),
            columns: InvalidUsersColumns {
                user_id: name("user_id"),
                status: name("status"),
                status_updated_at: name("status_updated_at"),
                last_security_action: name("last_security_action"),
            },
            unknown_user: UnknownUser::Deny,
        }),
    ]
}

pub(super) fn refresh_tokens() -> RefreshTokens {
    RefreshTokens {
        prefix: "refresh_token:".into(),
        table: name("refresh_tokens"),
        token: name("token"),
        user_id: name("user_id"),
        expires_at: name("expires_at"),
        is_revoked: name("is_revoked"),
    }
}

pub(in crate::ledger) fn keys() -> InvalidUsersLayout {
    InvalidUsersLayout::Keys { prefix: "invalid_user:".into() }
}

pub(in crate::ledger) async fn writer(sql: &SqlStore, presets: Vec<Preset>) -> Writer {
    migrate(sql, &presets, NOW).await.expect("migrated");
    let (access, refresh) = (Duration::from_secs(900), Duration::from_secs(604_800));
    let context = PresetContext::load(sql, &presets, access, refresh, Duration::ZERO).await.expect("loaded");
    Writer { sql: sql.clone(), presets, context, redis: true, source: "portcullis".into() }
}

pub(in crate::ledger) fn user(subject: &str) -> User {
    User { realm: "".into(), subject: subject.into() }
}

fn status(subject: &str, status: Status) -> Change {
    Change::Status { user: user(subject), status, reason: Some("why".to_owned()), until: None }
}

/// The database's answer to a rule, each placeholder filled with `value`, the realm empty.
async fn ask(writer: &Writer, rule: &str, value: &str) -> Option<Row> {
    let rules = writer.presets.iter().flat_map(|preset| preset.rules(&writer.context));
    let query = rules.filter(|asked| &*asked.name == rule).find_map(|rule| rule.sql).expect("a rule").query;
    let statement = Statement::parse(&query, writer.sql.dialect()).expect("a good query");
    let of = |field: &crate::template::Field| if field.to_string() == "realm" { "" } else { value };
    let arguments: Vec<Argument> = statement.fields().map(|field| of(field).into()).collect();
    writer.sql.first_row(&statement, &arguments).await.expect("answered")
}

async fn word(writer: &Writer, rule: &str, value: &str) -> String {
    let row = ask(writer, rule, value).await.expect("a row");
    text(&row, 0).expect("a word")
}

/// All that a database has to do, whichever it is. `users` is as services make it.
async fn everything_holds(server: &Server, users: &[&str]) {
    let sql = &server.sql;
    for statement in users {
        sql.execute(statement, &[]).await.expect("made");
    }
    let (first, second) = tokio::join!(writer(sql, presets(keys())), writer(sql, presets(keys())));
    assert!(is_migrated(sql).await.expect("answered"));
    assert_eq!(first.context, second.context);
    let writer = first;

    // A ban is seen by every rule, and lifted.
    assert_eq!(word(&writer, "native.user", "7").await, "active");
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "active");
    assert_eq!(word(&writer, "invalid-users.known", "7").await, "known");
    assert_eq!(word(&writer, "invalid-users.known", "8").await, "unknown");
    let ban = writer.commit(&status("7", Status::Banned), NOW).await.expect("banned");
    assert_eq!(word(&writer, "native.user", "7").await, "banned");
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "banned");
    let record = writer.record(&user("7"), NOW).await.expect("known");
    assert_eq!((record.status, record.reason.as_deref()), (Status::Banned, Some("why")));
    let active = writer.commit(&status("7", Status::Active), NOW).await.expect("lifted");
    assert!(active.version > ban.version);
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "active");

    // A logout leaves the status and sets the instant; a security action names it.
    writer.commit(&Change::Logout { user: user("7") }, NOW).await.expect("logged out");
    let row = ask(&writer, "invalid-users.standing", "7").await.expect("a row");
    assert_eq!(text(&row, 0).as_deref(), Some("active"));
    let (own, theirs) =
        (ask(&writer, "native.user", "7").await.expect("a row"), number(&row, 3).expect("an instant"));
    assert!((number(&own, 3).expect("an instant") - theirs).abs() < 1000, "{own:?} {theirs}");
    writer.commit(&status("7", Status::SecurityAction), NOW).await.expect("made");
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "security_action");

    // An unknown user is refused, and nothing of it remains.
    let unknown = writer.commit(&status("8", Status::Banned), NOW).await;
    assert!(matches!(unknown, Err(ChangeError::UnknownUser)), "{unknown:?}");
    assert_eq!(word(&writer, "native.user", "8").await, "active");

    // Tokens, whole and by id; sessions.
    let far = Timestamp::from_seconds(4_000_000_000);
    let facts = TokenFacts { user: user("7"), token_id: Some("id".into()), expires_at: Some(far) };
    let revoke = Change::Token { compact: "a.b.c".into(), claims: Some(facts) };
    for _ in 0..2 {
        writer.commit(&revoke, NOW).await.expect("revoked");
    }
    assert!(ask(&writer, "token-blacklist.token", "a.b.c").await.is_some());
    assert!(ask(&writer, "token-blacklist.token", "A.b.c").await.is_none());
    assert!(ask(&writer, "native.jti", "id").await.is_some());
    assert!(ask(&writer, "native.jti", "ID").await.is_none());
    writer.commit(&Change::Session { session: "s".into() }, NOW).await.expect("revoked");
    assert!(ask(&writer, "native.session", "s").await.is_some());

    let stats = writer.stats().await.expect("counted");
    assert_eq!((stats.revoked_tokens, stats.revoked_sessions, stats.outbox_pending), (2, 1, 7));
    let pruned = writer.prune(Timestamp::from_seconds(5_000_000_000)).await.expect("pruned");
    assert_eq!((pruned.tokens, pruned.sessions, pruned.blacklisted_tokens), (2, 1, 1));

    // A ban with an end is lifted when it has passed.
    let until = Some(Timestamp::from_seconds(1_600_000_000));
    let short = Change::Status { user: user("7"), status: Status::Banned, reason: None, until };
    writer.commit(&short, NOW).await.expect("banned");
    upkeep::lift(&writer, None, NOW).await.expect("lifted");
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "active");
    // What was decided since it was found stands: by nobody, by a control call, by the service in its own table.
    let lift = Change::Lift { user: user("7") };
    assert_eq!(writer.commit(&lift, NOW).await.expect("looked").writes, []);
    writer.commit(&status("7", Status::Deactivated), NOW).await.expect("deactivated");
    assert_eq!(writer.commit(&lift, NOW).await.expect("looked").writes, []);
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "deactivated");
    writer.commit(&short, NOW).await.expect("banned");
    sql.execute("UPDATE users SET status = 'deleted' WHERE status = 'banned'", &[]).await.expect("typed");
    upkeep::lift(&writer, None, NOW).await.expect("lifted");
    assert_eq!(word(&writer, "invalid-users.standing", "7").await, "deleted");
    writer.commit(&status("7", Status::Active), NOW).await.expect("active");

    newest_wins(server, &writer).await;
}

/// Two gateways, many changes at once: versions never repeat, and what stands is what was committed last.
async fn newest_wins(server: &Server, writer: &Writer) {
    let writers = [&server.sql, &store(&server.url)].map(|sql| {
        let (presets, context) = (writer.presets.clone(), writer.context.clone());
        Arc::new(Writer { sql: sql.clone(), presets, context, redis: true, source: "portcullis".into() })
    });
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..24_usize {
        let writer = writers[round % 2].clone();
        let word = [Status::Banned, Status::Active, Status::Deleted][round % 3];
        tasks.spawn(
            async move { (writer.commit(&status("7", word), NOW).await.expect("made").version, word) },
        );
    }
    let mut made = tasks.join_all().await;
    made.sort_unstable_by_key(|(version, _)| *version);
    assert!(made.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let (version, last) = *made.last().expect("changes");
    let record = writer.record(&user("7"), NOW).await.expect("known");
    assert_eq!((record.version, record.status), (version, last));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_holds_every_change() {
    let users = "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT NOT NULL, status_updated_at DATETIME, \
                 last_security_action DATETIME)";
    everything_holds(&Server::sqlite(), &[users, "INSERT INTO users (user_id, status) VALUES (7, 'active')"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_holds_every_change_with_enums_and_narrow_integers() {
    let kind = "CREATE TYPE \"User_Status\" AS ENUM ('active', 'banned', 'deactivated', 'deleted', 'security_action')";
    let users = "CREATE TABLE users (user_id INTEGER PRIMARY KEY, status \"User_Status\" NOT NULL, \
                 status_updated_at TIMESTAMP, last_security_action TIMESTAMPTZ)";
    let server = Server::postgres().await;
    everything_holds(&server, &[kind, users, "INSERT INTO users (user_id, status) VALUES (7, 'active')"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_holds_every_change() {
    let users = "CREATE TABLE users (user_id BIGINT PRIMARY KEY, status VARCHAR(20) NOT NULL, \
                 status_updated_at DATETIME, last_security_action DATETIME(3)) ENGINE = InnoDB";
    let server = Server::mariadb().await;
    everything_holds(&server, &[users, "INSERT INTO users (user_id, status) VALUES (7, 'active')"]).await;
}

#[tokio::test]
async fn without_a_table_of_users_our_own_stands_in() {
    let server = Server::memory();
    let sorted = InvalidUsersLayout::SortedSet { key: "invalid_users".into() };
    let writer = writer(&server.sql, presets(sorted)).await;
    assert!(writer.presets.iter().all(|preset| match preset {
        Preset::InvalidUsers(preset) => preset.stands_in(&writer.context),
        _ => true,
    }));
    let made = writer.commit(&status("9", Status::Banned), NOW).await.expect("banned");
    assert_eq!(word(&writer, "invalid-users.standing", "9").await, "banned");
    let added = made.writes.iter().find_map(|write| match write {
        RedisWrite::AddMember { key, member, score, .. } => Some((key.as_str(), member.as_str(), *score)),
        _ => None,
    });
    assert_eq!(added, Some(("invalid_users", "9", Some(NOW.plus(Duration::from_secs(604_800)).millis()))));
}

#[tokio::test]
async fn services_find_their_own_layouts() {
    let server = Server::memory();
    let writer = writer(&server.sql, presets(keys())).await;
    let expires_at = Some(NOW.plus(Duration::from_secs(600)));
    let facts = TokenFacts { user: user("7"), token_id: None, expires_at };
    let made =
        writer.commit(&Change::Token { compact: "a.b.c".into(), claims: Some(facts.clone()) }, NOW).await;
    let listed = RedisWrite::Set {
        key: "blacklist:a.b.c".to_owned(),
        value: "{\"blacklistedAt\":\"2027-01-15T08:00:00.000Z\",\"expiresAt\":\"2027-01-15T08:10:00.000Z\",\"userId\":7}"
            .to_owned(),
        ttl: Some(Duration::from_secs(600)),
    };
    assert!(made.as_ref().expect("revoked").writes.contains(&listed), "{made:?}");
    let over = TokenFacts { expires_at: Some(NOW), ..facts };
    let made = writer.commit(&Change::Token { compact: "x.y.z".into(), claims: Some(over) }, NOW).await;
    assert!(made.expect("nothing to do").writes.is_empty());
    let made = writer.commit(&status("7", Status::Deactivated), NOW).await.expect("made");
    let denied = RedisWrite::Set {
        key: "invalid_user:7".to_owned(),
        value: "deactivated".to_owned(),
        ttl: Some(Duration::from_secs(604_800)),
    };
    assert!(made.writes.contains(&denied), "{made:?}");
}

#[tokio::test]
async fn what_no_rule_would_enforce_is_not_accepted() {
    let server = Server::memory();
    let blacklist = presets(keys()).into_iter().filter(|preset| matches!(preset, Preset::TokenBlacklist(_)));
    let writer = writer(&server.sql, blacklist.collect()).await;
    for change in [
        status("7", Status::Banned),
        Change::Logout { user: user("7") },
        Change::Session { session: "s".into() },
        Change::TokenId { token_id: "id".into(), expires_at: None },
    ] {
        let made = writer.commit(&change, NOW).await;
        assert!(matches!(made, Err(ChangeError::NotGuarded(_))), "{change:?}: {made:?}");
    }
}

#[tokio::test]
async fn what_redis_has_not_been_told_waits_with_what_is_left_of_its_life() {
    let server = Server::memory();
    let writer = writer(&server.sql, presets(keys())).await;
    let pending = prometheus::IntGauge::new("pending", "pending").expect("a gauge");
    let outbox = Outbox::new(server.sql.clone(), pending.clone(), pending.clone());
    let made = writer.commit(&status("7", Status::Banned), NOW).await.expect("banned");
    let waiting = outbox.waiting().await.expect("read");
    assert_eq!(pending.get(), 1);
    let parcel = waiting.first().expect("one");
    assert_eq!((parcel.version, parcel.restrictive, &parcel.writes), (made.version, true, &made.writes));
    // A minute later all have a minute less.
    let left = parcel.writes_left(NOW.plus(Duration::from_secs(60)));
    let seconds = left.iter().map(|write| match write {
        RedisWrite::Set { ttl: Some(ttl), .. } => ttl.as_secs(),
        other => panic!("{other:?}"),
    });
    assert_eq!(seconds.collect::<Vec<_>>(), [604_740, 604_740, 604_740]);
    outbox::delivered(&server.sql, &[made.version]).await.expect("deleted");
    assert_eq!(writer.stats().await.expect("counted").outbox_pending, 0);
}

#[tokio::test]
async fn changes_that_redis_refuses_keep_none_behind_them_waiting_however_many_they_are() {
    const LAST: i64 = 105;
    let (server, redis) = (Server::memory(), redis::Server::start().await);
    migrate(&server.sql, &[], NOW).await.expect("migrated");
    let store = redis::store(&redis).await;
    let gauge = || prometheus::IntGauge::new("changes", "changes").expect("a gauge");
    let (pending, refused) = (gauge(), gauge());
    let waiting = Outbox::new(server.sql.clone(), pending, refused.clone());
    let key = |version: i64| format!("list:{version}");
    let mut open = server.sql.begin().await.expect("begun");
    for version in 1..=LAST {
        redis.cli(&["SET", &key(version), "this is no set"]).await;
        let (key, member) = (key(version), "7".to_owned());
        let write = RedisWrite::AddMember { key, member, score: None, ttl: None };
        outbox::enqueue(&mut open, version, &[write], true, NOW).await.expect("kept");
    }
    open.commit().await.expect("committed");
    assert_eq!(waiting.deliver(&store).await.expect("looked"), 0);
    redis.cli(&["DEL", &key(LAST)]).await;
    // The first hundred, the others, and from the beginning.
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(waiting.deliver(&store).await.expect("looked"));
    }
    assert_eq!(told, [0, 1, 0]);
    assert_eq!(refused.get(), LAST - 1);
    let listed = redis.cli(&["SISMEMBER", &key(LAST), "7"]).await;
    assert_eq!(listed, ::redis::Value::Int(1));
}
