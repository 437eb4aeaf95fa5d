//! Stores that die, hang, refuse or talk nonsense: answers come from the next one, and "could not ask" is never "no".

use serde_json::json;

use crate::ledger_common::{
    World, becomes, lookups, metric, metric_becomes, patient, patient_redis, presets, readiness_becomes,
    set_status, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::Redis;

/// A rule that Redis alone can answer, beside the presets.
const ALONE: &str =
    "[[ledger.rules]]\nname = \"frozen\"\nguards = \"user\"\nkey = \"frozen:{sub}\"\ndeny_if = \"exists\"\n";

/// `[redis]` that is given up soon: a hang is what these tests are about.
fn hasty_redis(redis: &Redis) -> String {
    format!("{}timeout = \"250ms\"\n", redis.config_toml())
}

fn database_with_users() -> Database<'static> {
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL); \
         INSERT INTO users VALUES (7, 'active'), (8, 'banned')",
    );
    database
}

struct Stores {
    world: World,
    redis: Redis,
    database: Database<'static>,
}

impl Stores {
    fn new() -> Self {
        Self { world: World::new(), redis: Redis::start(), database: database_with_users() }
    }

    fn gateway(&self) -> Gateway {
        let all = presets(&["native", "token-blacklist", "invalid-users"]);
        self.world.start(&[&hasty_redis(&self.redis), &patient(&self.database), &all])
    }

    /// What must be true whatever Redis does: the database knows.
    fn the_database_answers(&self, gateway: &Gateway, revoked: &str) {
        for _ in 0..8 {
            assert_eq!(verdict(gateway, &self.world.issuer.good("7")), "200");
            assert_eq!(verdict(gateway, &self.world.issuer.good("8")), "403 user_banned");
            assert_eq!(verdict(gateway, &self.world.issuer.good("9")), "403 user_unknown");
            assert_eq!(verdict(gateway, revoked), "401 token_revoked");
        }
    }

    fn revoked(&self, gateway: &Gateway) -> String {
        let token = self.world.issuer.good("7");
        gateway.revoke_token(&token);
        assert_eq!(verdict(gateway, &token), "401 token_revoked");
        token
    }
}

#[test]
fn with_redis_killed_the_database_answers_and_redis_is_asked_again_when_it_is_back() {
    let mut stores = Stores::new();
    let gateway = stores.gateway();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let revoked = stores.revoked(&gateway);
    stores.redis.kill();
    stores.the_database_answers(&gateway, &revoked);
    readiness_becomes(&gateway, 200, "degraded", "database");
    metric_becomes(&gateway, "portcullis_store_up{store=\"redis\"}", 0.0);
    metric_becomes(&gateway, "portcullis_mode{mode=\"database\"}", 1.0);
    metric_becomes(&gateway, "portcullis_mode{mode=\"coherent\"}", 0.0);
    assert!(lookups(&gateway, "database", "deny") >= 1.0 && lookups(&gateway, "memory", "hit") >= 1.0);
    stores.redis.restart();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    stores.the_database_answers(&gateway, &revoked);
    metric_becomes(&gateway, "portcullis_mode{mode=\"coherent\"}", 1.0);
    assert!(metric(&gateway, "portcullis_mode_transitions_total{mode=\"coherent\"}") >= 1.0);
    let asked = lookups(&gateway, "redis", "absent") + lookups(&gateway, "redis", "clear");
    assert_eq!(verdict(&gateway, &stores.world.issuer.good("7")), "200");
    assert!(lookups(&gateway, "redis", "absent") + lookups(&gateway, "redis", "clear") > asked);
}

#[test]
fn a_redis_that_hangs_is_waited_for_a_few_times_and_then_left_alone() {
    let stores = Stores::new();
    let gateway = stores.gateway();
    let (token, before) = (stores.world.issuer.good("7"), lookups(&gateway, "redis", "error"));
    let outcomes = ["clear", "deny", "absent", "error"];
    let asked = || outcomes.map(|it| lookups(&gateway, "redis", it)).iter().sum::<f64>();
    let at_first = asked();
    assert_eq!(verdict(&gateway, &token), "200");
    // How many answers one request wants of Redis when memory holds none yet.
    let questions = asked() - at_first;
    let revoked = stores.revoked(&gateway);
    let hung = stores.redis.stop_cont();
    for _ in 0..40 {
        assert_eq!(verdict(&gateway, &token), "200");
    }
    stores.the_database_answers(&gateway, &revoked);
    let waits = (lookups(&gateway, "redis", "error") - before) / questions;
    assert!((1.0..=6.0).contains(&waits), "{waits} of 72 requests waited for a Redis that hangs");
    readiness_becomes(&gateway, 200, "degraded", "database");
    drop(hung);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    stores.the_database_answers(&gateway, &revoked);
}

