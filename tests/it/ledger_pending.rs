//! Changes that Redis does not take at once, changes at the same time, and a Redis that has forgotten everything.

use serde_json::{Value, json};

use crate::ledger_common::{
    Pair, becomes, call, document, metric, metric_becomes, readiness_becomes, set_status, text, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;

const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL, last_security_action timestamptz); \
     INSERT INTO users SELECT id, 'active' FROM generate_series(1, 40) AS id";

#[test]
fn a_ban_that_redis_could_not_take_is_enforced_by_everybody_and_delivered_later() {
    let pair = Pair::start(USERS, &["native", "token-blacklist", "invalid-users"]);
    let [banned, unbanned, token] = ["7", "8", "9"].map(|it| pair.world.issuer.good(it));
    set_status(&pair.here, "8", "banned");
    for gateway in pair.gateways() {
        // Redis holds that nothing is held against 7 and 9.
        assert_eq!(verdict(gateway, &banned), "200");
        assert_eq!(verdict(gateway, &token), "200");
        assert_eq!(verdict(gateway, &unbanned), "403 user_banned");
    }
    // Redis goes on answering questions, and takes nothing: the worst case, since what it says is old.
    pair.redis.cmd(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let (code, answer) = set_status(&pair.here, "7", "banned");
    assert_eq!((code, &answer["redis"]), (202, &json!("pending")));
    assert_eq!(verdict(&pair.here, &banned), "403 user_banned", "who was told knows at once");
    assert_eq!(set_status(&pair.here, "8", "active").0, 202);
    assert_eq!(verdict(&pair.here, &unbanned), "200");
    let body = json!({ "token": token });
    assert_eq!(call(&pair.there, "POST", "/v1/tokens/revoke", &body).0, 202);
    assert_eq!(verdict(&pair.there, &token), "401 token_revoked");
    for gateway in pair.gateways() {
        becomes(gateway, &banned, "403 user_banned");
        becomes(gateway, &unbanned, "200");
        becomes(gateway, &token, "401 token_revoked");
        metric_becomes(gateway, "portcullis_outbox_pending", 3.0);
        readiness_becomes(gateway, 200, "ready", "database");
    }
    assert_eq!(text(&pair.redis, "invalid_user:7"), None);
    assert_eq!(pair.database.psql("SELECT count(*) FROM portcullis_outbox"), "3");

    pair.redis.cmd(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    for gateway in pair.gateways() {
        metric_becomes(gateway, "portcullis_outbox_pending", 0.0);
        readiness_becomes(gateway, 200, "ready", "coherent");
        assert_eq!(verdict(gateway, &banned), "403 user_banned");
        assert_eq!(verdict(gateway, &unbanned), "200");
        assert_eq!(verdict(gateway, &token), "401 token_revoked");
    }
    assert_eq!(document(&pair.redis, "pc:user:7")["status"], "banned");
    assert_eq!(text(&pair.redis, "invalid_user:7").as_deref(), Some("banned"));
    assert_eq!(text(&pair.redis, "invalid_user:8"), None);
    assert!(text(&pair.redis, &format!("blacklist:{token}")).is_some());
}

#[test]
fn a_change_while_redis_is_dead_is_delivered_when_it_is_back() {
    let mut pair = Pair::start(USERS, &["native", "invalid-users"]);
    let token = pair.world.issuer.good("7");
    pair.redis.kill();
    let (code, answer) = set_status(&pair.here, "7", "banned");
    assert_eq!((code, &answer["redis"]), (202, &json!("pending")));
    assert_eq!(verdict(&pair.here, &token), "403 user_banned");
    becomes(&pair.there, &token, "403 user_banned");
    metric_becomes(&pair.here, "portcullis_outbox_pending", 1.0);
    pair.redis.restart();
    for gateway in pair.gateways() {
        readiness_becomes(gateway, 200, "ready", "coherent");
        metric_becomes(gateway, "portcullis_outbox_pending", 0.0);
    }
    assert_eq!(text(&pair.redis, "invalid_user:7").as_deref(), Some("banned"));
    assert_eq!(document(&pair.redis, "pc:user:7")["version"], answer["version"]);
}

#[test]
fn of_changes_at_the_same_time_the_newest_wins_in_the_database_in_redis_and_in_the_verdict() {
    let pair = Pair::start(USERS, &["native", "invalid-users"]);
    let users: Vec<String> = (1..=6).map(|id| id.to_string()).collect();
    let words = ["banned", "active", "deactivated", "active", "deleted", "active", "banned"];
    // Each gateway changes every user again and again, while Redis stops taking anything now and then.
    std::thread::scope(|scope| {
        for (turn, gateway) in pair.gateways().into_iter().enumerate() {
            for user in &users {
                let offset = turn + user.parse::<usize>().unwrap();
                scope.spawn(move || {
                    for step in 0..words.len() {
                        let word = words[(step + offset) % words.len()];
                        change_patiently(gateway, user, word);
                    }
                });
            }
        }
        for _ in 0..3 {
            pair.redis.cmd(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
            crate::support::pause(std::time::Duration::from_millis(40));
            pair.redis.cmd(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        }
    });
    for gateway in pair.gateways() {
        metric_becomes(gateway, "portcullis_outbox_pending", 0.0);
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
    for user in &users {
        let row = pair
            .database
            .psql(&format!("SELECT status, version FROM portcullis_users WHERE subject = '{user}'"));
        let (status, version) = row.split_once('|').unwrap();
        let theirs = pair.database.psql(&format!("SELECT status FROM users WHERE user_id = {user}"));
        assert_eq!(theirs, status, "user {user}");
        let in_redis = text(&pair.redis, &format!("invalid_user:{user}"));
        assert_eq!(in_redis.as_deref(), (status != "active").then_some(status), "user {user}");
        let token = pair.world.issuer.good(user);
        let expected = if status == "active" { "200".to_owned() } else { format!("403 user_{status}") };
        for gateway in pair.gateways() {
            assert_eq!(verdict(gateway, &token), expected, "user {user}");
        }
        if status != "active" {
            let native = document(&pair.redis, &format!("pc:user:{user}"));
            assert_eq!(
                (&native["status"], native["version"].to_string().as_str()),
                (&json!(status), version)
            );
        }
    }
}

/// The control door lets so many calls pass in a second, and says when to come again.
fn change_patiently(gateway: &Gateway, user: &str, status: &str) {
    eventually("the change is made", || match set_status(gateway, user, status) {
        (200 | 202, _) => Ok(()),
        (429, _) => Err("not yet".to_owned()),
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_flushed_redis_and_an_empty_one_lift_no_ban() {
    for names in [&["native"][..], &["token-blacklist", "invalid-users"]] {
        // Typed into the table, as a service without Redis would: nothing ever stood in Redis.
        let typed = format!("{USERS}; UPDATE users SET status = 'deleted' WHERE user_id = 9");
        let mut pair = Pair::start(&typed, names);
        let [token, banned] = ["7", "8"].map(|it| pair.world.issuer.good(it));
        pair.here.revoke_token(&token);
        pair.here.ban("8");
        let other = pair.world.issuer.good("10");
        let check = |pair: &Pair| {
            for gateway in pair.gateways() {
                assert_eq!(verdict(gateway, &token), "401 token_revoked", "{names:?}");
                assert_eq!(verdict(gateway, &banned), "403 user_banned", "{names:?}");
                assert_eq!(verdict(gateway, &other), "200", "{names:?}");
                if names.contains(&"invalid-users") {
                    assert_eq!(verdict(gateway, &pair.world.issuer.good("9")), "403 user_deleted");
                }
            }
        };
        check(&pair);
        pair.redis.cmd(&["FLUSHALL"]);
        check(&pair);
        pair.redis.cmd(&["FLUSHALL", "ASYNC"]);
        check(&pair);
        pair.redis.restart();
        check(&pair);
        for gateway in pair.gateways() {
            readiness_becomes(gateway, 200, "ready", "coherent");
        }
        check(&pair);
        pair.here.activate("8");
        for gateway in pair.gateways() {
            // Whoever had to ask the database remembers for a second what it said.
            becomes(gateway, &banned, "200");
        }
    }
}

#[test]
fn what_nobody_could_present_any_more_is_pruned_and_counted() {
    let pair = Pair::start(USERS, &["native", "token-blacklist"]);
    pair.here.revoke_token(&pair.world.issuer.good("7"));
    pair.here.ban("8");
    let (code, stats) = call(&pair.there, "GET", "/v1/stats", &Value::Null);
    assert_eq!(
        (code, &stats["revoked_tokens"], &stats["users"]["banned"]),
        (200, &json!(2), &json!(1)),
        "{stats}"
    );
    pair.database.psql(
        "UPDATE portcullis_tokens SET expires_at = expires_at - 86400000; \
         UPDATE blacklisted_tokens SET expires_at = expires_at - interval '1 day'",
    );
    let (code, pruned) = call(&pair.here, "POST", "/v1/prune", &Value::Null);
    assert_eq!(
        (code, &pruned["tokens"], &pruned["blacklisted_tokens"]),
        (200, &json!(2), &json!(1)),
        "{pruned}"
    );
    assert_eq!(pair.database.psql("SELECT count(*) FROM blacklisted_tokens"), "0");
    assert_eq!(metric(&pair.here, "portcullis_outbox_pending"), 0.0);
}
