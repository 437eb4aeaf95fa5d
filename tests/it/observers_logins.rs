//! `track = "session"`: what a login opens is kept before the client has it, and its answer passes as it came.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::ledger_common::{document, patient, patient_redis, ttl};
use crate::observers::{Scene, setup};
use crate::support::gateway::Setup;
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::origin::{Answer, Origin};
use crate::support::postgres::Postgres;
use crate::support::raw;
use crate::support::redis::{Redis, Reply};
use crate::support::{eventually, now};

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
    // A client that knows no chunks gets the length instead.
    let mut old = scene.gateway.raw();
    old.send("POST /login HTTP/1.0\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    let response = old.response();
    assert_eq!((response.header("transfer-encoding"), response.text()), (None, body.clone()));
    assert_eq!(response.header("content-length"), Some(body.len().to_string().as_str()));
    let until_close =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{body}");
    scene
        .origin
        .answer(move |_| Answer { raw: Some(until_close.clone().into_bytes()), ..Answer::ok().closing() });
    assert_eq!(raw::request(address, "POST", "/login", &[], b"").text(), body);
    assert_eq!(scene.observed("login", "track_session", "applied"), 3.0);
}

#[test]
fn a_login_whose_tokens_cannot_be_verified_for_want_of_keys_is_an_outage() {
    let (redis, origin, issuer) = (Redis::start(), Origin::start(), Issuer::new(Algorithm::ES256));
    let keys = JwksServer::serving(&issuer.jwks());
    keys.fail();
    let gateway = Setup::new()
        .section(
            &issuer.config_with(&format!("jwks_url = \"{}\"\njwks = {{ cooldown = \"1s\" }}", keys.url())),
        )
        .section(&patient_redis(&redis))
        .section("[ledger]\npresets = [\"token-blacklist\"]\n")
        .upstream("app", &origin)
        .route(
            "name = \"login\"\npath = \"/login\"\nupstream = \"app\"\nauth = \"public\"\n\
             on_response = [{ track = \"session\", token_at = \"/accessToken\" }]",
        )
        .start();
    let answer = json_answer(json!({ "accessToken": issuer.good("7") }).to_string());
    origin.answer(move |_| answer.clone());
    let response = gateway.request("POST", "/login", &[], b"");
    assert_eq!((response.status, response.reason().as_str()), (503, "ledger_unavailable"));
    keys.keys(&issuer.jwks());
    eventually("the keys are there", || match gateway.request("POST", "/login", &[], b"").status {
        200 => Ok(()),
        other => Err(other),
    });
}
