//! Changes through the control door: what is written where, and that another gateway knows at its very next request.

use serde_json::{Value, json};

use crate::ledger_common::{
    Pair, World, becomes, call, document, patient_redis, presets, set_status, sha256, text, ttl, verdict,
};
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::issuer::Issuer;
use crate::support::now;
use crate::support::redis::{Redis, Reply};

const WEEK: i64 = 7 * 24 * 3600;

const ALL: [&str; 3] = ["native", "token-blacklist", "invalid-users"];
const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL DEFAULT 'active', \
     status_updated_at timestamptz, last_security_action timestamptz); INSERT INTO users VALUES (7), (8)";

impl Pair {
    fn users(&self, columns: &str) -> String {
        self.database.psql(&format!("SELECT {columns} FROM users WHERE user_id = 7"))
    }

    /// A token issued after every cut-off so far.
    fn newer(&self, subject: &str) -> String {
        self.world.issuer.token(subject, |claims| claims["iat"] = json!(now() + 20))
    }
}

#[test]
fn a_ban_counts_at_the_next_request_on_every_gateway_and_stands_in_every_layout() {
    let pair = Pair::start(USERS, &ALL);
    let (token, other) = (pair.world.issuer.good("7"), pair.world.issuer.good("8"));
    pair.both(&token, "200");
    for (status, expected) in [
        ("banned", "403 user_banned"),
        ("deactivated", "403 user_deactivated"),
        ("deleted", "403 user_deleted"),
    ] {
        let (code, answer) = set_status(&pair.here, "7", status);
        assert_eq!((code, &answer["redis"]), (200, &json!("applied")));
        pair.both(&token, expected);
        pair.both(&other, "200");
        assert_eq!(text(&pair.redis, "invalid_user:7").as_deref(), Some(status));
        assert!((WEEK - 60..=WEEK).contains(&ttl(&pair.redis, "invalid_user:7")));
        let native = document(&pair.redis, "pc:user:7");
        let wanted = json!({ "status": status, "reason": null, "until": null, "not_before": null, "version": answer["version"] });
        assert_eq!(native, wanted);
        assert!((WEEK - 60..=WEEK).contains(&ttl(&pair.redis, "pc:user:7")));
        assert_eq!(
            pair.users("status, status_updated_at IS NOT NULL, last_security_action"),
            format!("{status}|t|")
        );
        let row = pair.database.psql("SELECT status, version FROM portcullis_users WHERE subject = '7'");
        assert_eq!(row, format!("{status}|{}", answer["version"]));
    }
    assert_eq!(call(&pair.there, "GET", "/v1/users/7", &Value::Null).1["status"], "deleted");
    assert_eq!(set_status(&pair.there, "7", "active").0, 200);
    pair.both(&token, "200");
    assert_eq!((text(&pair.redis, "invalid_user:7"), pair.users("status")), (None, "active".to_owned()));
    assert_eq!(pair.database.psql("SELECT count(*) FROM portcullis_outbox"), "0");
}

#[test]
fn a_change_made_again_changes_nothing_but_the_version() {
    let pair = Pair::start(USERS, &ALL);
    let token = pair.world.issuer.good("7");
    let versions: Vec<i64> =
        (0..3).map(|_| set_status(&pair.here, "7", "banned").1["version"].as_i64().unwrap()).collect();
    assert!(versions.is_sorted() && versions[0] < versions[2], "{versions:?}");
    pair.both(&token, "403 user_banned");
    for _ in 0..2 {
        assert_eq!(set_status(&pair.there, "7", "active").0, 200);
        pair.both(&token, "200");
    }
    for _ in 0..2 {
        pair.here.revoke_token(&token);
        pair.both(&token, "401 token_revoked");
    }
    assert_eq!(pair.database.psql("SELECT count(*) FROM blacklisted_tokens"), "1");
}

