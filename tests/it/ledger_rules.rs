//! Rules of the operator's own: every form of `deny_if`, with a database behind and without.

use serde_json::json;

use crate::ledger_common::{World, becomes, patient, patient_redis, text, ttl, verdict};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::{eventually, now};

#[test]
fn every_form_of_deny_if_asks_redis() {
    let (world, redis) = (World::new(), Redis::start());
    let rule = |name: &str, key: &str, deny_if: &str| {
        format!(
            "[[ledger.rules]]\nname = \"{name}\"\nguards = \"user\"\nkey = \"{key}\"\ndeny_if = {deny_if}\n"
        )
    };
    let rules = [
        "[ledger]\npresets = []\n".to_owned(),
        rule("exists", "exists:{sub}", "\"exists\""),
        rule("equals", "active:{sub}", "{ equals = [\"false\", \"0\"] }"),
        rule("flag", "flag:{sub}", "{ equals = [false] }"),
        rule("json", "profile:{sub}", "{ json = \"/account/is_active\", equals = [false, \"no\"] }"),
        rule("field", "account:{sub}", "{ field = \"status\", equals = [\"frozen\", \"closed\"] }"),
        rule("set", "all_frozen", "{ contains = \"{sub}\" }"),
        rule("cutoff", "cutoff:{sub}", "{ issued_before = \"\" }"),
        rule("json_cutoff", "sessions:{sub}", "{ issued_before = \"/not_before\" }"),
        rule("tenant", "tenant:{claims.tenant}:frozen", "\"exists\""),
    ];
    let gateway = world.start(&[&patient_redis(&redis), &rules.concat()]);
    let token = world.issuer.token("7", |claims| claims["tenant"] = json!("acme"));
    let (before, after) = (now() - 100, now() + 100);
    let (seconds, millis) = (after.to_string(), (after * 1000).to_string());
    let long_ago = before.to_string();
    let in_json = format!(r#"{{"not_before":{after}}}"#);
    assert_eq!(verdict(&gateway, &token), "200");
    let cases: &[(&[&str], &str)] = &[
        (&["SET", "exists:7", ""], "403 exists"),
        (&["SET", "active:7", "false"], "403 equals"),
        (&["SET", "active:7", "\"false\""], "403 equals"),
        (&["SET", "active:7", "0"], "403 equals"),
        (&["SET", "active:7", "true"], "200"),
        (&["SET", "flag:7", "False"], "403 flag"),
        (&["SET", "flag:7", "0"], "403 flag"),
        (&["SET", "flag:7", "1"], "200"),
        (&["SET", "flag:7", "maybe"], "503 ledger_unavailable"),
        (&["SET", "profile:7", r#"{"account":{"is_active":false}}"#], "403 json"),
        (&["SET", "profile:7", r#"{"account":{"is_active":true}}"#], "200"),
        (&["SET", "profile:7", r#"{"account":{}}"#], "200"),
        (&["SET", "profile:7", "{"], "503 ledger_unavailable"),
        (&["HSET", "account:7", "status", "frozen"], "403 field"),
        (&["HSET", "account:7", "status", "open"], "200"),
        (&["HSET", "account:7", "other", "frozen"], "200"),
        (&["SADD", "all_frozen", "7", "8"], "403 set"),
        (&["SADD", "all_frozen", "8"], "200"),
        (&["SET", "cutoff:7", &seconds], "403 cutoff"),
        (&["SET", "cutoff:7", &millis], "403 cutoff"),
        (&["SET", "cutoff:7", "2125-01-01T00:00:00Z"], "403 cutoff"),
        (&["SET", "cutoff:7", &long_ago], "200"),
        (&["SET", "cutoff:7", "2020-01-01T00:00:00+02:00"], "200"),
        (&["SET", "cutoff:7", "yesterday"], "503 ledger_unavailable"),
        (&["SET", "sessions:7", &in_json], "403 json_cutoff"),
        (&["SET", "tenant:acme:frozen", "1"], "403 tenant"),
        (&["LPUSH", "active:7", "false"], "503 ledger_unavailable"),
    ];
    for (command, expected) in cases {
        redis.cmd(command);
        becomes(&gateway, &token, expected);
        redis.cmd(&["DEL", command[1]]);
        becomes(&gateway, &token, "200");
    }
    let without = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &without), "401 token_claims", "a user rule's claim is missing");
}

#[test]
fn what_redis_does_not_know_the_database_answers_and_the_answer_is_kept_for_its_ttl() {
    let (world, redis) = (World::new(), Redis::start());
    let database = Postgres::shared().create_database();
    database.psql("CREATE TABLE accounts (id int PRIMARY KEY, is_active boolean); INSERT INTO accounts VALUES (7, true), (8, false)");
    let rule = "[ledger]\npresets = []\n[[ledger.rules]]\nname = \"inactive\"\nguards = \"user\"\n\
        key = \"user:{sub}:active\"\ndeny_if = { equals = [false] }\nif_absent = \"ask_database\"\nttl = \"100s\"\n\
        sql = { query = \"SELECT is_active FROM accounts WHERE id = {sub:int}\", deny_if = { equals = [false] } }\n";
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), rule]);
    let (good, bad) = (world.issuer.good("7"), world.issuer.good("8"));
    assert_eq!(verdict(&gateway, &good), "200");
    assert_eq!(verdict(&gateway, &bad), "403 inactive");
    for (key, value) in [("user:7:active", "true"), ("user:8:active", "false")] {
        eventually("the answer is kept", || match text(&redis, key) {
            Some(it) if it == value => Ok(()),
            other => Err(other),
        });
        assert!((1..=100).contains(&ttl(&redis, key)), "{key}: {}", ttl(&redis, key));
    }
    // It is a cache: the table is not looked at before the key is gone.
    database.psql("UPDATE accounts SET is_active = NOT is_active");
    assert_eq!(
        (verdict(&gateway, &good).as_str(), verdict(&gateway, &bad).as_str()),
        ("200", "403 inactive")
    );
    redis.cmd(&["DEL", "user:7:active", "user:8:active"]);
    becomes(&gateway, &good, "403 inactive");
    becomes(&gateway, &bad, "200");
    redis.cmd(&["SET", "user:7:active", "true"]);
    becomes(&gateway, &good, "200");
    assert_eq!(
        verdict(&gateway, &world.issuer.good("seven")),
        "503 ledger_unavailable",
        "no such id can be asked about"
    );
}

#[test]
fn where_presence_allows_absence_asks_the_database() {
    let (world, redis) = (World::new(), Redis::start());
    let database = Postgres::shared().create_database();
    database.psql("CREATE TABLE sessions (token text PRIMARY KEY, user_id text)");
    let rules = "[ledger]\npresets = []\n\
        [[ledger.rules]]\nname = \"no_session\"\nguards = \"user\"\nkey = \"session:{sub}\"\ndeny_if = \"missing\"\n\
        sql = { query = \"SELECT 1 FROM sessions WHERE user_id = {sub}\", deny_if = \"missing\" }\n\
        [[ledger.rules]]\nname = \"not_a_member\"\nguards = \"token\"\nkey = \"user:tokens:{sub}\"\n\
        deny_if = { lacks = \"{token}\" }\n\
        sql = { query = \"SELECT 1 FROM sessions WHERE token = {token}\", deny_if = \"missing\" }\n";
    let gateway = world.start(&[&patient_redis(&redis), &patient(&database), rules]);
    let token = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &token), "403 no_session");
    redis.cmd(&["SET", "session:7", "x"]);
    becomes(&gateway, &token, "401 not_a_member");
    redis.cmd(&["SADD", "user:tokens:7", "another", &token]);
    becomes(&gateway, &token, "200");
    redis.cmd(&["FLUSHALL"]);
    database.psql(&format!("INSERT INTO sessions VALUES ('{token}', '7')"));
    becomes(&gateway, &token, "200");
    database.psql("DELETE FROM sessions");
    becomes(&gateway, &token, "403 no_session");
}

