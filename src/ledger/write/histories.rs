//! Histories of changes that reach Redis late, twice, in another order, or only through the outbox: what is newest in
//! the database stands in Redis too, in every layout. Real SQLite, real Redis.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use redis::Value;

use super::tests::{keys, presets, user, writer};
use super::*;
use crate::ledger::outbox::Outbox;
use crate::ledger::preset::InvalidUsersLayout;
use crate::ledger::redis::tests::{Server as Redis, store as connected};
use crate::ledger::sql::testing::Server;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// One change and how Redis hears of it.
#[derive(Clone, Debug)]
struct Step {
    user: u8,
    /// `None` is a logout.
    status: Option<Status>,
    /// When each telling arrives, compared with the others; none is a change whose teller died.
    arrivals: Vec<u16>,
    /// Whether the outbox forgets it, as after a telling whose answer was heard.
    heard: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![
        3 => Just(Some(Status::Active)),
        3 => Just(Some(Status::Banned)),
        1 => Just(Some(Status::Deactivated)),
        1 => Just(Some(Status::Deleted)),
        1 => Just(Some(Status::SecurityAction)),
        1 => Just(None),
    ];
    (0_u8..3, status, prop::collection::vec(any::<u16>(), 0..3), any::<bool>()).prop_map(
        |(user, status, arrivals, heard)| Step {
            user,
            status,
            heard: heard && !arrivals.is_empty(),
            arrivals,
        },
    )
}

fn layout() -> impl Strategy<Value = InvalidUsersLayout> {
    prop_oneof![
        Just(keys()),
        Just(InvalidUsersLayout::Set { key: "invalid_users".into() }),
        Just(InvalidUsersLayout::SortedSet { key: "invalid_users_sorted".into() }),
    ]
}

/// Commits the history, lets it arrive in its order, delivers what is left, and compares.
async fn live(redis: &Redis, layout: InvalidUsersLayout, steps: Vec<Step>) {
    // Users of their own for each history: the versions of another one's keys are none of theirs.
    static HISTORY: AtomicU32 = AtomicU32::new(0);
    let history = HISTORY.fetch_add(1, Ordering::Relaxed);
    let server = Server::memory();
    let (writer, link) = (writer(&server.sql, presets(layout)).await, connected(redis).await);
    let mut newest = BTreeMap::new();
    let mut arrivals = Vec::new();
    for step in steps {
        let user = user(&format!("{history}-{}", step.user));
        let change = match step.status {
            Some(status) => Change::Status { user: user.clone(), status, reason: None, until: None },
            None => Change::Logout { user: user.clone() },
        };
        let committed = writer.commit(&change, NOW).await.expect("committed");
        if step.heard {
            outbox::delivered(&server.sql, &[committed.version]).await.expect("forgotten");
        }
        arrivals.extend(
            step.arrivals
                .iter()
                .map(|at| (*at, committed.writes.clone(), committed.version, committed.restrictive)),
        );
        // The end of a ban has the ban's own version, and counts for nothing while the database holds the ban.
        if committed.restrictive {
            let ends: Vec<_> = committed.writes.iter().filter_map(taken_back).collect();
            let times = step.arrivals.iter().map(|at| at.rotate_left(8));
            arrivals.extend(times.map(|at| (at, ends.clone(), committed.version, false)));
        }
        newest.insert(user.subject.to_string(), committed);
    }
    arrivals.sort_by_key(|(at, ..)| *at);
    for (_, writes, version, restrictive) in arrivals {
        link.write(&writes, version, restrictive).await.expect("told");
    }
    let pending = prometheus::IntGauge::new("pending", "pending").expect("a gauge");
    Outbox::new(server.sql.clone(), pending.clone(), pending.clone())
        .deliver(&link)
        .await
        .expect("delivered");
    for (subject, committed) in newest {
        for write in &committed.writes {
            assert!(holds(redis, write).await, "{subject}: {write:?}");
        }
        let sql = "SELECT version FROM portcullis_users WHERE subject = ?";
        let rows = server.sql.rows(sql, &[subject.as_str().into()]).await.expect("answered");
        assert_eq!(rows.first().and_then(|row| number(row, 0)), Some(committed.version));
    }
}

/// What undoes a write.
fn taken_back(write: &RedisWrite) -> Option<RedisWrite> {
    match write {
        RedisWrite::Set { key, .. } => Some(RedisWrite::Delete { key: key.clone() }),
        RedisWrite::AddMember { key, member, score, .. } => {
            let (key, member) = (key.clone(), member.clone());
            Some(RedisWrite::RemoveMember { key, member, sorted: score.is_some() })
        }
        _ => None,
    }
}

/// Whether Redis is as this write would leave it.
async fn holds(redis: &Redis, write: &RedisWrite) -> bool {
    let there = async |command: &[&str]| !matches!(redis.cli(command).await, Value::Nil | Value::Int(0));
    match write {
        RedisWrite::Set { key, value, .. } => {
            redis.cli(&["GET", key]).await == Value::BulkString(value.as_bytes().to_vec())
        }
        RedisWrite::Replace { key, value, .. } => {
            let found = redis.cli(&["GET", key]).await;
            found == Value::Nil || found == Value::BulkString(value.as_bytes().to_vec())
        }
        RedisWrite::Delete { key } => !there(&["EXISTS", key]).await,
        RedisWrite::AddMember { key, member, score: None, .. } => there(&["SISMEMBER", key, member]).await,
        RedisWrite::AddMember { key, member, score: Some(_), .. } => there(&["ZSCORE", key, member]).await,
        RedisWrite::RemoveMember { key, member, sorted: false } => !there(&["SISMEMBER", key, member]).await,
        RedisWrite::RemoveMember { key, member, sorted: true } => !there(&["ZSCORE", key, member]).await,
    }
}

#[test]
fn whatever_order_redis_hears_of_changes_in_the_newest_stands() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let redis = runtime.block_on(Redis::start());
    // A failed case is told with its steps; a file of it would be a trace of one machine's run.
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(layout in layout(), steps in prop::collection::vec(step(), 1..14))| {
        runtime.block_on(live(&redis, layout, steps));
    });
}
