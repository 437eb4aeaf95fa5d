//! Edited behind everyone's back, on the side of Redis: services' own writes win or lose by the rules, and what only
//! Redis knows is not lost with it.

use serde_json::Value;

use crate::ledger_common::{
    World, becomes, call, metric, metric_becomes, patient, patient_redis, presets, readiness_becomes, text,
    ttl, verdict,
};
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::redis::{Redis, Reply};

const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL DEFAULT 'active'); \
                     INSERT INTO users (user_id) VALUES (7), (8)";

/// Rules of one's own that only Redis can answer.
const RULES: &str = "[ledger]\npresets = [\"native\"]\n\
    [[ledger.rules]]\nname = \"frozen\"\nguards = \"user\"\nkey = \"frozen:{sub}\"\ndeny_if = \"exists\"\n\
    [[ledger.rules]]\nname = \"flagged\"\nguards = \"user\"\nkey = \"flag:{sub}\"\ndeny_if = { equals = [\"off\"] }\n";

fn settled(what: &str, redis: &Redis, key: &str, expected: Option<&str>) {
    eventually(what, || match text(redis, key) {
        found if found.as_deref() == expected => Ok(()),
        other => Err(other),
    });
}

#[test]
fn an_entry_deleted_by_hand_is_written_again_while_the_row_denies() {
    let (world, redis) = (World::new(), Redis::start());
    let database = Postgres::shared().create_database();
    database.psql(USERS);
    let gateway = world.start(&[&patient(&database), &patient_redis(&redis), &presets(&["invalid-users"])]);
    gateway.ban("7");
    assert_eq!(text(&redis, "invalid_user:7").as_deref(), Some("banned"));
    for _ in 0..2 {
        redis.cmd(&["DEL", "invalid_user:7"]);
        settled("the entry is back", &redis, "invalid_user:7", Some("banned"));
    }
    redis.cmd(&["PEXPIRE", "invalid_user:7", "1"]);
    eventually("the entry is back with its whole life", || match ttl(&redis, "invalid_user:7") {
        left if left > 60 => Ok(()),
        left => Err(left),
    });
    assert!(metric(&gateway, "portcullis_repairs_total{kind=\"restrictive\"}") >= 3.0);
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "403 user_banned");
    gateway.activate("7");
    assert_eq!(text(&redis, "invalid_user:7"), None);
    // A service that keeps no row of it: its entry stands for its TTL.
    redis.cmd(&["SET", "invalid_user:8", "1", "PX", "3000"]);
    becomes(&gateway, &world.issuer.good("8"), "403 user_banned");
    let pushed = metric(&gateway, "portcullis_feed_changes_total{source=\"redis\"}");
    eventually("it has run out", || match text(&redis, "invalid_user:8") {
        None => Ok(()),
        Some(_) if metric(&gateway, "portcullis_repairs_total{kind=\"permissive\"}") > 0.0 => {
            panic!("it was repaired")
        }
        some => Err(some),
    });
    assert!(pushed > 0.0);
    becomes(&gateway, &world.issuer.good("8"), "200");
}

#[test]
fn a_ban_typed_into_the_table_is_put_into_the_set_that_services_read() {
    let (world, redis) = (World::new(), Redis::start());
    let database = Postgres::shared().create_database();
    database.psql("CREATE TABLE users (user_id int PRIMARY KEY, status text, status_updated_at timestamptz)");
    database.psql("INSERT INTO users VALUES (7, 'active')");
    let ledger = format!("{}[ledger.preset.invalid-users]\nlayout = \"set\"\n", presets(&["invalid-users"]));
    let gateway = world.start(&[&patient(&database), &patient_redis(&redis), &ledger]);
    let becomes_member = |expected: i64| {
        eventually("the set follows the row", || match redis.cmd(&["SISMEMBER", "invalid_users", "7"]) {
            Reply::Integer(it) if it == expected => Ok(()),
            other => Err(other),
        });
    };
    database.psql("UPDATE users SET status = 'banned', status_updated_at = now()");
    becomes_member(1);
    becomes(&gateway, &world.issuer.good("7"), "403 user_banned");
    database.psql("UPDATE users SET status = 'active', status_updated_at = now()");
    becomes_member(0);
    becomes(&gateway, &world.issuer.good("7"), "200");
}

#[test]
fn entries_that_services_keep_in_redis_alone_outlive_it() {
    let (world, mut redis) = (World::new(), Redis::start());
    let database = Postgres::shared().create_database();
    redis.cmd(&["SET", "frozen:before", "1"]);
    let gateway = world.start(&[&patient(&database), &patient_redis(&redis), RULES]);
    redis.cmd(&["HSET", "pc:watermark", "1", "1:x"]);
    redis.cmd(&["SET", "frozen:7", "1", "EX", "600"]);
    redis.cmd(&["SET", "flag:8", "off"]);
    redis.cmd(&["SET", "flag:9", "on"]);
    redis.cmd(&["SET", "frozen:10", "1"]);
    redis.cmd(&["SET", "other:7", "1"]);
    redis.cmd(&["SADD", "frozen:set", "1"]);
    let copies = || database.psql("SELECT string_agg(name, ',' ORDER BY name) FROM portcullis_adopted");
    eventually("all are copied", || match copies().as_str() {
        "flag:8,flag:9,frozen:10,frozen:7,frozen:before" => Ok(()),
        other => Err(other.to_owned()),
    });
    redis.cmd(&["DEL", "frozen:10"]);
    eventually("what is lifted is lifted", || match copies().as_str() {
        "flag:8,flag:9,frozen:7,frozen:before" => Ok(()),
        other => Err(other.to_owned()),
    });
    let life = database.psql(
        "SELECT expires_at - extract(epoch FROM now()) * 1000 BETWEEN 500000 AND 601000 FROM portcullis_adopted \
         WHERE name = 'frozen:7'",
    );
    assert_eq!(life, "t");
    eventually("the list is complete", || match gateway.log().contains("are copied as they change") {
        true => Ok(()),
        false => Err(()),
    });
    redis.kill();
    readiness_becomes(&gateway, 200, "degraded", "database");
    let verdict_of = |subject: &str| verdict(&gateway, &world.issuer.good(subject));
    assert_eq!(verdict_of("7"), "403 frozen");
    assert_eq!(verdict_of("before"), "403 frozen");
    assert_eq!(verdict_of("8"), "403 flagged");
    assert_eq!(verdict_of("9"), "200");
    assert_eq!(verdict_of("10"), "200");
    assert_eq!(call(&gateway, "GET", "/v1/stats", &Value::Null).0, 200);
    // A gateway that has never seen this Redis cannot know what it held.
    let newcomer = world.start(&[&patient(&database), &patient_redis(&redis), RULES]);
    becomes(&newcomer, &world.issuer.good("7"), "403 frozen");
    assert_eq!(verdict(&newcomer, &world.issuer.good("11")), "503 ledger_unavailable");
    redis.restart();
    becomes(&gateway, &world.issuer.good("11"), "200");
    metric_becomes(&gateway, "portcullis_store_up{store=\"redis\"}", 1.0);
    assert_eq!(copies(), "flag:8,flag:9,frozen:7,frozen:before", "an empty Redis deletes nothing");
}
