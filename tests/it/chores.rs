//! House-keeping seen from outside: what is counted, and what is warned of.

use serde_json::{Value, json};

use crate::ledger_common::{World, call, metric_becomes, patient_redis, presets, readiness_becomes, verdict};
use crate::support::eventually;
use crate::support::redis::{Redis, Reply};

#[test]
fn statistics_count_rows_keys_and_memory_and_never_use_keys() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["native", "token-blacklist"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for user in ["1", "2", "3"] {
        gateway.revoke_token(&world.issuer.good(user));
    }
    gateway.ban("4");
    redis.cmd(&["SET", "refresh_token:abc", "{}"]);
    assert_eq!(verdict(&gateway, &world.issuer.good("5")), "200");
    let (status, stats) = call(&gateway, "GET", "/v1/stats", &Value::Null);
    assert_eq!(status, 200);
    assert_eq!(
        (&stats["revoked_tokens"], &stats["users"]),
        (&json!(6), &json!({ "banned": 1 })),
        "by hash and by id"
    );
    let keys = json!({
        "blacklisted_tokens": 3, "refresh_tokens": 1, "active_sessions": 0, "cached_profiles": 0,
        "complete": true, "age_seconds": 0,
    });
    assert_eq!((&stats["redis"], &stats["mode"]), (&keys, &json!("coherent")));
    assert!(stats["memory"]["misses"].is_u64() && stats["memory"]["hit_rate"].is_number(), "{stats}");
    redis.cmd(&["SET", "refresh_token:def", "{}"]);
    assert_eq!(
        call(&gateway, "GET", "/v1/stats", &Value::Null).1["redis"]["refresh_tokens"],
        1,
        "counted once a minute"
    );
    let commands = format!("{:?}", redis.cmd(&["INFO", "commandstats"]));
    assert!(commands.contains("cmdstat_scan:") && !commands.contains("cmdstat_keys:"), "{commands}");
    let printed = String::from_utf8(gateway.cli(&["stats"]).stdout).unwrap();
    assert!(printed.contains("blacklisted_tokens: 3") && printed.contains("mode: coherent"), "{printed}");
}

#[test]
fn statistics_without_redis_say_so() {
    let (world, mut redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["native"])]);
    redis.kill();
    readiness_becomes(&gateway, 200, "degraded", "database");
    let (status, stats) = call(&gateway, "GET", "/v1/stats", &Value::Null);
    assert_eq!((status, &stats["redis"], &stats["mode"]), (200, &Value::Null, &json!("database")));
}

#[test]
fn a_redis_that_evicts_keys_is_warned_of_at_start() {
    let (world, redis) = (World::new(), Redis::start_with(&["--maxmemory-policy", "volatile-lru"]));
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["native"])]);
    eventually("the log warns of it", || {
        let log = gateway.log();
        if log.contains("This Redis evicts keys") && log.contains("volatile-lru") { Ok(()) } else { Err(log) }
    });
    readiness_becomes(&gateway, 200, "ready", "coherent");
}

#[test]
fn expired_tokens_leave_the_sets_of_the_session_store_when_an_operator_prunes() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["session-store"])]);
    let live = world.issuer.good("7");
    let dead = world.issuer.token("7", |claims| claims["exp"] = json!(1_600_000_000));
    redis.cmd(&["SADD", "user:tokens:7", &live, &dead, "no token"]);
    redis.cmd(&["SET", "session:7", "{}"]);
    assert_eq!(call(&gateway, "POST", "/v1/prune", &Value::Null).0, 200);
    eventually("the dead one is gone", || match redis.cmd(&["SCARD", "user:tokens:7"]) {
        Reply::Integer(2) => Ok(()),
        other => Err(other),
    });
    assert_eq!(redis.cmd(&["SISMEMBER", "user:tokens:7", &live]), Reply::Integer(1));
    metric_becomes(&gateway, "portcullis_swept_tokens_total", 1.0);
    assert_eq!(call(&gateway, "GET", "/v1/stats", &Value::Null).1["redis"]["active_sessions"], 1);
}