#[test]
fn a_redis_that_refuses_in_any_way_is_an_outage_and_not_an_innocence() {
    let stores = Stores::new();
    let gateway = stores.gateway();
    let revoked = stores.revoked(&gateway);
    let redis = &stores.redis;
    redis.cmd(&["CLIENT", "PAUSE", "1500", "ALL"]);
    stores.the_database_answers(&gateway, &revoked);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for (refuse, allow) in [
        (
            vec!["ACL", "SETUSER", "default", "-get", "-exists"],
            vec!["ACL", "SETUSER", "default", "+get", "+exists"],
        ),
        (
            vec!["ACL", "SETUSER", "default", "resetkeys", "~other:*"],
            vec!["ACL", "SETUSER", "default", "allkeys"],
        ),
        (vec!["CONFIG", "SET", "maxmemory", "1"], vec!["CONFIG", "SET", "maxmemory", "0"]),
    ] {
        redis.cmd(&refuse);
        stores.the_database_answers(&gateway, &revoked);
        redis.cmd(&allow);
        readiness_becomes(&gateway, 200, "ready", "coherent");
        stores.the_database_answers(&gateway, &revoked);
    }
}

#[test]
fn a_redis_that_wants_a_password_all_of_a_sudden_is_an_outage() {
    let stores = Stores::new();
    let gateway = stores.gateway();
    let revoked = stores.revoked(&gateway);
    stores.redis.cmd(&["CONFIG", "SET", "requirepass", "a word nobody knows"]);
    // A connection that is let in stays so: a restart of the gateway, or of the network, is what meets the password.
    drop(stores.redis.try_cmd(&["CLIENT", "KILL", "TYPE", "normal"]));
    let late = stores.gateway();
    for gateway in [&gateway, &late] {
        stores.the_database_answers(gateway, &revoked);
    }
    readiness_becomes(&late, 200, "degraded", "database");
}

#[test]
fn a_key_of_the_wrong_type_is_an_outage_of_that_answer_alone() {
    let stores = Stores::new();
    let gateway = stores.gateway();
    let revoked = stores.revoked(&gateway);
    for key in ["invalid_user:7", "pc:user:7", "pc:standing:7", "pc:known:7"] {
        stores.redis.cmd(&["DEL", key]);
        stores.redis.cmd(&["LPUSH", key, "x"]);
    }
    stores.the_database_answers(&gateway, &revoked);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    stores.redis.cmd(&["DEL", "pc:user:7"]);
    stores.redis.cmd(&["SET", "pc:user:7", "this is no JSON"]);
    stores.the_database_answers(&gateway, &revoked);
}

