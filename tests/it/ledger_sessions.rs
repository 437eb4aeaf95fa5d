//! `session-store`: who is logged in, token by token, as services keep it; and sets in rules of one's own.

use serde_json::{Value, json};

use crate::ledger_common::{
    World, becomes, call, patient, patient_redis, presets, set_status, text, ttl, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::now;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::{Redis, Reply};

const SESSIONS: &str = "CREATE TABLE sessions (id serial PRIMARY KEY, token text NOT NULL UNIQUE, user_id integer NOT NULL, \
                        expires_at timestamp NOT NULL, is_active boolean NOT NULL DEFAULT true)";

struct Scene {
    world: World,
    redis: Redis,
    database: Database<'static>,
    gateway: Gateway,
}

fn scene(tables: &str, names: &[&str]) -> Scene {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql(tables);
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), &presets(names)]);
    Scene { world, redis, database, gateway }
}

#[test]
fn a_refresh_token_stands_in_no_list_of_sessions_and_passes_until_it_is_revoked_or_its_user_logged_out() {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql(SESSIONS);
    let route = "name = \"refresh\"\npath = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n\
                 token_from = \"header:x-refresh-token\"";
    let sections = [patient_redis(&redis), patient(&database), presets(&["session-store"])];
    let gateway = world.setup(&sections.each_ref().map(String::as_str)).route(route).start();
    let refreshed = |token: &str| {
        let header = format!("X-Refresh-Token: {token}");
        let response = gateway.request("GET", "/refresh", &[&header], b"");
        if response.status == 200 { "200".to_owned() } else { response.reason() }
    };
    let [first, second] = [(); 2].map(|()| world.issuer.good("7"));
    assert_eq!([refreshed(&first), refreshed(&second)], ["200", "200"]);
    becomes(&gateway, &first, "401 session_revoked");
    gateway.revoke_token(&first);
    assert_eq!([refreshed(&first), refreshed(&second)], ["token_revoked", "200"]);
    gateway.logout("7");
    assert_eq!(refreshed(&second), "issued_before_cutoff");
}

impl Scene {
    /// As a service logs somebody in.
    fn login(&self, user: &str) -> String {
        let token = self.world.issuer.good(user);
        self.database.psql(&format!(
            "INSERT INTO sessions (token, user_id, expires_at) VALUES ('{token}', {user}, now() at time zone 'utc' + interval '1 day')"
        ));
        let set = format!("user:tokens:{user}");
        self.redis.cmd(&["SADD", &set, &token]);
        self.redis.cmd(&["EXPIRE", &set, "86400"]);
        self.redis.cmd(&["SET", &format!("session:{user}"), "{}", "EX", "86400"]);
        token
    }

    fn holds(&self, user: &str, token: &str) -> bool {
        self.redis.cmd(&["SISMEMBER", &format!("user:tokens:{user}"), token]) == Reply::Integer(1)
    }

    fn active(&self, token: &str) -> String {
        self.database.psql(&format!("SELECT is_active FROM sessions WHERE token = '{token}'"))
    }
}

#[test]
fn a_token_that_nobody_handed_out_is_no_session() {
    let it = scene(SESSIONS, &["session-store"]);
    let token = it.login("7");
    becomes(&it.gateway, &token, "200");
    becomes(&it.gateway, &it.world.issuer.good("7"), "401 session_revoked");
    it.redis.cmd(&["SADD", "user:tokens:8", &token]);
    let other = it.world.issuer.good("8");
    becomes(&it.gateway, &other, "401 session_revoked");
}

#[test]
fn a_session_that_only_the_table_knows_goes_back_into_the_set() {
    let it = scene(SESSIONS, &["session-store"]);
    let token = it.login("7");
    it.redis.cmd(&["FLUSHALL"]);
    becomes(&it.gateway, &token, "200");
    eventually("the set holds it again", || if it.holds("7", &token) { Ok(()) } else { Err("not yet") });
    assert!((1..=86_400).contains(&ttl(&it.redis, "user:tokens:7")));

    // Another member finds the set there, and leaves its TTL alone.
    let second = it.login("7");
    it.redis.cmd(&["SREM", "user:tokens:7", &second]);
    it.redis.cmd(&["EXPIRE", "user:tokens:7", "100"]);
    becomes(&it.gateway, &second, "200");
    eventually("the set holds both", || if it.holds("7", &second) { Ok(()) } else { Err("not yet") });
    assert!(ttl(&it.redis, "user:tokens:7") <= 100);
}

#[test]
fn a_row_that_is_over_or_inactive_is_no_session() {
    let it = scene(SESSIONS, &["session-store"]);
    let [over, ended] = std::array::from_fn(|_| it.login("7"));
    it.database.psql(&format!(
        "UPDATE sessions SET expires_at = now() at time zone 'utc' - interval '1 second' WHERE token = '{over}'"
    ));
    it.database.psql(&format!("UPDATE sessions SET is_active = false WHERE token = '{ended}'"));
    it.redis.cmd(&["DEL", "user:tokens:7"]);
    for token in [&over, &ended] {
        becomes(&it.gateway, token, "401 session_revoked");
        assert!(!it.holds("7", token));
    }
}