#[test]
fn a_claim_cannot_name_another_users_key_or_another_rules() {
    let (world, redis) = (World::new(), Redis::start());
    let rules = "[ledger]\npresets = [\"native\", \"invalid-users\"]\n\
        [[ledger.rules]]\nname = \"session\"\nguards = \"user\"\nkey = \"user:{sub}:session\"\ndeny_if = \"exists\"\n\
        [[ledger.rules]]\nname = \"flag\"\nguards = \"user\"\nkey = \"user:{sub}\"\ndeny_if = \"exists\"\n";
    let gateway = world.start(&[&patient_redis(&redis), rules]);
    let hostile = [
        "7:session",
        "*",
        "7*",
        "?",
        "[7]",
        "7\n",
        "\r\nDEL pc:user:7\r\n",
        "{7}",
        "{{7}}",
        "../7",
        "a/7",
        "7 ",
        " 7",
        "7\u{0}",
        "7\"",
        "7'",
        "7`",
        "7\\",
        "\u{2028}",
        "",
    ];
    for subject in hostile {
        let said = verdict(&gateway, &world.issuer.good(subject));
        assert_eq!(said, "401 token_claims", "{subject:?}");
    }
    world.origin.saw_nothing();
    redis.cmd(&["SET", "user:7:session", "1"]);
    becomes(&gateway, &world.issuer.good("7"), "403 session");
    for plain in [
        "70",
        "seven@example.com",
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "d9428888-122b-11e1-b85c-61cd3cbb3210",
        "ü",
    ] {
        assert_eq!(verdict(&gateway, &world.issuer.good(plain)), "200", "{plain:?}");
    }
}
