//! `auth = "refresh"`: the token found in body, cookie or header, the database asked, the body left as it came.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::ledger_common::{lookups, patient, patient_redis, text};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::postgres::Postgres;
use crate::support::raw::Response;
use crate::support::redis::Redis;
use crate::support::{eventually, now};

pub const JSON: &str = "Content-Type: application/json";

pub struct Scene {
    pub issuer: Issuer,
    pub origin: Origin,
    pub gateway: Gateway,
}

/// A refresh route at `/refresh`, everything else guarded.
pub fn scene(route: &str, sections: &[&str]) -> Scene {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let setup = setup(&issuer, &origin, route);
    let gateway = sections.iter().fold(setup, |setup, section| setup.section(section)).start();
    Scene { issuer, origin, gateway }
}

pub fn setup(issuer: &Issuer, origin: &Origin, route: &str) -> Setup {
    Gateway::guarding(issuer, origin).route(&format!(
        "name = \"refresh\"\npath = \"/refresh\"\nmethods = [\"POST\"]\nupstream = \"app\"\nauth = \"refresh\"\n{route}"
    ))
}

/// As systems mint them: longer lived, without an audience, and saying what they are.
pub fn refresh_token(issuer: &Issuer, subject: &str) -> String {
    issuer.token(subject, |claims| {
        claims.as_object_mut().unwrap().remove("aud");
        claims["exp"] = json!(now() + 604_800);
        claims["type"] = json!("refresh");
    })
}

impl Scene {
    pub fn token(&self, subject: &str) -> String {
        refresh_token(&self.issuer, subject)
    }

    pub fn post(&self, headers: &[&str], body: impl AsRef<[u8]>) -> Response {
        self.gateway.request("POST", "/refresh", headers, body.as_ref())
    }

    fn json(&self, body: &Value) -> Response {
        self.post(&[JSON], body.to_string())
    }

    fn refresh(&self, token: &str) -> Response {
        self.json(&json!({ "refreshToken": token }))
    }

    /// `200`, or the status and the reason.
    fn verdict(&self, token: &str) -> String {
        said(&self.refresh(token))
    }
}

pub fn said(response: &Response) -> String {
    match response.status {
        200 => "200".to_owned(),
        status => format!("{status} {}", response.reason()),
    }
}

pub const BODY: &str = "token_from = \"body:refreshToken\"";

#[test]
fn refresh_tokens_differ_from_access_tokens_and_neither_passes_for_the_other() {
    let tokens = "[issuers.refresh]\naudience = [\"https://auth.test\"]\nrequired = [\"exp\", \"iat\", \"sub\", \"iss\", \"aud\"]";
    let (issuer, origin) = (Issuer::new(Algorithm::ES256), Origin::start());
    let strict = Gateway::guarding(&issuer, &origin);
    let toml = strict.toml().replace("[[upstreams]]", &format!("{tokens}\n[[upstreams]]"));
    let route =
        "[[routes]]\nname = \"refresh\"\npath = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n";
    let gateway = Gateway::start(&format!("{toml}\n{route}{BODY}\n"));
    let post = |token: &str| {
        said(&gateway.request(
            "POST",
            "/refresh",
            &[JSON],
            json!({ "refreshToken": token }).to_string().as_bytes(),
        ))
    };
    let refresh = issuer.token("alice", |claims| claims["aud"] = json!("https://auth.test"));
    // The same token first here and then there: what is known of it as one is not known of it as the other.
    assert_eq!(post(&refresh), "200");
    assert_eq!(gateway.get("/x", Some(&refresh)).reason(), "token_audience");
    let access = issuer.good("alice");
    assert_eq!(gateway.get("/x", Some(&access)).status, 200);
    assert_eq!(post(&access), "401 token_audience");
    assert_eq!(post(&refresh_token(&issuer, "alice")), "401 token_claims", "it lacks aud");
    let typed = |typ: &str| {
        let mut claims = issuer.claims("alice");
        claims["aud"] = json!("https://auth.test");
        issuer.sign(&json!({ "alg": "ES256", "typ": typ, "kid": issuer.kid }), &claims)
    };
    assert_eq!(post(&typed("rt+jwt")), "200");
    assert_eq!(post(&typed("at+jwt")), "401 token_malformed", "it says itself that it is an access token");
}

#[test]
fn bad_tokens_are_refused_in_words_that_make_a_client_log_in_again() {
    let scene = scene(BODY, &[]);
    let expired = scene.issuer.expired("alice");
    let response = scene.refresh(&expired);
    assert_eq!(said(&response), "401 token_expired");
    let problem = response.json();
    assert_eq!(problem["error"], "invalid_grant");
    assert_eq!(problem["detail"], "The refresh token has expired; please log in again.");
    let challenge = response.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer error=\"invalid_token\"") && challenge.contains("log in again"));
    for opaque in ["not-a-jwt", "b2b8f1a0c4e94d7f8a55"] {
        let response = scene.refresh(opaque);
        assert_eq!(
            (said(&response).as_str(), &response.json()["error"]),
            ("401 token_malformed", &json!("invalid_grant"))
        );
    }
    assert_eq!(said(&scene.refresh(&Issuer::new(Algorithm::HS256).good("alice"))), "401 token_issuer");
    let missing = scene.json(&json!({ "other": 1 }));
    assert_eq!(
        (said(&missing).as_str(), &missing.json()["error"]),
        ("401 token_missing", &json!("invalid_request"))
    );
    // An access token beside it is not what is asked for, and not looked at.
    let bearer = format!("Authorization: Bearer {expired}");
    let body = json!({ "refreshToken": scene.token("alice") }).to_string();
    scene.origin.saw_nothing();
    assert_eq!(scene.post(&[JSON, &bearer], body).status, 200);
}

