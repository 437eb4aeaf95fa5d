//! Gateways that start before their stores do.

use serde_json::json;

use crate::ledger_common::{
    World, becomes, patient, patient_redis, presets, readiness_becomes, set_status, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;

#[test]
fn a_gateway_that_starts_before_redis_asks_the_database_until_redis_is_there() {
    let world = World::new();
    let mut redis = Redis::start();
    let database = Postgres::shared().create_database();
    redis.kill();
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), &presets(&["native"])]);
    readiness_becomes(&gateway, 200, "degraded", "database");
    let token = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &token), "200");
    let (status, answer) = set_status(&gateway, "7", "banned");
    assert_eq!((status, &answer["redis"]), (202, &json!("pending")));
    assert_eq!(verdict(&gateway, &token), "403 user_banned");
    redis.restart();
    readiness_becomes(&gateway, 200, "ready", "direct");
    assert_eq!(verdict(&gateway, &token), "403 user_banned");
    assert_eq!(gateway.metric("portcullis_outbox_pending"), Some(0.0));
}

#[test]
fn a_gateway_that_starts_before_its_database_looks_at_the_tables_once_they_are_there() {
    let world = World::new();
    let mut postgres = Postgres::start();
    let (section, name) = {
        let database = postgres.create_database();
        database.psql("CREATE TABLE users (user_id integer PRIMARY KEY, status text NOT NULL); INSERT INTO users VALUES (7, 'active'), (8, 'banned')");
        // Its own clients wait less: nothing is there to be waited for.
        (
            format!("{}timeout = \"1s\"\n", database.config_toml()),
            database.url().rsplit('/').next().unwrap().to_owned(),
        )
    };
    postgres.kill();
    let redis = Redis::start();
    let ledger = presets(&["native", "invalid-users"]);
    let [alone, both] = [
        world.setup(&[&section, &ledger]).toml(),
        world.setup(&[&patient_redis(&redis), &section, &ledger]).toml(),
    ];
    // At once: each waits a while for its database before it listens.
    let (alone, both) = std::thread::scope(|scope| {
        let alone = scope.spawn(|| Gateway::start_unready(&alone));
        let both = Gateway::start(&both);
        (alone.join().unwrap(), both)
    });
    readiness_becomes(&alone, 503, "not_ready", "blind");
    readiness_becomes(&both, 200, "degraded", "direct");
    let (good, banned) = (world.issuer.good("7"), world.issuer.good("8"));
    assert_eq!(verdict(&alone, &good), "503 ledger_unavailable");
    assert_eq!(verdict(&both, &good), "503 ledger_unavailable", "Redis is silent, and silence is ignorance");
    redis.cmd(&["SET", "invalid_user:8", "banned"]);
    assert_eq!(verdict(&both, &banned), "403 user_banned", "what Redis knows needs no database");
    redis.cmd(&["DEL", "invalid_user:8"]);
    world.origin.saw_nothing();

    postgres.restart();
    for gateway in [&alone, &both] {
        becomes(gateway, &good, "200");
        becomes(gateway, &banned, "403 user_banned");
        // The control door writes the real table by now, or says that it cannot.
        eventually("the ban is written", || match set_status(gateway, "7", "banned") {
            (200, _) => Ok(()),
            other => Err(other),
        });
        assert_eq!(verdict(gateway, &good), "403 user_banned");
        assert_eq!(set_status(gateway, "7", "active").0, 200);
        assert_eq!(verdict(gateway, &good), "200");
    }
    assert_eq!(postgres.psql_of(&name, "SELECT status FROM users WHERE user_id = 7"), "active");
    readiness_becomes(&alone, 200, "ready", "database");
    readiness_becomes(&both, 200, "ready", "direct");
}
