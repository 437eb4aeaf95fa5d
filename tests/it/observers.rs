//! `on_response`: what the service's own answers tell is stored before the client hears it.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::ledger_common::{becomes, metric, patient, patient_redis, text, verdict};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::postgres::Postgres;
use crate::support::raw::Response;
use crate::support::redis::Redis;
use crate::support::{eventually, now};

pub struct Scene {
    pub issuer: Issuer,
    pub origin: Origin,
    pub gateway: Gateway,
}

/// Everything guarded; `/{revoke}` revokes a token, session or user on `2xx`.
fn scene(sections: &[&str]) -> Scene {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let setup = sections.iter().fold(setup(&issuer, &origin), |setup, section| setup.section(section));
    Scene { gateway: setup.start(), issuer, origin }
}

pub fn setup(issuer: &Issuer, origin: &Origin) -> Setup {
    let revoke = |what: &str| {
        format!(
            "name = \"{what}\"\npath = \"/{what}\"\nupstream = \"app\"\non_response = [{{ revoke = \"{what}\" }}]"
        )
    };
    Gateway::guarding(issuer, origin)
        .route(&revoke("token"))
        .route(&revoke("session"))
        .route(&format!("{}\nauth = \"optional\"", revoke("user")))
}

impl Scene {
    fn post(&self, path: &str, token: &str) -> Response {
        let bearer = format!("Authorization: Bearer {token}");
        self.gateway.request("POST", path, &[&bearer], b"")
    }

    fn verdict(&self, token: &str) -> String {
        verdict(&self.gateway, token)
    }

    pub fn observed(&self, route: &str, action: &str, outcome: &str) -> f64 {
        let labels = format!("action=\"{action}\",outcome=\"{outcome}\",route=\"{route}\"");
        metric(&self.gateway, &format!("portcullis_observed_total{{{labels}}}"))
    }

    pub fn audit(&self, action: &str) -> Vec<Value> {
        let lines = self.gateway.audit();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["action"] == action).collect()
    }
}

