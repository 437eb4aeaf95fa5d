//! Edited behind everyone's back: what is typed into a table of users counts at once, and so does taking it back.

use std::process::Command;
use std::time::Instant;

use crate::ledger_common::{
    World, becomes, metric, metric_becomes, patient, patient_redis, presets, text, ttl, verdict,
};
use crate::support::gateway::{BINARY, Gateway, Setup};
use crate::support::mysql::Mysql;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::Redis;
use crate::support::{eventually, unique};

const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL DEFAULT 'active', \
                     status_updated_at timestamptz, last_security_action timestamptz, last_login timestamptz); \
                     INSERT INTO users (user_id) SELECT generate_series(1, 20)";

/// Runs `portcullis migrate` over a configuration.
pub fn migrate(setup: &Setup, words: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    migrate_in(setup, directory.path(), words)
}

fn migrate_in(setup: &Setup, directory: &std::path::Path, words: &[&str]) -> String {
    std::fs::write(directory.join("gateway.toml"), setup.toml()).unwrap();
    std::fs::write(directory.join("admin.token"), unique("token-")).unwrap();
    let ran = Command::new(BINARY).arg("migrate").args(words).current_dir(directory).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// By the feed, as [`told`] shows; otherwise what is remembered runs out in its own time.
pub fn soon(gateway: &Gateway, token: &str, expected: &str) {
    eventually(&format!("the verdict is {expected}"), || match verdict(gateway, token) {
        it if it == expected => Ok(()),
        other => Err(other),
    });
}

/// At least so many changes to the table have been heard of.
fn told(gateway: &Gateway, least: f64) {
    eventually("the feed has told", || {
        match metric(gateway, "portcullis_feed_changes_total{source=\"table\"}") {
            seen if seen >= least => Ok(()),
            seen => Err(seen),
        }
    });
}

fn watched<'a>(world: &World, redis: Option<&Redis>) -> (Database<'a>, Setup) {
    let database = Postgres::shared().create_database();
    database.psql(USERS);
    let mut sections = vec![patient(&database), presets(&["invalid-users"])];
    sections.extend(redis.map(patient_redis));
    let sections: Vec<&str> = sections.iter().map(String::as_str).collect();
    let setup = world.setup(&sections);
    assert!(migrate(&setup, &["--watch-users"]).contains("Watched: "));
    (database, setup)
}

fn set(database: &Database<'_>, status: &str) {
    database.psql(&format!("UPDATE users SET status = '{status}' WHERE user_id = 7"));
}

#[test]
fn a_ban_typed_into_the_table_and_taken_back_counts_at_once_without_redis() {
    let world = World::new();
    let (database, setup) = watched(&world, None);
    let gateways = [setup.start(), setup.start()];
    let token = world.issuer.good("7");
    metric_becomes(&gateways[0], "portcullis_feed_up", 1.0);
    for _ in 0..3 {
        gateways.iter().for_each(|gateway| becomes(gateway, &token, "200"));
        set(&database, "banned");
        gateways.iter().for_each(|gateway| soon(gateway, &token, "403 user_banned"));
        set(&database, "active");
        gateways.iter().for_each(|gateway| soon(gateway, &token, "200"));
    }
    assert_eq!(metric(&gateways[0], "portcullis_feed_changes_total{source=\"table\"}"), 6.0);
    database.psql("UPDATE users SET last_login = now()");
    assert_eq!(database.psql("SELECT count(*) FROM portcullis_changes"), "6", "no other column counts");
}

#[test]
fn a_ban_typed_into_the_table_and_taken_back_counts_at_once_with_redis() {
    let (world, redis) = (World::new(), Redis::start());
    let (database, setup) = watched(&world, Some(&redis));
    let gateways = [setup.start(), setup.start()];
    let token = world.issuer.good("7");
    for _ in 0..3 {
        gateways.iter().for_each(|gateway| becomes(gateway, &token, "200"));
        set(&database, "banned");
        gateways.iter().for_each(|gateway| soon(gateway, &token, "403 user_banned"));
        eventually("services see it as well", || text(&redis, "invalid_user:7").ok_or("no key"));
        set(&database, "active");
        gateways.iter().for_each(|gateway| soon(gateway, &token, "200"));
        eventually("services see that as well", || match text(&redis, "invalid_user:7") {
            None => Ok(()),
            other => Err(other),
        });
    }
    let waiting = || database.psql("SELECT count(*) FROM portcullis_outbox");
    eventually("nothing waits", || if waiting() == "0" { Ok(()) } else { Err(waiting()) });
}

