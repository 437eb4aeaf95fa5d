//! A Redis that has lost what it was told: emptied, restarted, put back to an older copy, swapped, or another server
//! altogether. Whoever is banned stays banned in every instant, and Redis is whole again after a while.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::ledger_common::{
    Pair, World, becomes, metric, metric_becomes, patient, patient_redis, presets, readiness_becomes,
    set_status, text, verdict,
};
use crate::support::gateway::Gateway;
use crate::support::postgres::Postgres;
use crate::support::redis::{Redis, Reply};
use crate::support::relay::Relay;
use crate::support::{eventually, now};

const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL, last_security_action timestamptz); \
     INSERT INTO users SELECT id, 'active' FROM generate_series(1, 40) AS id; \
     UPDATE users SET status = 'deleted' WHERE user_id = 9";
const ALL: [&str; 3] = ["native", "token-blacklist", "invalid-users"];

/// Somebody of each kind that must not pass, and one who must.
struct People {
    banned: String,
    /// Typed into the table.
    deleted: String,
    revoked: String,
    logged_out: String,
    clean: String,
}

impl People {
    fn of(pair: &Pair) -> Self {
        let [banned, deleted, revoked, logged_out, clean] =
            ["8", "9", "7", "10", "11"].map(|id| pair.world.issuer.good(id));
        pair.here.ban("8");
        pair.here.revoke_token(&revoked);
        let path = "/v1/users/10/logout";
        assert_eq!(pair.here.control("POST", path, &serde_json::Value::Null).status, 200);
        Self { banned, deleted, revoked, logged_out, clean }
    }

    fn are_judged_well(&self, gateway: &Gateway) {
        assert_eq!(verdict(gateway, &self.banned), "403 user_banned");
        assert_eq!(verdict(gateway, &self.deleted), "403 user_deleted");
        assert_eq!(verdict(gateway, &self.revoked), "401 token_revoked");
        assert_eq!(verdict(gateway, &self.logged_out), "401 issued_before_cutoff");
        assert_eq!(verdict(gateway, &self.clean), "200");
    }
}

/// Asks all the while from several threads, and counts what must never be.
fn under_load(pair: &Pair, people: &People, happens: impl FnOnce()) {
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for gateway in pair.gateways() {
            for token in [&people.banned, &people.deleted, &people.revoked, &people.logged_out] {
                let (done, asked) = (&done, &asked);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let said = gateway.get("/x", Some(token)).status;
                        assert!(said == 401 || said == 403 || said == 503, "{said}");
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let said = verdict(gateway, &people.clean);
                    assert!(said == "200" || said.starts_with("503"), "{said}");
                }
            });
        }
        let _ended = Ended(&done);
        happens();
        let so_far = asked.load(Ordering::Relaxed);
        eventually("everybody has asked once more", || match asked.load(Ordering::Relaxed) {
            it if it > so_far + 16 => Ok(()),
            it => Err(it),
        });
    });
}

/// Also where the scene fails: else those who ask would ask for ever.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_whole_again(pair: &Pair, people: &People) {
    for gateway in pair.gateways() {
        readiness_becomes(gateway, 200, "ready", "coherent");
        people.are_judged_well(gateway);
    }
    // What nobody is told of (SWAPDB) is found out by the next fence: all may look well for a moment.
    eventually("Redis holds what the database says", || {
        let of = |key: &str| text(&pair.redis, key);
        let listed = [of("invalid_user:8"), of("invalid_user:9")];
        let revoked = of(&format!("blacklist:{}", people.revoked));
        let whole = listed.each_ref().map(Option::as_deref) == [Some("banned"), Some("deleted")];
        let whole = whole && revoked.is_some() && of("pc:standing:10").is_some();
        if whole { Ok(()) } else { Err(listed) }
    });
    assert_eq!(text(&pair.redis, "invalid_user:11"), None);
}