#[test]
fn a_token_is_revoked_when_the_service_grants_the_logout_and_only_then() {
    let scene = scene(&[]);
    let (token, other) = (scene.issuer.good("alice"), scene.issuer.good("alice"));
    for status in [400, 401, 500, 302] {
        scene.origin.answer(move |_| Answer::new(status, "no"));
        assert_eq!(scene.post("/token", &token).status, status);
    }
    scene.origin.answer(|_| Answer::ok());
    assert_eq!(scene.verdict(&token), "200", "nothing was granted yet");
    let response = scene.post("/token", &token);
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(scene.verdict(&token), "401 token_revoked", "the very next request");
    assert_eq!(scene.verdict(&other), "200");
    assert_eq!(scene.observed("token", "revoke_token", "applied"), 1.0);
    let audit = scene.audit("token.revoke");
    assert_eq!(audit.len(), 1, "{audit:?}");
    let line = &audit[0];
    assert_eq!((&line["actor"], &line["outcome"]), (&json!("observer"), &json!("applied")));
    assert_eq!(line["detail"], "token");
    assert_eq!(line["target"].as_str().unwrap().len(), 16, "the token's fingerprint");
    assert!(line["version"].is_i64() && line["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn a_session_or_a_user_is_revoked_as_the_route_says() {
    let scene = scene(&[]);
    let with = |subject: &str, sid: &str| scene.issuer.token(subject, |claims| claims["sid"] = json!(sid));
    let (phone, phone_too, desk) = (with("alice", "phone"), with("alice", "phone"), with("alice", "desk"));
    assert_eq!(scene.post("/session", &phone).status, 200);
    for gone in [&phone, &phone_too] {
        assert_eq!(scene.verdict(gone), "401 session_revoked");
    }
    assert_eq!(scene.verdict(&desk), "200");
    let bare = scene.issuer.token("alice", |claims| drop(claims.as_object_mut().unwrap().remove("sid")));
    assert_eq!(scene.post("/session", &bare).status, 200);
    assert_eq!(scene.verdict(&bare), "401 token_revoked", "a token without a session is all there is of it");
    assert_eq!(scene.post("/user", &desk).status, 200);
    assert_eq!(scene.verdict(&desk), "401 issued_before_cutoff");
    assert_eq!(scene.verdict(&scene.issuer.good("bob")), "200");
    let newer = scene.issuer.token("alice", |claims| claims["iat"] = json!(now() + 2));
    assert_eq!(scene.verdict(&newer), "200", "a new login works");
    assert_eq!(scene.audit("user.logout")[0]["target"], "alice");
    // Nobody is logged out by nobody.
    assert_eq!(scene.gateway.request("POST", "/user", &[], b"").status, 200);
    assert_eq!(scene.observed("user", "revoke_user", "applied"), 1.0);
}

#[test]
fn every_place_and_spelling_of_a_token_is_revoked_as_it_was_presented() {
    let scene = scene(&[]);
    for before in ["Cookie: x=1; access_token=", "Authorization: bearer \t"] {
        let token = scene.issuer.good("alice");
        let header = format!("{before}{token}");
        assert_eq!(scene.gateway.request("POST", "/token", &[&header], b"").status, 200);
        assert_eq!(scene.verdict(&token), "401 token_revoked");
    }
    let token = scene.issuer.good("alice");
    let query = format!("/token?a=1&access%5Ftoken={token}");
    assert_eq!(scene.gateway.get(&query, None).status, 200);
    assert_eq!(scene.verdict(&token), "401 token_revoked");
}

#[test]
fn answers_without_a_body_old_clients_and_interim_answers_are_observed_as_well() {
    let scene = scene(&[]);
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let token = scene.issuer.good("alice");
    assert_eq!(scene.gateway.request("HEAD", "/token", &[&bearer(&token)], b"").status, 200);
    assert_eq!(scene.verdict(&token), "401 token_revoked");

    let token = scene.issuer.good("alice");
    scene.origin.answer(|_| Answer { raw: Some(b"HTTP/1.1 204 No\r\n\r\n".to_vec()), ..Answer::ok() });
    assert_eq!(scene.post("/token", &token).status, 204);
    assert_eq!(scene.verdict(&token), "401 token_revoked");

    let token = scene.issuer.good("alice");
    scene.origin.answer(|_| Answer { raw: Some(b"HTTP/1.1 304 No\r\n\r\n".to_vec()), ..Answer::ok() });
    assert_eq!(scene.post("/token", &token).status, 304);
    scene.origin.answer(|_| Answer::ok());
    assert_eq!(scene.verdict(&token), "200", "304 is none of 2xx");

    let mut raw = scene.gateway.raw();
    raw.send(format!(
        "POST /token HTTP/1.0\r\n{}\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        bearer(&token)
    ));
    assert_eq!(raw.response().status, 200);
    assert_eq!(scene.verdict(&token), "401 token_revoked");

    let token = scene.issuer.good("alice");
    let interim =
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    scene.origin.answer(move |_| Answer { raw: Some(interim.to_vec()), ..Answer::ok() });
    let mut raw = scene.gateway.raw();
    raw.send(format!(
        "POST /token HTTP/1.1\r\n{}\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        bearer(&token)
    ));
    assert_eq!((raw.response().status, raw.response().status), (103, 200));
    scene.origin.answer(|_| Answer::ok());
    assert_eq!(scene.verdict(&token), "401 token_revoked");
    assert_eq!(scene.observed("token", "revoke_token", "applied"), 4.0, "once each");
}

#[test]
fn a_service_that_dies_and_a_client_that_leaves_in_the_middle_do_not_undo_a_logout() {
    let scene = scene(&[]);
    // So much that it is passed on before the rest has come.
    let half = [b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n".to_vec(), vec![b'x'; 300_000]].concat();
    let dying = half.clone();
    scene.origin.answer(move |_| Answer { raw: Some(dying.clone()), ..Answer::ok().closing() });
    let token = scene.issuer.good("alice");
    let request = |token: &str| {
        format!(
            "POST /token HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let mut raw = scene.gateway.raw();
    raw.send(request(&token));
    assert!(raw.try_response().is_err(), "the answer is cut off");
    let left = scene.issuer.good("alice");
    scene.origin.answer(move |_| Answer { raw: Some(half.clone()), ..Answer::ok() });
    let mut raw = scene.gateway.raw();
    raw.send(request(&left));
    raw.bytes(12);
    drop(raw);
    // A page that is left in the moment of its logout does not wait for any answer.
    let hasty = scene.issuer.good("alice");
    scene.origin.forget();
    scene.origin.answer(|_| Answer::ok().delayed(Duration::from_millis(300)));
    let mut raw = scene.gateway.raw();
    raw.send(request(&hasty));
    eventually("the service has the request", || match scene.origin.requests().len() {
        1 => Ok(()),
        other => Err(other),
    });
    drop(raw);
    scene.origin.answer(|_| Answer::ok());
    for token in [token, left, hasty] {
        becomes(&scene.gateway, &token, "401 token_revoked");
    }
}

#[test]
fn what_cannot_be_stored_is_a_503_and_no_success_is_heard_of() {
    let mut postgres = Postgres::start();
    let database = patient(&postgres.create_database());
    let scene = scene(&[&database, "[ledger]\non_outage = \"allow\""]);
    let token = scene.issuer.good("alice");
    scene.origin.answer(|_| Answer::new(200, "logged out").header("Set-Cookie", "session=; Max-Age=0"));
    postgres.kill();
    let response = scene.post("/token", &token);
    assert_eq!((response.status, response.reason().as_str()), (503, "ledger_unavailable"));
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("set-cookie"), None, "nothing of the service's answer");
    assert_eq!(scene.observed("token", "revoke_token", "failed"), 1.0);
    assert_eq!(scene.audit("token.revoke")[0]["outcome"], "failed");
    assert_eq!(scene.origin.requests().len(), 1, "the service did log out");
    // It may be tried again.
    postgres.restart();
    eventually("the logout is stored", || match scene.post("/token", &token).status {
        200 => Ok(()),
        other => Err(other),
    });
    // Until a probe has found the database, `on_outage = "allow"` still lets everybody pass.
    becomes(&scene.gateway, &token, "401 token_revoked");
}

#[test]
fn while_redis_is_down_a_logout_counts_and_is_told_to_redis_later() {
    let mut redis = Redis::start();
    let section = patient_redis(&redis);
    let scene = scene(&[&section]);
    let token = scene.issuer.good("alice");
    assert_eq!(scene.verdict(&token), "200");
    redis.kill();
    assert_eq!(scene.post("/token", &token).status, 200);
    assert_eq!(scene.verdict(&token), "401 token_revoked");
    assert_eq!(scene.observed("token", "revoke_token", "pending"), 1.0);
    redis.restart();
    let key = format!("pc:token:{}", crate::ledger_common::sha256(&token));
    eventually("Redis is told", || text(&redis, &key).filter(|it| it == "revoked").ok_or(()));
}

#[test]
fn a_websocket_is_not_observed() {
    let scene = scene(&[]);
    let token = scene.issuer.good("alice");
    scene.origin.answer(|_| Answer::switch_to_websocket());
    let mut raw = scene.gateway.raw();
    raw.send(format!(
        "GET /token HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ));
    assert_eq!(raw.response().status, 101);
    drop(raw);
    scene.origin.answer(|_| Answer::ok());
    assert_eq!(scene.verdict(&token), "200");
}
