//! Edited behind everyone's back, where services keep copies of rows in Redis: a stale copy keeps nobody out and lets
//! nobody in, with its TTL of minutes or without; and what only Redis knew is there again after a flush.

use crate::feed_tables::{migrate, soon};
use crate::ledger_common::{
    World, becomes, patient, patient_redis, presets, readiness_becomes, text, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::Redis;

const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, id int GENERATED ALWAYS AS (user_id) STORED, \
                     email text, username text, phone_number text, is_active boolean NOT NULL DEFAULT true); \
                     INSERT INTO users (user_id, email) VALUES (7, 'seven@example.com'), (8, 'eight@example.com')";

struct Scene {
    world: World,
    redis: Redis,
    database: Database<'static>,
    gateway: Gateway,
}

impl Scene {
    fn watched(preset: &str) -> Self {
        let (world, redis) = (World::new(), Redis::start());
        let database = Postgres::shared().create_database();
        database.psql(USERS);
        let sections = [patient_redis(&redis), patient(&database), presets(&[preset])];
        let setup = world.setup(&sections.each_ref().map(String::as_str));
        assert!(migrate(&setup, &["--watch-users"]).contains("Watched: "));
        let gateway = setup.start();
        Self { world, redis, database, gateway }
    }

    fn set(&self, active: bool) {
        self.database.psql(&format!("UPDATE users SET is_active = {active} WHERE user_id = 7"));
    }
}

/// `key` is kept as `yes` and `no` by the service, and in none of these steps by anybody who knows better.
fn copies_follow_the_row(preset: &str, key: &str, yes: &str, no: &str) {
    let scene = Scene::watched(preset);
    let Scene { world, redis, gateway, .. } = &scene;
    let token = world.issuer.good("7");
    let copy = |value: &str| redis.cmd(&["SET", key, value, "EX", "300"]);
    copy(yes);
    becomes(gateway, &token, "200");
    for _ in 0..2 {
        // The row alone changes, and the copy has minutes to live.
        scene.set(false);
        soon(gateway, &token, "403 user_deactivated");
        scene.set(true);
        soon(gateway, &token, "200");
        copy(yes);
    }
    // A service that missed the activation keeps its user out, but not for the five minutes of its copy.
    copy(no);
    eventually("the stale copy is taken away", || match text(redis, key) {
        Some(stale) if stale == no => Err(stale),
        _ => Ok(()),
    });
    soon(gateway, &token, "200");
    // And one that missed the ban lets nobody in.
    scene.set(false);
    soon(gateway, &token, "403 user_deactivated");
    copy(yes);
    eventually("the stale copy is taken away", || match text(redis, key) {
        Some(stale) if stale == yes => Err(stale),
        _ => Ok(()),
    });
    soon(gateway, &token, "403 user_deactivated");
}

#[test]
fn a_flag_that_is_cached_for_minutes_follows_the_row_within_a_moment() {
    copies_follow_the_row("active-flag-cache", "user:7:active", "true", "false");
}

#[test]
fn a_user_who_is_cached_for_minutes_follows_the_row_within_a_moment() {
    let user = |active: bool| format!("{{\"id\":7,\"email\":\"seven@example.com\",\"is_active\":{active}}}");
    copies_follow_the_row("user-cache", "user:id:7", &user(true), &user(false));
}

#[test]
fn what_services_keep_in_redis_alone_is_there_again_after_a_flush_and_denies_all_the_while() {
    const RULE: &str = "[[ledger.rules]]\nname = \"frozen\"\nguards = \"user\"\nkey = \"frozen:{sub}\"\ndeny_if = \"exists\"\n";
    let (world, redis) = (World::new(), Redis::start());
    let database = Postgres::shared().create_database();
    let ledger = format!("{}{RULE}", presets(&["native"]));
    let gateway = world.start(&[&patient(&database), &patient_redis(&redis), &ledger]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    redis.cmd(&["SET", "frozen:7", "1", "EX", "600"]);
    let token = world.issuer.good("7");
    becomes(&gateway, &token, "403 frozen");
    eventually("it is copied", || match database.psql("SELECT name FROM portcullis_adopted").as_str() {
        "frozen:7" => Ok(()),
        other => Err(other.to_owned()),
    });
    for _ in 0..5 {
        redis.cmd(&["FLUSHALL"]);
        let refused = || assert_ne!(verdict(&gateway, &token), "200");
        eventually("it is back", || {
            refused();
            text(&redis, "frozen:7").ok_or("no key")
        });
        becomes(&gateway, &token, "403 frozen");
    }
}