#[test]
fn a_cut_off_voids_what_was_issued_up_to_that_second_and_outlives_an_activation() {
    let pair = Pair::start(USERS, &ALL);
    let tokens = |offset: i64| {
        let at = i64::try_from(now()).unwrap() + offset;
        pair.world.issuer.token("7", |claims| claims["iat"] = json!(at))
    };
    let (old, next) = (tokens(-1), tokens(30));
    pair.both(&old, "200");
    assert_eq!(call(&pair.here, "POST", "/v1/users/7/logout", &Value::Null).0, 200);
    for gateway in [&pair.here, &pair.there] {
        assert!(verdict(gateway, &old).starts_with("401 "), "{}", verdict(gateway, &old));
    }
    pair.both(&next, "200");
    assert_eq!(pair.users("status, last_security_action IS NOT NULL"), "active|t");
    let native = document(&pair.redis, "pc:user:7");
    let second = native["not_before"].as_i64().expect("an instant") / 1000;
    assert_eq!(native["status"], "active");
    // The boundary, in whole seconds.
    let at = |iat: i64| pair.world.issuer.token("7", |claims| claims["iat"] = json!(iat));
    pair.both(&at(second + 1), "200");
    for gateway in [&pair.here, &pair.there] {
        assert!(verdict(gateway, &at(second)).starts_with("401 "));
    }
    assert_eq!(
        text(&pair.redis, "invalid_user:7"),
        None,
        "services know no cut-off: it would block the user"
    );

    assert_eq!(set_status(&pair.there, "7", "security_action").0, 200);
    pair.both(&old, "401 user_security_action");
    assert_eq!(text(&pair.redis, "invalid_user:7").as_deref(), Some("security_action"));
    assert_eq!(pair.users("status"), "security_action");

    assert_eq!(set_status(&pair.here, "7", "banned").0, 200);
    pair.both(&next, "403 user_banned");
    assert_eq!(set_status(&pair.here, "7", "active").0, 200);
    assert_eq!(text(&pair.redis, "invalid_user:7"), None);
    pair.both(&pair.newer("7"), "200");
    for gateway in [&pair.here, &pair.there] {
        assert!(verdict(gateway, &old).starts_with("401 "), "old tokens stay dead");
    }
}

#[test]
fn one_token_one_id_one_session_are_revoked_and_nothing_else() {
    let pair = Pair::start(USERS, &ALL);
    let mint = |jti: &str, sid: &str| {
        pair.world.issuer.token("7", |claims| {
            claims["jti"] = json!(jti);
            claims["sid"] = json!(sid);
        })
    };
    let (whole, by_id, by_session, other) =
        (mint("one", "laptop"), mint("two", "laptop"), mint("three", "phone"), mint("four", "laptop"));
    for token in [&whole, &by_id, &by_session, &other] {
        pair.both(token, "200");
    }
    pair.here.revoke_token(&whole);
    pair.both(&whole, "401 token_revoked");
    let listed = document(&pair.redis, &format!("blacklist:{whole}"));
    assert_eq!(listed["userId"], 7, "an id that is a number is one");
    for instant in ["expiresAt", "blacklistedAt"] {
        assert!(
            listed[instant].as_str().is_some_and(|it| it.starts_with("20") && it.contains('T')),
            "{listed}"
        );
    }
    for key in [format!("blacklist:{whole}"), format!("pc:token:{}", sha256(&whole)), "pc:jti:one".to_owned()]
    {
        assert!(
            (500..=600).contains(&ttl(&pair.redis, &key)),
            "the rest of the token's life: {}",
            ttl(&pair.redis, &key)
        );
    }
    assert_eq!(pair.database.psql("SELECT user_id FROM blacklisted_tokens"), "7");
    assert_eq!(pair.database.psql("SELECT count(*) FROM portcullis_tokens"), "2");

    let body = json!({ "jti": "two", "exp": now() + 300 });
    assert_eq!(call(&pair.there, "POST", "/v1/tokens/revoke", &body).0, 200);
    pair.both(&by_id, "401 token_revoked");
    assert_eq!(call(&pair.here, "POST", "/v1/sessions/phone/revoke", &Value::Null).0, 200);
    pair.both(&by_session, "401 session_revoked");
    assert!(ttl(&pair.redis, "pc:session:phone") > WEEK - 60);
    pair.both(&other, "200");
    // Once more with an empty Redis: the database holds each of them.
    pair.redis.cmd(&["FLUSHALL"]);
    pair.both(&whole, "401 token_revoked");
    pair.both(&by_id, "401 token_revoked");
    pair.both(&by_session, "401 session_revoked");
    pair.both(&other, "200");
}

