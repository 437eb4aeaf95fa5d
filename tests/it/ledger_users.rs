//! `user-cache`: users cached whole, found by e-mail, user name or phone number, and told to upstreams.

use serde_json::{Value, json};

use crate::ledger_common::{
    World, becomes, call, document, patient, patient_redis, presets, set_status, text, text_becomes, ttl,
    verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::now;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::{Redis, Reply};

const USERS: &str = "CREATE TABLE users (id integer PRIMARY KEY, email text, username text, phone_number text, \
    hashed_password text, reset_token text, role text, is_active boolean NOT NULL DEFAULT true); \
    INSERT INTO users VALUES (7, 'alice@example.com', 'alice', '+491701234567', '$2b$12$notforanybody', 'r3set', 'admin', true), \
    (8, 'bob@example.com', 'bob', '+491707654321', '$2b$12$notforanybody', NULL, E'evil\\r\\nx-admin: 1', true)";

const TOLD: &str = "[identity]\nheaders = { x-user-id = \"{sub}\", x-id = \"{profile.id}\", x-user-email = \"{profile.email}\", \
    x-role = \"{profile.role}\" }\n";

struct Scene {
    world: World,
    redis: Redis,
    database: Database<'static>,
    gateway: Gateway,
}

fn scene(sections: &[&str]) -> Scene {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql(USERS);
    let (stores, tables) = (patient_redis(&redis), patient(&database));
    let all: Vec<&str> =
        [stores.as_str(), tables.as_str()].into_iter().chain(sections.iter().copied()).collect();
    let gateway = world.start(&all);
    Scene { world, redis, database, gateway }
}

fn cache() -> String {
    presets(&["user-cache"])
}

const NAMES: [&str; 4] = ["7", "alice@example.com", "alice", "+491701234567"];

#[test]
fn a_user_is_one_user_by_whatever_name_a_token_calls_it() {
    let it = scene(&[&cache()]);
    let tokens = NAMES.map(|name| it.world.issuer.good(name));
    for (name, token) in NAMES.iter().zip(&tokens) {
        assert_eq!(verdict(&it.gateway, token), "200", "{name}");
    }
    for key in ["user:email:alice@example.com", "user:username:alice", "user:phone:+491701234567"] {
        text_becomes(&it.redis, key, "7");
        assert!((1..=300).contains(&ttl(&it.redis, key)), "{key}");
    }
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("mallory@example.com")), "403 user_unknown");
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("9")), "403 user_unknown");
    for name in NAMES {
        assert_eq!(set_status(&it.gateway, name, "banned").0, 200, "{name}");
        for token in &tokens {
            assert_eq!(verdict(&it.gateway, token), "403 user_banned", "{name}");
        }
        assert_eq!(it.database.psql("SELECT is_active FROM users WHERE id = 7"), "f");
        let (_, record) = call(&it.gateway, "GET", &format!("/v1/users/{name}"), &Value::Null);
        assert_eq!((&record["id"], &record["status"]), (&json!("7"), &json!("banned")));
        assert_eq!(set_status(&it.gateway, "alice", "active").0, 200);
        for token in &tokens {
            assert_eq!(verdict(&it.gateway, token), "200", "{name}");
        }
    }
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("bob")), "200");
}

#[test]
fn a_cut_off_by_one_name_voids_tokens_of_every_name() {
    let it = scene(&[&cache()]);
    let tokens = NAMES.map(|name| it.world.issuer.good(name));
    assert_eq!(call(&it.gateway, "POST", "/v1/users/alice@example.com/logout", &Value::Null).0, 200);
    for token in &tokens {
        assert_eq!(verdict(&it.gateway, token), "401 issued_before_cutoff");
    }
    let newer = it.world.issuer.token("alice", |claims| claims["iat"] = json!(now() + 10));
    assert_eq!(verdict(&it.gateway, &newer), "200");
}