#[test]
fn with_both_stores_dead_nobody_passes_unless_the_operator_said_so() {
    let world = World::new();
    let (mut redis, mut postgres) = (Redis::start(), Postgres::start());
    let section = format!("{}timeout = \"1s\"\n", postgres.create_database().config_toml());
    let routes =
        "[[routes]]\nname = \"open\"\npath = \"/open/{*rest}\"\nupstream = \"app\"\non_outage = \"allow\"\n";
    let lenient = "[ledger]\npresets = [\"native\"]\non_outage = \"allow\"\n\
        [[routes]]\nname = \"strict\"\npath = \"/strict/{*rest}\"\nupstream = \"app\"\non_outage = \"deny\"\n";
    let strict = world.start(&[&patient_redis(&redis), &section, &presets(&["native"]), routes]);
    let lenient = world.start(&[&patient_redis(&redis), &section, lenient]);
    let (token, banned) = (world.issuer.good("7"), world.issuer.good("8"));
    strict.ban("8");
    assert_eq!(verdict(&strict, &token), "200");
    redis.kill();
    postgres.kill();
    // What the database said a moment ago is believed for a second.
    becomes(&strict, &token, "503 ledger_unavailable");
    let denied = strict.get("/x", Some(&token));
    let wait = denied.header("retry-after").expect("Retry-After").parse::<u32>().expect("seconds");
    assert!(wait >= 1);
    for gateway in [&strict, &lenient] {
        readiness_becomes(gateway, 503, "not_ready", "blind");
        metric_becomes(gateway, "portcullis_store_up{store=\"database\"}", 0.0);
        metric_becomes(gateway, "portcullis_mode{mode=\"blind\"}", 1.0);
    }
    assert_eq!(set_status(&strict, "7", "banned").0, 503, "nothing is promised that is not written");
    world.origin.forget();
    assert_eq!(verdict(&strict, &banned), "503 ledger_unavailable");
    assert_eq!(lenient.get("/strict/x", Some(&token)).status, 503);
    assert_eq!(strict.get("/x", Some("no.such.token")).status, 401, "what is no token needs no ledger");
    world.origin.saw_nothing();
    assert_eq!(strict.get("/open/x", Some(&token)).status, 200);
    assert_eq!(verdict(&lenient, &token), "200");
    let passed = |route: &str| {
        format!(
            "portcullis_verdicts_total{{reason=\"ledger_unavailable\",route=\"{route}\",verdict=\"allow\"}}"
        )
    };
    assert_eq!(metric(&strict, &passed("open")), 1.0);
    assert_eq!(metric(&lenient, &passed("all")), 1.0);
    let told = |line: &serde_json::Value| {
        (line["target"] == "access")
            .then(|| (line["verdict"].clone(), line["status"].clone(), line["reason"].clone()))
    };
    let passed = (json!("allow"), json!(200), json!("ledger_unavailable"));
    eventually("the log says that it passed unasked", || {
        let lines: Vec<_> = lenient.log_lines().iter().filter_map(told).collect();
        if lines.contains(&passed) { Ok(()) } else { Err(lines) }
    });
    redis.restart();
    postgres.restart();
    for gateway in [&strict, &lenient] {
        readiness_becomes(gateway, 200, "ready", "coherent");
        assert_eq!(verdict(gateway, &banned), "403 user_banned");
        assert_eq!(verdict(gateway, &token), "200");
    }
}

#[test]
fn a_rule_that_redis_alone_can_answer_is_unavailable_without_redis_where_nothing_is_copied() {
    let world = World::new();
    let mut redis = Redis::start();
    let ledger = format!("{}adopt = false\n{ALONE}", presets(&["native"]));
    let gateway = world.start(&[&patient_redis(&redis), &ledger]);
    let token = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &token), "200");
    redis.kill();
    becomes(&gateway, &token, "503 ledger_unavailable");
    gateway.ban("8");
    assert_eq!(
        verdict(&gateway, &world.issuer.good("8")),
        "403 user_banned",
        "a known ban outweighs an outage"
    );
    redis.restart();
    becomes(&gateway, &token, "200");
    redis.cmd(&["SET", "frozen:7", "1"]);
    becomes(&gateway, &token, "403 frozen");
}

#[test]
fn with_postgres_dead_redis_alone_goes_on() {
    let world = World::new();
    let (redis, mut postgres) = (Redis::start(), Postgres::start());
    let section = format!("{}timeout = \"1s\"\n", postgres.create_database().config_toml());
    let gateway = world.start(&[
        &patient_redis(&redis),
        &section,
        &format!("{}adopt = false\n{ALONE}", presets(&["native"])),
    ]);
    let (token, banned, revoked) = (world.issuer.good("7"), world.issuer.good("8"), world.issuer.good("7"));
    gateway.ban("8");
    gateway.revoke_token(&revoked);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    postgres.kill();
    readiness_becomes(&gateway, 200, "degraded", "coherent");
    assert_eq!(verdict(&gateway, &token), "200");
    assert_eq!(verdict(&gateway, &world.issuer.good("9")), "200", "nobody has ever asked about this user");
    assert_eq!(verdict(&gateway, &banned), "403 user_banned");
    assert_eq!(verdict(&gateway, &revoked), "401 token_revoked");
    assert_eq!(set_status(&gateway, "7", "banned").0, 503, "nothing is promised that is not written");
    assert_eq!(verdict(&gateway, &token), "200", "and nothing is half-done");
    redis.cmd(&["SET", "frozen:7", "1"]);
    becomes(&gateway, &token, "403 frozen");
    redis.cmd(&["DEL", "frozen:7"]);
    // Now there is nobody left who knows.
    redis.cmd(&["FLUSHALL"]);
    becomes(&gateway, &banned, "503 ledger_unavailable");
    becomes(&gateway, &token, "503 ledger_unavailable");
    readiness_becomes(&gateway, 503, "not_ready", "blind");
    postgres.restart();
    becomes(&gateway, &token, "200");
    assert_eq!(verdict(&gateway, &banned), "403 user_banned");
    readiness_becomes(&gateway, 200, "ready", "coherent");
    metric_becomes(&gateway, "portcullis_store_up{store=\"database\"}", 1.0);
}