#[test]
fn a_ban_ends_by_itself_when_its_time_has_come() {
    let pair = Pair::start(USERS, &ALL);
    let token = pair.world.issuer.good("7");
    let until = pair
        .database
        .psql("SELECT to_char(now() at time zone 'utc' + interval '3 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    let body = json!({ "status": "banned", "reason": "spam", "until": until });
    assert_eq!(call(&pair.here, "PUT", "/v1/users/7/status", &body).0, 200);
    pair.both(&token, "403 user_banned");
    assert_eq!(document(&pair.redis, "pc:user:7")["reason"], "spam");
    let left = ttl(&pair.redis, "invalid_user:7");
    assert!((0..=3).contains(&left), "{left}");
    for gateway in [&pair.here, &pair.there] {
        becomes(gateway, &token, "200");
    }
    eventually("the table of users says so too", || match pair.users("status").as_str() {
        "active" => Ok(()),
        other => Err(other.to_owned()),
    });
    pair.both(&token, "200");
}

#[test]
fn what_nothing_enforces_is_not_accepted_and_an_unknown_user_is_named() {
    let pair = Pair::start(USERS, &ALL);
    assert_eq!(set_status(&pair.here, "9", "banned").0, 404);
    assert_eq!(call(&pair.here, "POST", "/v1/users/9/logout", &Value::Null).0, 404);
    let (code, problem) = set_status(&pair.here, "nine", "banned");
    assert_eq!((code, &problem["field"]), (422, &json!("id")));
    // Nothing half-done: no row of ours, nothing for Redis (a canary's key may have a 9 in it).
    assert_eq!(pair.database.psql("SELECT count(*) FROM portcullis_users"), "0");
    assert!(matches!(pair.redis.cmd(&["KEYS", "*:9"]), Reply::List(keys) if keys.is_empty()));

    let world = World::new();
    let blacklist = world.start(&[&presets(&["token-blacklist"])]);
    assert_eq!(set_status(&blacklist, "7", "banned").0, 409);
    assert_eq!(call(&blacklist, "POST", "/v1/users/7/logout", &Value::Null).0, 409);
    assert_eq!(call(&blacklist, "POST", "/v1/sessions/s/revoke", &Value::Null).0, 409);
    assert_eq!(call(&blacklist, "POST", "/v1/tokens/revoke", &json!({ "jti": "one" })).0, 409);
    let token = world.issuer.good("7");
    assert_eq!(call(&blacklist, "POST", "/v1/tokens/revoke", &json!({ "token": token })).0, 200);
    assert_eq!(verdict(&blacklist, &token), "401 token_revoked");
}

#[test]
fn the_same_subject_of_two_realms_is_two_users_and_of_one_realm_one() {
    let (world, redis) = (World::new(), Redis::start());
    let [second, third] = [(), ()].map(|()| Issuer::new(jsonwebtoken::Algorithm::ES256));
    let in_realm = |issuer: &Issuer, realm: &str| format!("{}realm = \"{realm}\"\n", issuer.config_toml());
    let gateway = Setup::new()
        .section(&in_realm(&world.issuer, "shop"))
        .section(&in_realm(&second, "acme"))
        .section(&in_realm(&third, "acme"))
        .section(&patient_redis(&redis))
        .upstream("app", &world.origin)
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
        .start();
    let tokens = [world.issuer.good("7"), second.good("7"), third.good("7")];
    let all = |expected: [&str; 3]| {
        tokens
            .iter()
            .zip(expected)
            .for_each(|(token, expected)| assert_eq!(verdict(&gateway, token), expected));
    };
    let set = |realm: &str, status: &str| {
        call(&gateway, "PUT", &format!("/v1/users/7/status{realm}"), &json!({ "status": status })).0
    };
    all(["200", "200", "200"]);
    assert_eq!(set("?realm=acme", "banned"), 200);
    all(["200", "403 user_banned", "403 user_banned"]);
    assert_eq!(document(&redis, "pc:user:acme/7")["status"], "banned");
    assert_eq!((set("?realm=shop", "banned"), set("?realm=acme", "active")), (200, 200));
    all(["403 user_banned", "200", "200"]);
    redis.cmd(&["FLUSHALL"]);
    all(["403 user_banned", "200", "200"]);
    assert_eq!((set("?realm=other", "banned"), set("", "banned")), (422, 422), "that would bind nobody");
}