#[test]
fn a_service_logs_one_device_out_by_its_own_code() {
    let it = scene(SESSIONS, &["session-store"]);
    let [first, second] = std::array::from_fn(|_| it.login("7"));
    becomes(&it.gateway, &first, "200");
    it.database.psql(&format!("UPDATE sessions SET is_active = false WHERE token = '{first}'"));
    it.redis.cmd(&["SREM", "user:tokens:7", &first]);
    it.redis.cmd(&["SET", &format!("blacklist:{first}"), "1", "EX", "900"]);
    becomes(&it.gateway, &first, "401 token_revoked");
    it.redis.cmd(&["DEL", &format!("blacklist:{first}")]);
    becomes(&it.gateway, &first, "401 session_revoked");
    becomes(&it.gateway, &second, "200");
}

#[test]
fn a_token_revoked_through_the_gateway_leaves_every_place() {
    let it = scene(SESSIONS, &["session-store"]);
    let [first, second] = std::array::from_fn(|_| it.login("7"));
    becomes(&it.gateway, &first, "200");
    it.gateway.revoke_token(&first);
    assert_eq!(verdict(&it.gateway, &first), "401 token_revoked");
    assert!(!it.holds("7", &first) && it.holds("7", &second));
    let listed: Value =
        serde_json::from_str(&text(&it.redis, &format!("blacklist:{first}")).unwrap()).unwrap();
    assert_eq!(listed["userId"], 7);
    assert_eq!((it.active(&first).as_str(), it.active(&second).as_str()), ("f", "t"));
    it.redis.cmd(&["FLUSHALL"]);
    becomes(&it.gateway, &first, "401 session_revoked");
    becomes(&it.gateway, &second, "200");
}

#[test]
fn logging_out_everywhere_ends_every_session_and_new_logins_work() {
    let it = scene(SESSIONS, &["session-store"]);
    let [first, second] = std::array::from_fn(|_| it.login("7"));
    let other = it.login("8");
    it.redis.cmd(&["SET", "user:profile:7", "{}"]);
    assert_eq!(call(&it.gateway, "POST", "/v1/users/7/logout", &Value::Null).0, 200);
    for token in [&first, &second] {
        assert_eq!(verdict(&it.gateway, token), "401 issued_before_cutoff");
        assert_eq!(it.active(token), "f");
    }
    let keys = ["EXISTS", "user:tokens:7", "session:7", "user:profile:7"];
    assert_eq!(it.redis.cmd(&keys), Reply::Integer(0));
    becomes(&it.gateway, &other, "200");
    let newer = it.world.issuer.token("7", |claims| claims["iat"] = json!(now() + 10));
    assert_eq!(verdict(&it.gateway, &newer), "401 session_revoked", "not logged in yet");
    it.database.psql(&format!(
        "INSERT INTO sessions (token, user_id, expires_at) VALUES ('{newer}', 7, now() at time zone 'utc' + interval '1 day')"
    ));
    becomes(&it.gateway, &newer, "200");
}

#[test]
fn a_ban_is_the_records_where_no_layout_has_a_flag_and_sessions_are_there_again_afterwards() {
    let it = scene(SESSIONS, &["session-store"]);
    let token = it.login("7");
    assert_eq!(set_status(&it.gateway, "7", "banned").0, 200);
    assert_eq!(verdict(&it.gateway, &token), "403 user_banned");
    assert_eq!(set_status(&it.gateway, "7", "active").0, 200);
    assert_eq!(verdict(&it.gateway, &token), "200");
}

#[test]
fn a_users_sessions_are_those_of_the_table_and_those_seen_here() {
    let it = scene(SESSIONS, &["session-store"]);
    let [seen, unseen, ended] = std::array::from_fn(|_| it.login("7"));
    it.database.psql(&format!("UPDATE sessions SET is_active = false WHERE token = '{ended}'"));
    becomes(&it.gateway, &seen, "200");
    let (status, found) = call(&it.gateway, "GET", "/v1/users/7/sessions", &Value::Null);
    let sessions = found["sessions"].as_array().unwrap();
    assert_eq!((status, sessions.len()), (200, 2), "{found}");
    assert!(sessions.iter().all(|it| it["sid"].is_string() && it["expires_at"].is_string()), "{found}");
    let text = found.to_string();
    assert!(!text.contains(&seen) && !text.contains(&unseen), "a token got out");
}

#[test]
fn without_a_table_one_is_made_and_what_it_lacks_is_refused() {
    let it = scene("SELECT 1", &["session-store"]);
    let token = it.world.issuer.good("7");
    assert_eq!(verdict(&it.gateway, &token), "401 session_revoked");
    it.redis.cmd(&["SADD", "user:tokens:7", &token]);
    becomes(&it.gateway, &token, "200");
}

#[test]
fn a_set_of_ones_own_that_lacks_a_member_is_filled_from_the_table() {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql("CREATE TABLE members (id int); INSERT INTO members VALUES (7)");
    let rule = "[ledger]\npresets = []\n[[ledger.rules]]\nname = \"not_a_member\"\nguards = \"user\"\nkey = \"members\"\n\
        deny_if = { lacks = \"{sub}\" }\nttl = \"60s\"\n\
        sql = { query = \"SELECT 1 FROM members WHERE id = {sub:int}\", deny_if = \"missing\" }\n";
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), rule]);
    becomes(&gateway, &world.issuer.good("8"), "403 not_a_member");
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "200");
    let held = ["SISMEMBER", "members", "7"];
    eventually("the set holds it", || match redis.cmd(&held) {
        Reply::Integer(1) => Ok(()),
        other => Err(other),
    });
    assert!((1..=60).contains(&ttl(&redis, "members")));
    assert_eq!(redis.cmd(&["SISMEMBER", "members", "8"]), Reply::Integer(0));
}
