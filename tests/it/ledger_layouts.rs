//! Layouts that services already write, read as they stand: no service has to change for its ban to count at the gateway.

use crate::ledger_common::{World, becomes, patient_redis, presets, sha256, verdict};
use crate::support::now;
use crate::support::redis::Redis;

const LISTED: &str =
    r#"{"userId":1,"expiresAt":"2026-11-21T05:00:00.000Z","blacklistedAt":"2026-11-21T04:50:00.000Z"}"#;

#[test]
fn a_token_that_a_service_blacklists_is_revoked_at_the_next_request() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["token-blacklist"])]);
    let (token, other) = (world.issuer.good("1"), world.issuer.good("1"));
    let key = format!("blacklist:{token}");
    assert_eq!(verdict(&gateway, &token), "200");
    for value in [LISTED, "1", "true", ""] {
        redis.cmd(&["SET", &key, value, "EX", "900"]);
        becomes(&gateway, &token, "401 token_revoked");
        assert_eq!(verdict(&gateway, &other), "200", "another token of the same user");
        redis.cmd(&["DEL", &key]);
        becomes(&gateway, &token, "200");
    }
    redis.cmd(&["SET", &key, LISTED, "PX", "1500"]);
    becomes(&gateway, &token, "401 token_revoked");
    becomes(&gateway, &token, "200");
}

#[test]
fn the_blacklist_is_asked_by_the_whole_token_and_not_by_a_hash_of_it() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["token-blacklist"])]);
    let token = world.issuer.good("1");
    redis.cmd(&["SET", &format!("blacklist:{}", sha256(&token)), "1"]);
    becomes(&gateway, &token, "200");
}

#[test]
fn a_prefix_and_a_hashed_key_of_ones_own_are_a_matter_of_configuration() {
    let (world, redis) = (World::new(), Redis::start());
    let ledger = "[ledger]\npresets = [\"token-blacklist\"]\n\
        [ledger.preset.token-blacklist]\nprefix = \"auth/bl/\"\n\
        [[ledger.rules]]\nname = \"hashed\"\nguards = \"token\"\nkey = \"revoked:{token_sha256}\"\n\
        deny_if = \"exists\"\nreason = \"token_revoked\"\n";
    let gateway = world.start(&[&patient_redis(&redis), ledger]);
    let (first, second) = (world.issuer.good("1"), world.issuer.good("2"));
    redis.cmd(&["SET", &format!("auth/bl/{first}"), "1"]);
    redis.cmd(&["SET", &format!("revoked:{}", sha256(&second)), "1"]);
    becomes(&gateway, &first, "401 token_revoked");
    becomes(&gateway, &second, "401 token_revoked");
}

#[test]
fn an_invalid_user_is_turned_away_with_the_word_that_the_key_holds() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &presets(&["invalid-users"])]);
    let token = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &token), "200");
    for (value, expected) in [
        ("banned", "403 user_banned"),
        ("1", "403 user_banned"),
        ("", "403 user_banned"),
        ("DEACTIVATED", "403 user_deactivated"),
        ("\"deleted\"", "403 user_deleted"),
        ("security_action", "401 user_security_action"),
    ] {
        redis.cmd(&["SET", "invalid_user:7", value, "EX", "604800"]);
        becomes(&gateway, &token, expected);
        becomes(&gateway, &world.issuer.good("8"), "200");
    }
    redis.cmd(&["PEXPIRE", "invalid_user:7", "1000"]);
    becomes(&gateway, &token, "200");
}

#[test]
fn invalid_users_may_be_one_set_or_one_sorted_set() {
    let world = World::new();
    for (layout, add, remove) in [
        ("set", vec!["SADD", "invalid_users", "7"], vec!["SREM", "invalid_users", "7"]),
        ("sorted_set", vec!["ZADD", "invalid_users", "1800000000", "7"], vec!["ZREM", "invalid_users", "7"]),
    ] {
        let redis = Redis::start();
        let ledger =
            format!("{}[ledger.preset.invalid-users]\nlayout = \"{layout}\"\n", presets(&["invalid-users"]));
        let gateway = world.start(&[&patient_redis(&redis), &ledger]);
        let token = world.issuer.good("7");
        becomes(&gateway, &token, "200");
        redis.cmd(&add);
        becomes(&gateway, &token, "403 user_banned");
        assert_eq!(verdict(&gateway, &world.issuer.good("70")), "200", "{layout}: another member");
        redis.cmd(&remove);
        becomes(&gateway, &token, "200");
        redis.cmd(&add);
        redis.cmd(&["PEXPIRE", "invalid_users", "1000"]);
        becomes(&gateway, &token, "200");
    }
}

#[test]
fn presets_combined_all_count() {
    let (world, redis) = (World::new(), Redis::start());
    let all = presets(&["native", "token-blacklist", "invalid-users"]);
    let gateway = world.start(&[&patient_redis(&redis), &all]);
    let mut claims = world.issuer.claims("7");
    claims["jti"] = "the-id".into();
    claims["sid"] = "the-session".into();
    let token = world.issuer.token("7", |it| *it = claims.clone());
    let cut_off = format!(r#"{{"status":"active","not_before":{}}}"#, now() * 1000);
    becomes(&gateway, &token, "200");
    let hash = format!("pc:token:{}", sha256(&token));
    let listed = format!("blacklist:{token}");
    for (key, value, expected) in [
        (listed.as_str(), "1", "401 token_revoked"),
        (hash.as_str(), "revoked", "401 token_revoked"),
        ("pc:jti:the-id", "revoked", "401 token_revoked"),
        ("pc:session:the-session", "revoked", "401 session_revoked"),
        ("invalid_user:7", "1", "403 user_banned"),
        ("pc:user:7", r#"{"status":"deleted"}"#, "403 user_deleted"),
        ("pc:user:7", &cut_off, "401 issued_before_cutoff"),
    ] {
        redis.cmd(&["SET", key, value]);
        becomes(&gateway, &token, expected);
        redis.cmd(&["DEL", key]);
        becomes(&gateway, &token, "200");
    }
}
