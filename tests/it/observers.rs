//! `on_response`: what the service's own answers tell is stored before the client hears it.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::ledger_common::{becomes, document, metric, patient, patient_redis, text, ttl, verdict};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::postgres::Postgres;
use crate::support::raw::{self, Response};
use crate::support::redis::{Redis, Reply};
use crate::support::{eventually, now};

struct Scene {
    issuer: Issuer,
    origin: Origin,
    gateway: Gateway,
}

/// Everything guarded; `/{revoke}` revokes a token, session or user on `2xx`, `/login` tracks.
fn scene(sections: &[&str]) -> Scene {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let setup = sections.iter().fold(setup(&issuer, &origin), |setup, section| setup.section(section));
    Scene { gateway: setup.start(), issuer, origin }
}

fn setup(issuer: &Issuer, origin: &Origin) -> Setup {
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

/// A scene that tracks what `/login` answers; needs a preset that keeps it.
fn tracking(redis: &Redis, sections: &[&str]) -> Scene {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let track = "{ status = \"200\", track = \"session\", token_at = \"/accessToken\", refresh_at = \"/data/refreshToken\", max_bytes = \"4KiB\" }";
    let setup = setup(&issuer, &origin)
        .route(&format!(
            "name = \"login\"\npath = \"/login\"\nupstream = \"app\"\nauth = \"public\"\non_response = [{track}]"
        ))
        .route(&format!(
            "name = \"refresh\"\npath = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n\
             token_from = \"body:refreshToken\"\non_response = [{{ status = 200, revoke = \"token\" }}, {track}]"
        ))
        .section(&patient_redis(redis))
        .section("[ledger]\npresets = [\"native\", \"token-blacklist\"]\non_outage = \"allow\"\n");
    let setup = sections.iter().fold(setup, |setup, section| setup.section(section));
    Scene { gateway: setup.start(), issuer, origin }
}

impl Scene {
    fn post(&self, path: &str, token: &str) -> Response {
        let bearer = format!("Authorization: Bearer {token}");
        self.gateway.request("POST", path, &[&bearer], b"")
    }

    fn verdict(&self, token: &str) -> String {
        verdict(&self.gateway, token)
    }

    fn observed(&self, route: &str, action: &str, outcome: &str) -> f64 {
        let labels = format!("action=\"{action}\",outcome=\"{outcome}\",route=\"{route}\"");
        metric(&self.gateway, &format!("portcullis_observed_total{{{labels}}}"))
    }

    fn audit(&self, action: &str) -> Vec<Value> {
        let lines = self.gateway.audit();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["action"] == action).collect()
    }

    /// A login's answer, and the refresh token in it.
    fn opened(&self, subject: &str) -> (Value, String) {
        let refresh = self.issuer.token(subject, |claims| {
            claims.as_object_mut().unwrap().remove("aud");
            claims["exp"] = json!(now() + 604_800);
        });
        let access = self.issuer.good(subject);
        (json!({ "accessToken": access, "data": { "refreshToken": refresh } }), refresh)
    }
}