#[test]
fn what_is_typed_while_the_listeners_connection_is_cut_is_caught_up_with() {
    let world = World::new();
    let (database, setup) = watched(&world, None);
    let gateway = setup.start();
    let token = world.issuer.good("7");
    becomes(&gateway, &token, "200");
    let listeners = "FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()";
    let cut = format!("SELECT count(pg_terminate_backend(pid)) {listeners}");
    eventually("it listens", || match database.psql(&cut).as_str() {
        "0" => Err(()),
        _ => Ok(()),
    });
    set(&database, "banned");
    soon(&gateway, &token, "403 user_banned");
    eventually("it listens again", || {
        match database.psql(&format!("SELECT count(*) {listeners}")).as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    set(&database, "active");
    soon(&gateway, &token, "200");
    told(&gateway, 2.0);
}

#[test]
fn a_change_that_commits_late_is_not_missed() {
    let world = World::new();
    let (database, setup) = watched(&world, None);
    let gateway = setup.start();
    let token = world.issuer.good("7");
    becomes(&gateway, &token, "200");
    // A slow transaction draws its number first, and commits after others: when it is let.
    database.psql("CREATE TABLE go ()");
    let slow = "BEGIN; UPDATE users SET status = 'banned' WHERE user_id = 7; \
                DO $$ BEGIN FOR n IN 1..3000 LOOP EXIT WHEN EXISTS (SELECT FROM go); PERFORM pg_sleep(0.02); \
                END LOOP; END $$; COMMIT";
    let sleeping = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND wait_event = 'PgSleep'";
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| database.psql(slow));
        eventually("it sleeps", || match database.psql(sleeping).as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        });
        database.psql("UPDATE users SET status = 'banned' WHERE user_id = 8");
        soon(&gateway, &world.issuer.good("8"), "403 user_banned");
        assert_eq!(verdict(&gateway, &token), "200", "nobody has heard of it");
        database.psql("INSERT INTO go DEFAULT VALUES");
        slow.join().unwrap();
    });
    soon(&gateway, &token, "403 user_banned");
    told(&gateway, 2.0);
}

#[test]
fn what_is_typed_while_no_gateway_runs_is_found_by_the_next() {
    let (world, redis) = (World::new(), Redis::start());
    let (database, setup) = watched(&world, Some(&redis));
    drop(setup.start());
    set(&database, "banned");
    let gateway = setup.start();
    eventually("Redis is told", || text(&redis, "invalid_user:7").ok_or("no key"));
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "403 user_banned");
}