#[test]
fn flushed_under_load_nobody_who_is_banned_passes_and_redis_is_filled_again() {
    let pair = Pair::start(USERS, &ALL);
    let people = People::of(&pair);
    is_whole_again(&pair, &people);
    under_load(&pair, &people, || {
        for round in 0..12 {
            pair.redis.cmd(if round % 2 == 0 { &["FLUSHALL"] } else { &["FLUSHDB", "ASYNC"] });
            // Sometimes in the middle of being filled, sometimes after it.
            crate::support::pause(std::time::Duration::from_millis(round * 7));
        }
        is_whole_again(&pair, &people);
    });
    let rows = pair.gateways().map(|gateway| metric(gateway, "portcullis_reconcile_rows_total"));
    assert!(rows.iter().sum::<f64>() >= 4.0, "{rows:?}");
    for gateway in pair.gateways() {
        assert_eq!(metric(gateway, "portcullis_reconcile_running"), 0.0);
    }
}

#[test]
fn restarted_empty_it_is_filled_again() {
    let mut pair = Pair::start(USERS, &ALL);
    let people = People::of(&pair);
    pair.redis.kill();
    for gateway in pair.gateways() {
        people.are_judged_well(gateway);
    }
    pair.redis.restart();
    is_whole_again(&pair, &people);
}

#[test]
fn restarted_from_a_copy_that_is_older_than_a_ban_it_is_not_believed_until_it_is_filled() {
    let mut pair = Pair::start(USERS, &ALL);
    set_status(&pair.here, "11", "banned");
    set_status(&pair.here, "12", "banned");
    // As a service does it, and later takes it back.
    pair.database.psql("UPDATE users SET status = 'banned' WHERE user_id = 13");
    pair.redis.cmd(&["SET", "invalid_user:13", "banned"]);
    pair.redis.cmd(&["SAVE"]);
    // What the copy will not know: bans given, and two lifted.
    let people = People::of(&pair);
    set_status(&pair.here, "11", "active");
    pair.database.psql("UPDATE users SET status = 'active' WHERE user_id = 13");
    pair.redis.cmd(&["DEL", "invalid_user:13"]);
    is_whole_again(&pair, &people);
    pair.redis.restart_from_copy();
    for gateway in pair.gateways() {
        people.are_judged_well(gateway);
    }
    is_whole_again(&pair, &people);
    for gateway in pair.gateways() {
        assert_eq!(verdict(gateway, &pair.world.issuer.good("12")), "403 user_banned");
        assert_eq!(verdict(gateway, &pair.world.issuer.good("13")), "200", "lifted by the service");
    }
}

#[test]
fn put_back_to_an_older_copy_while_it_runs_it_is_found_out_by_the_next_question() {
    let pair = Pair::start(USERS, &ALL);
    pair.redis.cmd(&["SAVE"]);
    let people = People::of(&pair);
    is_whole_again(&pair, &people);
    under_load(&pair, &people, || {
        // The copy on disk is older than the bans, and it is the same process afterwards.
        pair.redis.cmd(&["DEBUG", "RELOAD", "NOSAVE"]);
        is_whole_again(&pair, &people);
    });
}

#[test]
fn swapped_for_another_database_it_is_found_out_by_the_next_question() {
    let pair = Pair::start(USERS, &ALL);
    let people = People::of(&pair);
    is_whole_again(&pair, &people);
    under_load(&pair, &people, || {
        pair.redis.cmd(&["SWAPDB", "0", "1"]);
        is_whole_again(&pair, &people);
    });
}

#[test]
fn a_replica_that_lags_and_becomes_the_server_is_not_believed_until_it_is_filled() {
    let (world, first, second) = (World::new(), Redis::start(), Redis::start());
    let relay = Relay::to(first.port());
    let database = Postgres::shared().create_database();
    database.psql(USERS);
    let section = format!("[redis]\nurl = \"redis://127.0.0.1:{}/0\"\ntimeout = \"5s\"\n", relay.port());
    let sections = [section, patient(&database), presets(&ALL)];
    let setup = world.setup(&sections.each_ref().map(String::as_str));
    let pair = Pair { world, redis: second, database, here: setup.start(), there: setup.start() };
    let port = first.port().to_string();
    pair.redis.cmd(&["REPLICAOF", "127.0.0.1", &port]);
    eventually("the replica has caught up", || match pair.redis.cmd(&["INFO", "replication"]) {
        Reply::Text(text) if text.contains("master_link_status:up") => Ok(()),
        other => Err(other),
    });
    // From here on it hears nothing.
    pair.redis.cmd(&["REPLICAOF", "NO", "ONE"]);
    let people = People::of(&pair);
    relay.lead_to(pair.redis.port());
    drop(first);
    for gateway in pair.gateways() {
        people.are_judged_well(gateway);
    }
    is_whole_again(&pair, &people);
}