fn json_answer(body: impl AsRef<[u8]>) -> Answer {
    Answer::new(200, body).header("Content-Type", "application/json")
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
    let ways: [(&str, fn(&str) -> String); 2] = [
        ("/token", |token| format!("Cookie: x=1; access_token={token}")),
        ("/token", |token| format!("Authorization: bearer \t{token}")),
    ];
    for (path, header) in ways {
        let token = scene.issuer.good("alice");
        assert_eq!(scene.gateway.request("POST", path, &[&header(&token)], b"").status, 200);
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

fn packed<W: Write>(mut writer: W, text: &str, finish: impl FnOnce(W) -> Vec<u8>) -> Vec<u8> {
    writer.write_all(text.as_bytes()).unwrap();
    finish(writer)
}

fn gzip(text: &str) -> Vec<u8> {
    packed(GzEncoder::new(Vec::new(), Compression::default()), text, |it| it.finish().unwrap())
}

#[test]
fn what_a_login_opens_is_kept_before_the_client_has_it_however_the_answer_is_packed() {
    let redis = Redis::start();
    let scene = tracking(&redis, &[]);
    let zlib = |text: &str| {
        packed(ZlibEncoder::new(Vec::new(), Compression::fast()), text, |it| it.finish().unwrap())
    };
    let bare = |text: &str| {
        packed(DeflateEncoder::new(Vec::new(), Compression::fast()), text, |it| it.finish().unwrap())
    };
    let plain = |text: &str| text.as_bytes().to_vec();
    type Packing<'a> = (Option<&'static str>, &'a dyn Fn(&str) -> Vec<u8>);
    let packings: [Packing; 4] =
        [(None, &plain), (Some("gzip"), &gzip), (Some("deflate"), &zlib), (Some("deflate"), &bare)];
    let mut expected = 0.0;
    let mut client = scene.gateway.raw();
    for (encoding, pack) in packings {
        for chunked in [false, true] {
            let (body, refresh) = scene.opened("7");
            let bytes = pack(&body.to_string());
            let mut answer = json_answer(&bytes).header("Set-Cookie", "a=1").header("Set-Cookie", "b=2");
            answer.chunked = chunked;
            if let Some(encoding) = encoding {
                answer = answer.header("Content-Encoding", encoding);
            }
            scene.origin.answer(move |_| answer.clone());
            // One connection for all: an answer that was held back does not cost it.
            client.send("POST /login HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: br, gzip, deflate\r\nContent-Length: 0\r\n\r\n");
            let response = client.response();
            // At once, without waiting for anything.
            let kept = document(&redis, &format!("refresh_token:{refresh}"));
            assert_eq!((&kept["userId"], &kept["isRevoked"]), (&json!(7), &json!(false)));
            assert!(kept["expiresAt"].as_str().is_some_and(|it| it.ends_with('Z')));
            let left = ttl(&redis, &format!("refresh_token:{refresh}"));
            assert!((604_700..=604_800).contains(&left), "{left}");
            assert_eq!(response.status, 200);
            assert_eq!(response.body, bytes, "{encoding:?}, chunked: {chunked}");
            assert_eq!(response.header("content-encoding"), encoding);
            let length = bytes.len().to_string();
            assert_eq!(response.header("content-length"), (!chunked).then_some(length.as_str()));
            let cookies = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
            assert_eq!(cookies.count(), 2);
            expected += 1.0;
            assert_eq!(scene.observed("login", "track_session", "applied"), expected);
        }
    }
    let seen = scene.origin.requests();
    assert!(seen.iter().all(|seen| seen.values("accept-encoding") == ["gzip, deflate"]), "what can be read");
    assert_eq!(scene.origin.connections(), 1, "nor does it cost the service's");
    let audit = scene.audit("session.track");
    assert_eq!((audit.len(), &audit[0]["actor"], &audit[0]["target"]), (8, &json!("observer"), &json!("7")));
}

#[test]
fn an_answer_that_is_not_read_passes_as_it_is_and_is_counted() {
    let redis = Redis::start();
    let scene = tracking(&redis, &[]);
    let (body, refresh) = scene.opened("7");
    let long = |mut body: Value| {
        body["pad"] = json!("x".repeat(100_000));
        body.to_string().into_bytes()
    };
    let foreign = Issuer::new(Algorithm::HS256);
    let mixed = json!({ "accessToken": scene.issuer.good("8"), "data": { "refreshToken": refresh } });
    let bomb = gzip(&String::from_utf8(long(body.clone())).unwrap());
    let cases = [
        ("too_long", json_answer(long(body.clone()))),
        ("too_long", json_answer(long(body.clone())).chunked()),
        ("too_long", json_answer(bomb).header("Content-Encoding", "gzip")),
        ("unreadable", json_answer("{\"accessToken\":")),
        ("unreadable", json_answer(body.to_string()).header("Content-Encoding", "br")),
        ("unreadable", json_answer(body.to_string()).header("Content-Encoding", "gzip")),
        ("unreadable", Answer::new(200, body.to_string()).header("Content-Type", "text/html")),
        ("no_token", json_answer("")),
        ("no_token", json_answer("{\"accessToken\":7}")),
        ("unverified", json_answer(json!({ "accessToken": foreign.good("7") }).to_string())),
        ("unverified", json_answer(json!({ "accessToken": scene.issuer.expired("7") }).to_string())),
        ("unverified", json_answer(mixed.to_string())),
    ];
    for (outcome, answer) in cases {
        // An empty body is no JSON, and holds no token: what it is called matters less than that it passes.
        let outcome = if answer.body.is_empty() { "unreadable" } else { outcome };
        let before = scene.observed("login", "track_session", outcome);
        let sent = answer.body.clone();
        let chunked = answer.chunked;
        scene.origin.answer(move |_| answer.clone());
        let response = scene.gateway.request("POST", "/login", &[], b"");
        assert_eq!(response.status, 200, "{outcome}");
        assert!(response.body == sent, "{outcome}, chunked: {chunked}: {} bytes", response.body.len());
        assert_eq!(scene.observed("login", "track_session", outcome), before + 1.0, "{outcome}");
    }
    assert_eq!(redis.cmd(&["EXISTS", &format!("refresh_token:{refresh}")]), Reply::Integer(0));
    assert_eq!(scene.observed("login", "track_session", "applied"), 0.0);
    scene.origin.answer(|_| Answer::new(401, "{}"));
    assert_eq!(scene.gateway.request("POST", "/login", &[], b"").status, 401);
    assert_eq!(scene.gateway.request("HEAD", "/login", &[], b"").status, 401);
    assert!(scene.audit("session.track").is_empty());
}

#[test]
fn a_login_that_cannot_be_kept_is_a_503_and_its_tokens_are_not_handed_out() {
    let redis = Redis::start();
    let mut postgres = Postgres::start();
    let database = patient(&postgres.create_database());
    let scene = tracking(&redis, &[&database]);
    let (body, refresh) = scene.opened("7");
    for chunked in [false, true] {
        let mut answer = json_answer(body.to_string()).header("Set-Cookie", "session=secret");
        answer.chunked = chunked;
        scene.origin.answer(move |_| answer.clone());
        postgres.kill();
        let mut client = scene.gateway.raw();
        client.send("POST /login HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        let response = client.response();
        assert_eq!(
            (response.status, response.reason().as_str()),
            (503, "ledger_unavailable"),
            "chunked: {chunked}"
        );
        assert_eq!(response.header("set-cookie"), None);
        assert!(!response.text().contains(&refresh));
        postgres.restart();
        eventually("a login is kept again", || {
            client.send("POST /login HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
            match client.response().status {
                200 => Ok(()),
                other => Err(other),
            }
        });
    }
    assert_eq!(document(&redis, &format!("refresh_token:{refresh}"))["isRevoked"], false);
}

#[test]
fn a_service_that_dies_within_a_login_is_a_502_and_nothing_is_kept() {
    let redis = Redis::start();
    let scene = tracking(&redis, &[]);
    let (body, refresh) = scene.opened("7");
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len() + 1
    );
    scene.origin.answer(move |_| Answer {
        raw: Some(format!("{head}{body}").into_bytes()),
        ..Answer::ok().closing()
    });
    let response = scene.gateway.request("POST", "/login", &[], b"");
    assert_eq!((response.status, response.reason().as_str()), (502, "upstream_unavailable"));
    assert_eq!(redis.cmd(&["EXISTS", &format!("refresh_token:{refresh}")]), Reply::Integer(0));
}

#[test]
fn a_refresh_that_is_granted_ends_the_old_token_and_keeps_the_new_one() {
    let redis = Redis::start();
    let scene = tracking(&redis, &[]);
    let (_, old) = scene.opened("7");
    let (body, new) = scene.opened("7");
    let answer = json_answer(body.to_string());
    scene.origin.answer(move |_| answer.clone());
    let refresh = |token: &str| {
        let body = json!({ "refreshToken": token }).to_string();
        scene.gateway.request("POST", "/refresh", &["Content-Type: application/json"], body.as_bytes())
    };
    assert_eq!(refresh(&old).json(), body);
    assert_eq!(document(&redis, &format!("refresh_token:{new}"))["isRevoked"], false);
    let again = refresh(&old);
    assert_eq!((again.status, again.reason().as_str()), (401, "token_revoked"), "used once");
    assert_eq!(refresh(&new).status, 200);
    assert_eq!(scene.origin.requests().len(), 2);
}

#[test]
fn a_slow_login_in_drips_is_held_whole_and_old_clients_get_it_as_well() {
    let redis = Redis::start();
    let scene = tracking(&redis, &[]);
    let (body, refresh) = scene.opened("7");
    let body = body.to_string();
    let mut chunks =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for part in body.as_bytes().chunks(7) {
        chunks.extend(format!("{:x}\r\n", part.len()).into_bytes());
        chunks.extend(part);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    scene.origin.answer(move |_| Answer { raw: Some(chunks.clone()), ..Answer::ok() });
    let address = scene.gateway.addr();
    assert_eq!(raw::request(address, "POST", "/login", &[], b"").text(), body);
    assert_eq!(document(&redis, &format!("refresh_token:{refresh}"))["userId"], 7);
    // Close-delimited, for a client that knows no chunks.
    let until_close =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{body}");
    scene
        .origin
        .answer(move |_| Answer { raw: Some(until_close.clone().into_bytes()), ..Answer::ok().closing() });
    assert_eq!(raw::request(address, "POST", "/login", &[], b"").text(), body);
    assert_eq!(scene.observed("login", "track_session", "applied"), 2.0);
}