#[test]
fn a_service_bans_by_its_own_code_in_every_layout_of_its_cache() {
    let it = scene(&[&cache()]);
    let token = it.world.issuer.good("alice@example.com");
    assert_eq!(verdict(&it.gateway, &token), "200");
    let cached = |active: bool| {
        it.database.psql(&format!("UPDATE users SET is_active = {active} WHERE id = 7"));
        let user = json!({"id": 7, "email": "alice@example.com", "is_active": active});
        it.redis.cmd(&["SET", "user:id:7", &user.to_string(), "EX", "300"]);
    };
    cached(false);
    becomes(&it.gateway, &token, "403 user_deactivated");
    cached(true);
    becomes(&it.gateway, &token, "200");
    // It deletes the key instead, or everything.
    it.database.psql("UPDATE users SET is_active = false WHERE id = 7");
    it.redis.cmd(&["FLUSHALL"]);
    becomes(&it.gateway, &token, "403 user_deactivated");
}

#[test]
fn an_alias_that_passes_to_somebody_else_takes_no_ban_along() {
    let it = scene(&[&cache()]);
    let token = it.world.issuer.good("alice");
    assert_eq!(verdict(&it.gateway, &token), "200");
    assert_eq!(set_status(&it.gateway, "7", "banned").0, 200);
    assert_eq!(verdict(&it.gateway, &token), "403 user_banned");
    it.database.psql(
        "UPDATE users SET username = 'former' WHERE id = 7; UPDATE users SET username = 'alice' WHERE id = 8",
    );
    it.redis.cmd(&["SET", "user:username:alice", "8", "EX", "300"]);
    // It is user 8's name by now.
    becomes(&it.gateway, &token, "200");
    it.redis.cmd(&["DEL", "user:username:alice"]);
    becomes(&it.gateway, &token, "200");
    it.redis.cmd(&["SET", "user:username:alice", "7", "EX", "300"]);
    becomes(&it.gateway, &token, "403 user_banned");
}

#[test]
fn an_alias_of_two_users_is_an_outage_and_not_one_of_them() {
    let it = scene(&[&cache()]);
    it.database.psql("UPDATE users SET phone_number = '+1 555 0100'");
    it.database.psql("UPDATE users SET username = 'twin'");
    becomes(&it.gateway, &it.world.issuer.good("twin"), "503 ledger_unavailable");
}

#[test]
fn a_number_is_an_id_first_and_a_phone_number_where_nobody_has_that_id() {
    let it = scene(&[&cache()]);
    it.database.psql("UPDATE users SET phone_number = '12345' WHERE id = 7");
    it.database.psql("INSERT INTO users (id, phone_number, is_active) VALUES (54321, '0', true)");
    becomes(&it.gateway, &it.world.issuer.good("12345"), "200");
    assert_eq!(set_status(&it.gateway, "7", "banned").0, 200);
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("12345")), "403 user_banned");
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("54321")), "200");
}

#[test]
fn upstreams_are_told_the_profile_and_never_a_secret() {
    let it = scene(&[&cache(), TOLD]);
    let token = it.world.issuer.good("alice@example.com");
    assert_eq!(verdict(&it.gateway, &token), "200");
    let told = |index: usize, name: &str| it.world.origin.requests()[index].values(name);
    assert_eq!(told(0, "x-user-id"), ["alice@example.com"]);
    assert_eq!(told(0, "x-id"), ["7"]);
    assert_eq!(told(0, "x-user-email"), ["alice@example.com"]);
    assert_eq!(told(0, "x-role"), ["admin"]);
    eventually("the row is cached", || text(&it.redis, "user:id:7").ok_or("not yet"));
    let cached = document(&it.redis, "user:id:7");
    assert_eq!(
        (&cached["id"], &cached["is_active"], &cached["role"]),
        (&json!(7), &json!(true), &json!("admin"))
    );
    assert!(cached.get("hashed_password").is_none() && cached.get("reset_token").is_none(), "{cached}");
    assert!((1..=300).contains(&ttl(&it.redis, "user:id:7")));

    // The service caches it anew, with what it should not.
    let user = json!({"id": 7, "email": "new@example.com", "is_active": true, "hashed_password": "$2b$12$notforanybody"});
    it.redis.cmd(&["SET", "user:id:7", &user.to_string(), "EX", "300"]);
    eventually("the new profile is told", || {
        it.world.origin.forget();
        assert_eq!(verdict(&it.gateway, &token), "200");
        match told(0, "x-user-email") {
            it if it == ["new@example.com"] => Ok(()),
            other => Err(other),
        }
    });
    assert!(told(0, "x-role").is_empty(), "what is not known is not told");

    // A value with a line end in it makes no header, and no second one.
    assert_eq!(verdict(&it.gateway, &it.world.issuer.good("8")), "200");
    assert!(told(1, "x-role").is_empty() && told(1, "x-admin").is_empty());
    assert_eq!(told(1, "x-user-email"), ["bob@example.com"]);

    // A client's own is not passed on, told or not.
    let authorization = format!("Authorization: Bearer {token}");
    let headers = [authorization.as_str(), "X-Role: root", "X_User_Email: root@example.com"];
    assert_eq!(it.gateway.request("GET", "/x", &headers, b"").status, 200);
    assert!(told(2, "x-role").is_empty());
    assert_eq!(told(2, "x-user-email"), ["new@example.com"]);
    for request in it.world.origin.requests() {
        assert!(!request.text().contains("notforanybody"));
    }
    assert!(!it.gateway.log().contains("notforanybody"));
}

