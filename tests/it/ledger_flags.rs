//! `active-flag-cache`: a flag in Redis for five minutes before a column, as services keep it.

use serde_json::json;

use crate::ledger_common::{
    World, becomes, call, patient, patient_redis, presets, set_status, text, text_becomes, ttl, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::now;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::{Redis, Reply};

const USERS: &str = "CREATE TABLE users (user_id bigint PRIMARY KEY, is_active boolean NOT NULL DEFAULT true); \
                     INSERT INTO users (user_id) VALUES (7), (8)";

struct Scene {
    world: World,
    redis: Redis,
    database: Database<'static>,
    gateway: Gateway,
}

fn scene(ledger: &str) -> Scene {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql(USERS);
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), ledger]);
    Scene { world, redis, database, gateway }
}

fn flags() -> String {
    presets(&["active-flag-cache"])
}

impl Scene {
    fn service_sets(&self, user: &str, active: bool) {
        self.database.psql(&format!("UPDATE users SET is_active = {active} WHERE user_id = {user}"));
        self.redis.cmd(&["SET", &format!("user:{user}:active"), &active.to_string(), "EX", "300"]);
    }

    fn row(&self, user: &str) -> String {
        self.database.psql(&format!("SELECT is_active FROM users WHERE user_id = {user}"))
    }
}

#[test]
fn what_the_table_says_is_kept_for_five_minutes_as_services_keep_it() {
    let it = scene(&flags());
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("7")), "200");
    text_becomes(&it.redis, "user:7:active", "true");
    assert!((1..=300).contains(&ttl(&it.redis, "user:7:active")));
    it.database.psql("UPDATE users SET is_active = false WHERE user_id = 8");
    becomes(&it.gateway, &it.world.issuer.good("8"), "403 user_deactivated");
    text_becomes(&it.redis, "user:8:active", "false");
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("9")), "403 user_unknown");
    assert_eq!(text(&it.redis, "user:9:active"), None, "of nobody nothing is kept");
}

