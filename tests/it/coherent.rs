//! From outside: memory answers without asking, Redis is obeyed at once whoever writes to it, and what is shown is so.

use std::time::{Duration, Instant};

use crate::ledger_common::{
    World, becomes, lookups, metric, patient_redis, presets, readiness_becomes, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::redis::{Redis, Reply};

/// `[ledger] max_staleness`, as it is unless told otherwise.
const STALENESS: Duration = Duration::from_millis(500);

const ALL: [&str; 3] = ["native", "token-blacklist", "invalid-users"];

/// How often Redis has run a command, for anybody.
pub fn calls(redis: &Redis, command: &str) -> u64 {
    let Reply::Text(info) = redis.cmd(&["INFO", "commandstats"]) else { panic!("no text") };
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Asks until the answer comes from memory alone.
fn warm(gateway: &Gateway, redis: &Redis, token: &str) {
    eventually("nothing is asked any more", || {
        let before = calls(redis, "pttl");
        assert_eq!(verdict(gateway, token), "200");
        if calls(redis, "pttl") == before { Ok(()) } else { Err(before) }
    });
}

#[test]
fn a_hot_request_asks_redis_for_nothing() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&ALL)]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let tokens: Vec<String> = (0..20).map(|user| world.issuer.good(&user.to_string())).collect();
    tokens.iter().for_each(|token| warm(&gateway, &redis, token));
    let asked = || ["get", "exists", "hget", "pttl", "sismember"].map(|command| calls(&redis, command));
    let (before, hits) = (asked(), lookups(&gateway, "memory", "hit"));
    for _ in 0..20 {
        tokens.iter().for_each(|token| assert_eq!(verdict(&gateway, token), "200"));
    }
    let after = asked();
    // Fences go on; what requests would ask does not.
    for (command, (before, after)) in
        ["get", "pttl"].iter().zip([(before[0], after[0]), (before[3], after[3])])
    {
        assert_eq!(after, before, "{command}");
    }
    assert!(lookups(&gateway, "memory", "hit") >= hits + 400.0);
    assert!(metric(&gateway, "portcullis_push_lag_seconds_count") >= 1.0);
    eventually("what is kept is shown", || match metric(&gateway, "portcullis_memory_answers") {
        kept if kept >= 20.0 => Ok(()),
        kept => Err(kept),
    });
}

#[test]
fn a_ban_typed_into_redis_counts_on_every_gateway_although_memory_knew_better() {
    let (world, redis) = (World::new(), Redis::start());
    let sections = [patient_redis(&redis), presets(&["invalid-users"])];
    let gateways = [(); 2].map(|()| world.start(&sections.each_ref().map(String::as_str)));
    let token = world.issuer.good("7");
    for gateway in &gateways {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
    for _ in 0..20 {
        for gateway in &gateways {
            becomes(gateway, &token, "200");
            assert_eq!(verdict(gateway, &token), "200");
        }
        redis.cmd(&["SET", "invalid_user:7", "banned", "EX", "60"]);
        let written = Instant::now();
        for gateway in &gateways {
            eventually("the ban counts", || {
                let asked = written.elapsed();
                let found = verdict(gateway, &token);
                assert!(found != "200" || asked < STALENESS, "passed {asked:?} after the ban");
                if found == "403 user_banned" { Ok(()) } else { Err(found) }
            });
            assert_eq!(verdict(gateway, &token), "403 user_banned");
        }
        redis.cmd(&["DEL", "invalid_user:7"]);
    }
    for gateway in &gateways {
        assert!(metric(gateway, "portcullis_pushes_total") >= 40.0);
    }
}

#[test]
fn where_redis_pushes_nothing_the_mode_says_so_and_every_answer_is_right() {
    let (world, redis) = (World::new(), Redis::start());
    redis.cmd(&["ACL", "SETUSER", "default", "-client|tracking"]);
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["invalid-users"])]);
    readiness_becomes(&gateway, 200, "ready", "direct");
    let token = world.issuer.good("7");
    for _ in 0..5 {
        assert_eq!(verdict(&gateway, &token), "200");
        redis.cmd(&["SET", "invalid_user:7", "banned"]);
        assert_eq!(verdict(&gateway, &token), "403 user_banned");
        redis.cmd(&["DEL", "invalid_user:7"]);
    }
    assert!(gateway.log().contains("CLIENT TRACKING is refused (NOPERM)"));
    assert_eq!(metric(&gateway, "portcullis_mode{mode=\"coherent\"}"), 0.0);
    assert_eq!(metric(&gateway, "portcullis_mode{mode=\"direct\"}"), 1.0);
}

#[test]
fn a_heartbeat_as_long_as_the_patience_is_refused() {
    let world = World::new();
    let settings = "[ledger]\nmax_staleness = \"200ms\"\nheartbeat = \"200ms\"\n";
    let output = Gateway::fails(&world.setup(&[settings]).toml());
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("`heartbeat` must be shorter than `max_staleness`"), "{said}");
}
