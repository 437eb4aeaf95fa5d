//! Gateways that start before their stores do.

use std::process::Command;

use serde_json::json;

use crate::ledger_common::{
    World, becomes, patient, patient_redis, presets, readiness_becomes, set_status, verdict,
};
use crate::support::eventually;
use crate::support::gateway::{BINARY, Gateway};
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
    readiness_becomes(&gateway, 200, "ready", "coherent");
    assert_eq!(verdict(&gateway, &token), "403 user_banned");
    assert_eq!(gateway.metric("portcullis_outbox_pending"), Some(0.0));
}

#[test]
fn a_gateway_that_starts_before_its_database_looks_at_the_tables_once_they_are_there() {
    let world = World::new();
    let mut postgres = Postgres::start();
    let (section, name, unmade) = {
        let database = postgres.create_database();
        database.psql("CREATE TABLE users (user_id integer PRIMARY KEY, status text NOT NULL); INSERT INTO users VALUES (7, 'active'), (8, 'banned')");
        // Its own clients wait less: nothing is there to be waited for.
        (
            format!("{}timeout = \"1s\"\n", database.config_toml()),
            database.url().rsplit('/').next().unwrap().to_owned(),
            format!("[database]\nurl = \"{}\"\ntimeout = \"1s\"\n", postgres.create_database().url()),
        )
    };
    postgres.kill();
    let redis = Redis::start();
    let ledger = presets(&["native", "invalid-users"]);
    let [bare, alone, both] = [
        world.setup(&[&unmade, &presets(&["native"])]).toml(),
        world.setup(&[&section, &ledger]).toml(),
        world.setup(&[&patient_redis(&redis), &section, &ledger]).toml(),
    ];
    // At once: each waits a while for its database before it listens.
    let [bare, alone, both] = std::thread::scope(|scope| {
        let started = [bare, alone, both].map(|toml| scope.spawn(move || Gateway::start_unready(&toml)));
        started.map(|gateway| gateway.join().unwrap())
    });
    readiness_becomes(&alone, 503, "not_ready", "blind");
    // A Redis that was never filled proves nobody's innocence.
    readiness_becomes(&both, 503, "not_ready", "blind");
    let (good, banned) = (world.issuer.good("7"), world.issuer.good("8"));
    assert_eq!(verdict(&alone, &good), "503 ledger_unavailable");
    assert_eq!(verdict(&both, &good), "503 ledger_unavailable", "it is silent, and silence is ignorance");
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
    readiness_becomes(&both, 200, "ready", "coherent");

    // A database without our tables is no database to ask, until it has them.
    eventually("the operator is told what to do", || match bare.log() {
        log if log.contains("run `portcullis migrate`") => Ok(()),
        log => Err(log),
    });
    assert_eq!(verdict(&bare, &good), "503 ledger_unavailable");
    let migrated = Command::new(BINARY).arg("migrate").current_dir(bare.directory()).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    becomes(&bare, &good, "200");
    bare.ban("7");
    assert_eq!(verdict(&bare, &good), "403 user_banned");
}

#[test]
fn a_table_of_users_whose_columns_have_other_names_is_an_error_and_never_overlooked() {
    let world = World::new();
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE users (uid integer PRIMARY KEY, enabled boolean); INSERT INTO users VALUES (7, false)",
    );
    for (preset, lacks) in [
        ("active-flag-cache", "`user_id`, `is_active`"),
        ("user-cache", "`id`, `is_active`"),
        ("invalid-users", "`user_id`, `status`"),
    ] {
        let setup = world.setup(&[&database.config_toml(), &presets(&[preset])]);
        let said = String::from_utf8(Gateway::fails(&setup.toml()).stderr).unwrap();
        for words in [lacks, "`uid`, `enabled`", &format!("[ledger.preset.{preset}]")] {
            assert!(said.contains(words), "{preset}: {said}");
        }
    }
    let absent = "[ledger.preset.invalid-users]\ntable = \"members\"\n";
    let setup = world.setup(&[&database.config_toml(), &presets(&["invalid-users"]), absent]);
    let said = String::from_utf8(Gateway::fails(&setup.toml()).stderr).unwrap();
    assert!(said.contains("no table `members`"), "{said}");
    let named =
        "[ledger.preset.active-flag-cache]\ncolumns = { user_id = \"uid\", is_active = \"enabled\" }\n";
    let gateway = world.start(&[&database.config_toml(), &presets(&["active-flag-cache"]), named]);
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "403 user_deactivated");
}