#[test]
fn a_service_without_rights_on_our_tables_is_not_disturbed_and_neither_by_their_absence() {
    let world = World::new();
    let (database, setup) = watched(&world, None);
    let role = unique("service_");
    database.psql(&format!("CREATE ROLE {role}; GRANT SELECT, UPDATE ON users TO {role}"));
    let update = format!("SET ROLE {role}; UPDATE users SET status = 'banned' WHERE user_id = 7");
    database.psql(&update);
    assert_eq!(database.psql("SELECT source, subject FROM portcullis_changes"), "users|7");
    // Somebody's own table of that name must not be written instead.
    database.psql(
        "CREATE SCHEMA fake; CREATE TABLE fake.portcullis_changes (source text, subject text, at bigint)",
    );
    database.psql("SET search_path = fake, public; UPDATE users SET status = 'active' WHERE user_id = 7");
    assert_eq!(database.psql("SELECT count(*) FROM fake.portcullis_changes"), "0");
    database.psql("UPDATE users SET user_id = 70 WHERE user_id = 8; DELETE FROM users WHERE user_id = 9");
    let noted = database.psql("SELECT string_agg(subject, ',' ORDER BY subject) FROM portcullis_changes");
    assert_eq!(noted, "7,7,70,8,9");
    database.psql("ALTER TABLE portcullis_changes RENAME TO elsewhere");
    database.psql(&update);
    database.psql("TRUNCATE users");
    database.psql("ALTER TABLE elsewhere RENAME TO portcullis_changes; TRUNCATE users");
    assert_eq!(database.psql("SELECT count(*) FROM portcullis_changes WHERE subject IS NULL"), "1");
    assert!(migrate(&setup, &["--unwatch-users"]).contains("No longer watched: "));
    assert_eq!(database.psql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'portcullis_watch%'"), "0");
    database.psql("INSERT INTO users (user_id) VALUES (1)");
    migrate(&setup, &["--watch-users"]);
    migrate(&setup, &["--watch-users"]);
    assert_eq!(database.psql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'portcullis_watch%'"), "4");
}

#[test]
fn a_table_of_users_in_sqlite_is_watched() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app.db");
    let section = format!("[database]\nurl = \"sqlite://{}\"\ntimeout = \"5s\"\n", file.display());
    let sql = |sql: &str| {
        let ran = Command::new("python3")
            .args(["-c", "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=20); c.executescript(sys.argv[2]); c.commit()"])
            .arg(&file)
            .arg(sql)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    sql("CREATE TABLE users (user_id INTEGER PRIMARY KEY, status TEXT, status_updated_at TEXT); \
         INSERT INTO users VALUES (7, 'active', NULL)");
    let setup = world.setup(&[&section, &presets(&["invalid-users"])]);
    migrate_in(&setup, directory.path(), &["--watch-users"]);
    let gateway = setup.start();
    let token = world.issuer.good("7");
    becomes(&gateway, &token, "200");
    metric_becomes(&gateway, "portcullis_feed_up", 1.0);
    sql("UPDATE users SET status = 'banned'");
    soon(&gateway, &token, "403 user_banned");
    sql("UPDATE users SET status = 'active'");
    soon(&gateway, &token, "200");
    assert_eq!(metric(&gateway, "portcullis_feed_changes_total{source=\"table\"}"), 2.0);
}

#[test]
fn a_table_of_users_in_mariadb_is_watched_or_polled() {
    let (world, redis) = (World::new(), Redis::start());
    let database = Mysql::shared().create_database();
    database.query(
        "CREATE TABLE users (user_id BIGINT PRIMARY KEY, status VARCHAR(20), status_updated_at DATETIME DEFAULT \
         CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP); INSERT INTO users (user_id, status) VALUES (7, 'active')",
    );
    let section = format!("{}timeout = \"5s\"\n", database.config_toml());
    let setup = world.setup(&[&section, &patient_redis(&redis), &presets(&["invalid-users"])]);
    let gateway = setup.start();
    let token = world.issuer.good("7");
    becomes(&gateway, &token, "200");
    for triggers in [false, true] {
        if triggers {
            migrate(&setup, &["--watch-users"]);
        }
        database.query("UPDATE users SET status = 'banned'");
        eventually("the ban is found", || text(&redis, "invalid_user:7").ok_or("no key"));
        becomes(&gateway, &token, "403 user_banned");
        assert!(ttl(&redis, "invalid_user:7") > 0);
        database.query("UPDATE users SET status = 'active'");
        becomes(&gateway, &token, "200");
    }
    for source in ["poll", "table"] {
        let series = format!("portcullis_feed_changes_total{{source=\"{source}\"}}");
        eventually("both have told", || match metric(&gateway, &series) {
            2.0.. => Ok(()),
            other => Err(other),
        });
    }
}

#[test]
fn many_requests_of_many_users_cost_the_database_few_queries() {
    let world = World::new();
    let (database, setup) = watched(&world, None);
    database.psql("INSERT INTO users (user_id) SELECT generate_series(100, 599)");
    let gateway = setup.start();
    let tokens: Vec<String> = (100..600).map(|id| world.issuer.good(&id.to_string())).collect();
    metric_becomes(&gateway, "portcullis_feed_up", 1.0);
    let asked = || {
        ["clear", "deny", "absent", "error"]
            .map(|outcome| {
                metric(
                    &gateway,
                    &format!("portcullis_lookups_total{{outcome=\"{outcome}\",store=\"database\"}}"),
                )
            })
            .iter()
            .sum::<f64>()
    };
    let before = asked();
    let start = Instant::now();
    for _ in 0..20 {
        for token in tokens.iter().step_by(7) {
            assert_eq!(verdict(&gateway, token), "200");
        }
    }
    let users = tokens.iter().step_by(7).count() as f64;
    let rules = 3.0;
    let queries = asked() - before;
    let lives = start.elapsed().as_secs_f64() / 5.0 + 1.0;
    assert!(queries <= users * rules * lives, "{queries} queries for {users} users in {lives} lives");
    database.psql("UPDATE users SET status = 'banned' WHERE user_id = 100");
    soon(&gateway, &tokens[0], "403 user_banned");
}