#[test]
fn a_flag_is_read_however_it_is_spelled_and_is_an_outage_where_it_is_none() {
    let it = scene(&flags());
    let token = it.world.issuer.good("7");
    for (flag, expected) in [
        ("false", "403 user_deactivated"),
        ("true", "200"),
        ("\"false\"", "403 user_deactivated"),
        ("\"true\"", "200"),
        ("False", "403 user_deactivated"),
        ("True", "200"),
        ("0", "403 user_deactivated"),
        ("1", "200"),
        ("no", "403 user_deactivated"),
        ("yes", "200"),
        (r#"{"is_active":false}"#, "403 user_deactivated"),
        (r#"{"is_active":true}"#, "200"),
        // Not for Redis to say: the table is asked, and says yes.
        ("perhaps", "200"),
        ("{}", "200"),
    ] {
        it.redis.cmd(&["SET", "user:7:active", flag, "EX", "300"]);
        becomes(&it.gateway, &token, expected);
    }
    it.database.psql("UPDATE users SET is_active = false");
    it.redis.cmd(&["SET", "user:7:active", "perhaps"]);
    becomes(&it.gateway, &token, "403 user_deactivated");
}

#[test]
fn a_service_bans_and_lifts_by_its_own_code() {
    let it = scene(&flags());
    let token = it.world.issuer.good("7");
    assert_eq!(verdict(&it.gateway, &token), "200");
    it.service_sets("7", false);
    becomes(&it.gateway, &token, "403 user_deactivated");
    it.service_sets("7", true);
    becomes(&it.gateway, &token, "200");
    // The cache alone is not the truth: without it the table answers.
    it.database.psql("UPDATE users SET is_active = false");
    it.redis.cmd(&["DEL", "user:7:active"]);
    becomes(&it.gateway, &token, "403 user_deactivated");
}

#[test]
fn a_ban_through_the_gateway_is_seen_by_the_service_and_keeps_its_word() {
    let it = scene(&flags());
    let token = it.world.issuer.good("7");
    for (status, expected) in [
        ("banned", "403 user_banned"),
        ("deactivated", "403 user_deactivated"),
        ("deleted", "403 user_deleted"),
    ] {
        assert_eq!(set_status(&it.gateway, "7", status).0, 200);
        assert_eq!(verdict(&it.gateway, &token), expected);
        assert_eq!(text(&it.redis, "user:7:active").as_deref(), Some("false"), "{status}");
        assert!((1..=300).contains(&ttl(&it.redis, "user:7:active")));
        assert_eq!(it.row("7"), "f");
        // The key's end is not the ban's.
        it.redis.cmd(&["DEL", "user:7:active"]);
        becomes(&it.gateway, &token, expected);
    }
    assert_eq!(set_status(&it.gateway, "7", "active").0, 200);
    assert_eq!(it.redis.cmd(&["EXISTS", "user:7:active", "pc:user:7"]), Reply::Integer(0));
    assert_eq!(it.row("7"), "t");
    becomes(&it.gateway, &token, "200");
    assert_eq!(set_status(&it.gateway, "9", "banned").0, 404, "nobody");
    assert_eq!(set_status(&it.gateway, "nine", "banned").0, 422);
}

#[test]
fn what_the_gateway_banned_the_service_may_lift() {
    let it = scene(&flags());
    let token = it.world.issuer.good("7");
    assert_eq!(set_status(&it.gateway, "7", "banned").0, 200);
    assert_eq!(verdict(&it.gateway, &token), "403 user_banned");
    it.service_sets("7", true);
    // The flag decides; the record only told why.
    becomes(&it.gateway, &token, "200");
    it.service_sets("7", false);
    becomes(&it.gateway, &token, "403 user_banned");
}

#[test]
fn a_logout_voids_old_tokens_and_takes_no_flag_down() {
    let it = scene(&flags());
    let token = it.world.issuer.good("7");
    for path in ["/v1/users/7/logout", "/v1/users/7/status"] {
        let body = json!({ "status": "security_action" });
        let (method, body, expected) = match path.ends_with("logout") {
            true => ("POST", json!(null), "401 issued_before_cutoff"),
            false => ("PUT", body, "401 user_security_action"),
        };
        assert_eq!(call(&it.gateway, method, path, &body).0, 200);
        assert_eq!(verdict(&it.gateway, &token), expected);
        let newer = it.world.issuer.token("7", |claims| claims["iat"] = json!(now() + 10));
        assert_eq!(verdict(&it.gateway, &newer), "200");
        assert_eq!(it.row("7"), "t");
        assert_ne!(text(&it.redis, "user:7:active").as_deref(), Some("false"));
    }
}

#[test]
fn names_lifetime_and_spelling_are_parameters() {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql(
        "CREATE TABLE accounts (uid text PRIMARY KEY, enabled text); INSERT INTO accounts VALUES ('a', 'Y')",
    );
    for (encoding, up, down) in [
        ("numeric", "1", "0"),
        ("quoted", "\"true\"", "\"false\""),
        ("json", r#"{"enabled":true}"#, r#"{"enabled":false}"#),
    ] {
        let ledger = format!(
            "{}[ledger.preset.active-flag-cache]\nprefix = \"acc/{encoding}/\"\nsuffix = \"/on\"\nttl = \"60s\"\n\
             encoding = \"{encoding}\"\ntable = \"accounts\"\ncolumns = {{ user_id = \"uid\", is_active = \"enabled\" }}\n",
            flags()
        );
        let gateway = world.start(&[&patient_redis(&redis), &patient(&database), &ledger]);
        let (token, key) = (world.issuer.good("a"), format!("acc/{encoding}/a/on"));
        assert_eq!(verdict(&gateway, &token), "200", "{encoding}");
        text_becomes(&redis, &key, up);
        assert!((1..=60).contains(&ttl(&redis, &key)));
        assert_eq!(set_status(&gateway, "a", "banned").0, 200);
        assert_eq!(text(&redis, &key).as_deref(), Some(down));
        assert_eq!(set_status(&gateway, "a", "active").0, 200);
    }
}

#[test]
fn a_token_blacklist_and_a_flag_cache_count_together() {
    let it = scene(&presets(&["token-blacklist", "active-flag-cache"]));
    let [first, second] = std::array::from_fn(|_| it.world.issuer.good("7"));
    assert_eq!(verdict(&it.gateway, &first), "200");
    it.redis.cmd(&["SET", &format!("blacklist:{first}"), "1", "EX", "900"]);
    becomes(&it.gateway, &first, "401 token_revoked");
    becomes(&it.gateway, &second, "200");
    it.gateway.revoke_token(&second);
    assert_eq!(verdict(&it.gateway, &second), "401 token_revoked");
    let third = it.world.issuer.good("7");
    it.service_sets("7", false);
    becomes(&it.gateway, &third, "403 user_deactivated");
    // A subject that could name another's key.
    for odd in ["7:active", "id:7", "*"] {
        let said = verdict(&it.gateway, &it.world.issuer.good(odd));
        assert!(!said.starts_with("200"), "{odd}: {said}");
    }
}

#[test]
fn refresh_tokens_are_denied_where_either_store_calls_them_revoked_and_are_revoked_in_both() {
    let it = scene(&presets(&["token-blacklist"]));
    it.database.psql("INSERT INTO refresh_tokens (token, user_id) VALUES ('x', '7')");
    let [first, second, third] = std::array::from_fn(|_| it.world.issuer.good("7"));
    let key = |token: &str| format!("refresh_token:{token}");
    let alive = r#"{"userId":7,"expiresAt":"2030-01-01T00:00:00Z","isRevoked":false}"#;
    it.redis.cmd(&["SET", &key(&first), alive, "EX", "900"]);
    becomes(&it.gateway, &first, "200");
    it.redis.cmd(&["SET", &key(&first), &alive.replace("false", "true"), "EX", "900"]);
    becomes(&it.gateway, &first, "401 token_revoked");

    it.redis.cmd(&["SET", &key(&second), alive, "EX", "900"]);
    it.database.psql(&format!(
        "INSERT INTO refresh_tokens (token, user_id, is_revoked) VALUES ('{second}', '7', false)"
    ));
    it.gateway.revoke_token(&second);
    let written: serde_json::Value = serde_json::from_str(&text(&it.redis, &key(&second)).unwrap()).unwrap();
    assert_eq!((&written["userId"], &written["isRevoked"]), (&json!(7), &json!(true)));
    assert_eq!(
        it.database.psql(&format!("SELECT is_revoked FROM refresh_tokens WHERE token = '{second}'")),
        "t"
    );

    it.gateway.revoke_token(&third);
    assert_eq!(text(&it.redis, &key(&third)), None, "an access token is no refresh token");

    // Redis is gone: the table's word counts.
    let fourth = it.world.issuer.good("7");
    it.database.psql(&format!(
        "INSERT INTO refresh_tokens (token, user_id, is_revoked) VALUES ('{fourth}', '7', true)"
    ));
    let mut it = it;
    it.redis.kill();
    eventually("the table's word counts", || match verdict(&it.gateway, &fourth) {
        denied if denied == "401 token_revoked" => Ok(()),
        other => Err(other),
    });
}