#[test]
fn a_ban_a_logout_and_a_change_of_status_end_refresh_tokens() {
    let scene = scene(BODY, &[]);
    let token = scene.issuer.token("alice", |claims| claims["iat"] = json!(now() - 100));
    assert_eq!(scene.verdict(&token), "200");
    scene.gateway.ban("alice");
    let banned = scene.refresh(&token);
    assert_eq!(
        (said(&banned).as_str(), &banned.json()["error"]),
        ("403 user_banned", &json!("invalid_grant"))
    );
    scene.gateway.activate("alice");
    assert_eq!(scene.gateway.get("/x", Some(&token)).status, 200, "as an access token it is good again");
    let changed = scene.refresh(&token);
    assert_eq!(said(&changed), "401 issued_before_cutoff");
    assert_eq!(changed.json()["detail"], "The refresh token is no longer valid; please log in again.");
    let newer = scene.issuer.token("alice", |claims| claims["iat"] = json!(now() + 2));
    assert_eq!(scene.verdict(&newer), "200");
    scene.gateway.logout("bob");
    let old = scene.issuer.token("bob", |claims| claims["iat"] = json!(now() - 100));
    assert_eq!(scene.verdict(&old), "401 issued_before_cutoff");
    let other = scene.token("carol");
    scene.gateway.revoke_token(&other);
    assert_eq!(scene.verdict(&other), "401 token_revoked");
}

#[test]
fn the_database_is_always_asked_whatever_redis_says_in_the_tokens_favour() {
    let (redis, database) = (Redis::start(), Postgres::shared().create_database());
    let sections = [patient_redis(&redis), patient(&database)];
    let scene = scene(BODY, &sections.each_ref().map(String::as_str));
    let token = scene.token("alice");
    let access = scene.issuer.good("alice");
    assert_eq!(scene.verdict(&token), "200");
    assert_eq!(scene.gateway.get("/x", Some(&access)).status, 200);
    let before = lookups(&scene.gateway, "database", "clear");
    for round in 1..=3 {
        assert_eq!(scene.verdict(&token), "200");
        // Each time, though the last answer is not a second old.
        let asked = lookups(&scene.gateway, "database", "clear") - before;
        assert!(asked >= f64::from(round), "{asked} questions in {round} rounds");
    }
    // The truth changes behind everybody's back, and Redis goes on saying that all is well.
    let active = text(&redis, "pc:user:alice");
    database.psql(&format!(
        "INSERT INTO portcullis_users (realm, subject, status, version, updated_at, renewed_at) \
         VALUES ('', 'alice', 'banned', 1, {0}, {0})",
        now() * 1000
    ));
    assert_eq!(text(&redis, "pc:user:alice"), active);
    assert_eq!(scene.verdict(&token), "403 user_banned");
    // And what Redis holds against a token is enough.
    let bob = scene.token("bob");
    assert_eq!(scene.verdict(&bob), "200");
    redis.cmd(&["SET", "pc:user:bob", r#"{"status":"banned"}"#]);
    assert_eq!(scene.verdict(&bob), "403 user_banned");
}

#[test]
fn without_the_database_nobody_is_refreshed_and_nobody_is_logged_out() {
    let redis = Redis::start();
    let mut postgres = Postgres::start();
    let config = patient(&postgres.create_database());
    let sections = [patient_redis(&redis), config, "[ledger]\non_outage = \"allow\"".to_owned()];
    let scene = scene(BODY, &sections.each_ref().map(String::as_str));
    let token = scene.token("alice");
    assert_eq!(scene.verdict(&token), "200");
    let banned = scene.token("mallory");
    redis.cmd(&["SET", "pc:user:mallory", r#"{"status":"banned"}"#]);
    postgres.kill();
    scene.origin.forget();
    let response = eventually("the database is missed", || match scene.refresh(&token) {
        it if it.status == 503 => Ok(it),
        other => Err(other.status),
    });
    assert_eq!(response.reason(), "ledger_unavailable");
    assert_eq!(
        (response.header("retry-after"), &response.json()["error"]),
        (Some("1"), &json!("temporarily_unavailable"))
    );
    assert_eq!(scene.verdict(&banned), "403 user_banned", "a known denial outweighs an outage");
}

#[test]
fn a_change_of_status_in_the_services_own_table_ends_what_was_issued_before_it() {
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE users (user_id bigint PRIMARY KEY, status text NOT NULL, \
         status_updated_at timestamptz, last_security_action timestamptz); \
         INSERT INTO users VALUES (7, 'active', NULL, NULL), (8, 'active', now() - interval '1 day', NULL)",
    );
    let sections = [patient(&database), "[ledger]\npresets = [\"invalid-users\"]".to_owned()];
    let scene = scene(BODY, &sections.each_ref().map(String::as_str));
    let issued = |subject: &str, ago: u64| scene.issuer.token(subject, |it| it["iat"] = json!(now() - ago));
    let old = issued("7", 100);
    assert_eq!(scene.verdict(&old), "200", "never changed");
    assert_eq!(scene.verdict(&issued("8", 100)), "200", "changed before it was issued");
    database.psql(
        "UPDATE users SET status = 'banned', status_updated_at = now() - interval '50 s' WHERE user_id = 7",
    );
    assert_eq!(scene.verdict(&old), "403 user_banned", "at once: nobody remembers");
    database.psql("UPDATE users SET status = 'active' WHERE user_id = 7");
    assert_eq!(scene.verdict(&old), "401 issued_before_cutoff");
    assert_eq!(scene.verdict(&issued("7", 10)), "200", "a login since then");
    assert_eq!(scene.verdict(&issued("9", 10)), "403 user_unknown");
}