#[test]
fn profiles_are_told_from_the_table_where_redis_is_gone() {
    let mut it = scene(&[&cache(), TOLD]);
    it.redis.kill();
    let token = it.world.issuer.good("alice");
    becomes(&it.gateway, &token, "200");
    let seen = it.world.origin.requests();
    assert_eq!(seen.last().unwrap().values("x-user-email"), ["alice@example.com"]);
}

#[test]
fn a_header_that_would_tell_a_secret_is_refused_and_one_that_nobody_can_fill_is_never_there() {
    let world = World::new();
    let identity = |header: &str| format!("[identity]\nheaders = {{ x-it = \"{header}\" }}\n");
    let secret = world.setup(&[&cache(), &identity("{profile.hashed_password}")]).toml();
    assert!(String::from_utf8(Gateway::fails(&secret).stderr).unwrap().contains("secret"));

    let gateway = world.start(&[&presets(&["native"]), &identity("{profile.email}")]);
    assert!(gateway.log().contains("user-cache"), "it is warned of");
    let bearer = format!("Authorization: Bearer {}", world.issuer.good("7"));
    assert_eq!(gateway.request("GET", "/x", &[&bearer, "X-It: forged", "x_it: forged"], b"").status, 200);
    assert!(!world.origin.only().text().contains("forged"));
}

#[test]
fn a_session_store_and_a_user_cache_count_together() {
    let (world, redis, database) = (World::new(), Redis::start(), Postgres::shared().create_database());
    database.psql(USERS);
    database.psql("CREATE TABLE sessions (token text PRIMARY KEY, user_id int, expires_at timestamptz, is_active boolean DEFAULT true)");
    let both = presets(&["session-store", "user-cache"]);
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), &both, TOLD]);
    let token = world.issuer.good("alice@example.com");
    assert_eq!(verdict(&gateway, &token), "401 session_revoked");
    // The set is kept by id. A change that is on its way to Redis lets the database be asked: it knows the session, too.
    let row = "INSERT INTO sessions (token, user_id, expires_at) VALUES";
    database.psql(&format!("{row} ('{token}', 7, now() + interval '1 hour')"));
    redis.cmd(&["SADD", "user:tokens:7", &token]);
    becomes(&gateway, &token, "200");
    assert_eq!(world.origin.only().values("x-user-email"), ["alice@example.com"]);
    assert_eq!(set_status(&gateway, "alice", "deactivated").0, 200);
    assert_eq!(verdict(&gateway, &token), "403 user_deactivated");
    assert_eq!(set_status(&gateway, "7", "active").0, 200);
    assert_eq!(verdict(&gateway, &token), "200");
    gateway.revoke_token(&token);
    assert_eq!(verdict(&gateway, &token), "401 token_revoked");
    assert_eq!(redis.cmd(&["SISMEMBER", "user:tokens:7", &token]), Reply::Integer(0));
}