#[test]
fn a_ban_given_while_redis_is_being_filled_stands() {
    let pair = Pair::start(USERS, &ALL);
    let people = People::of(&pair);
    let tokens: Vec<String> = (20..40).map(|id| pair.world.issuer.good(&id.to_string())).collect();
    for (id, token) in (20..40).zip(&tokens) {
        pair.redis.cmd(&["FLUSHALL"]);
        let gateway = pair.gateways()[id % 2];
        eventually("the ban is given", || match set_status(gateway, &id.to_string(), "banned").0 {
            200 | 202 => Ok(()),
            other => Err(other),
        });
        assert_eq!(verdict(gateway, token), "403 user_banned");
    }
    is_whole_again(&pair, &people);
    for gateway in pair.gateways() {
        for token in &tokens {
            assert_eq!(verdict(gateway, token), "403 user_banned");
        }
    }
}

#[test]
fn a_gateway_that_starts_without_the_database_believes_a_redis_that_was_filled() {
    let world = World::new();
    let (redis, mut postgres) = (Redis::start(), Postgres::start());
    let section = format!("{}timeout = \"1s\"\n", postgres.create_database().config_toml());
    let setup = world.setup(&[&patient_redis(&redis), &section, &presets(&["native"])]);
    let first = setup.start();
    first.ban("8");
    readiness_becomes(&first, 200, "ready", "coherent");
    drop(first);
    postgres.kill();
    let gateway = Gateway::start_unready(&setup.toml());
    readiness_becomes(&gateway, 200, "degraded", "coherent");
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "200");
    assert_eq!(verdict(&gateway, &world.issuer.good("8")), "403 user_banned");
    redis.cmd(&["FLUSHALL"]);
    assert_eq!(verdict(&gateway, &world.issuer.good("8")), "503 ledger_unavailable");
    postgres.restart();
    becomes(&gateway, &world.issuer.good("8"), "403 user_banned");
    readiness_becomes(&gateway, 200, "ready", "coherent");
    becomes(&gateway, &world.issuer.good("7"), "200");
}

#[test]
fn a_set_of_the_wrong_type_keeps_nothing_else_waiting() {
    let world = World::new();
    let redis = Redis::start();
    let ledger = "[ledger]\npresets = [\"native\", \"invalid-users\"]\n[ledger.preset.invalid-users]\nlayout = \"set\"\n";
    let gateway = world.start(&[&patient_redis(&redis), ledger]);
    redis.cmd(&["SET", "invalid_users", "this is no set"]);
    assert_eq!(set_status(&gateway, "7", "banned").0, 200);
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "403 user_banned");
    assert_eq!(verdict(&gateway, &world.issuer.good("8")), "200", "the database answers for that key");
    readiness_becomes(&gateway, 200, "ready", "coherent");
    metric_becomes(&gateway, "portcullis_outbox_refused", 1.0);
    assert_eq!(
        text(&redis, "invalid_users").as_deref(),
        Some("this is no set"),
        "nothing of others is touched"
    );
    redis.cmd(&["DEL", "invalid_users"]);
    eventually("the list is written after all", || match redis.cmd(&["SISMEMBER", "invalid_users", "7"]) {
        Reply::Integer(1) => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_key_whose_life_a_layout_prescribes_is_renewed_while_the_ban_lasts() {
    let world = World::new();
    let redis = Redis::start();
    let database = Postgres::shared().create_database();
    database.psql(USERS);
    let ledger = format!("{}[ledger.preset.invalid-users]\nttl = \"4s\"\n", presets(&["invalid-users"]));
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), &ledger]);
    gateway.ban("8");
    let until = now() + 9;
    while now() < until {
        assert_eq!(verdict(&gateway, &world.issuer.good("8")), "403 user_banned");
        assert!(text(&redis, "invalid_user:8").is_some() && text(&redis, "invalid_user:9").is_some());
        crate::support::pause(std::time::Duration::from_millis(100));
    }
}
