//! `auth = "refresh"`: the token found in body, cookie or header, the database asked, the body left as it came.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::ledger_common::{lookups, patient, patient_redis, text};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::postgres::Postgres;
use crate::support::raw::Response;
use crate::support::redis::Redis;
use crate::support::{eventually, now, pause};

const JSON: &str = "Content-Type: application/json";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

struct Scene {
    issuer: Issuer,
    origin: Origin,
    gateway: Gateway,
}

/// A refresh route at `/refresh`, everything else guarded.
fn scene(route: &str, sections: &[&str]) -> Scene {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let setup = setup(&issuer, &origin, route);
    let gateway = sections.iter().fold(setup, |setup, section| setup.section(section)).start();
    Scene { issuer, origin, gateway }
}

fn setup(issuer: &Issuer, origin: &Origin, route: &str) -> Setup {
    Gateway::guarding(issuer, origin).route(&format!(
        "name = \"refresh\"\npath = \"/refresh\"\nmethods = [\"POST\"]\nupstream = \"app\"\nauth = \"refresh\"\n{route}"
    ))
}

/// As systems mint them: longer lived, without an audience, and saying what they are.
fn refresh_token(issuer: &Issuer, subject: &str) -> String {
    issuer.token(subject, |claims| {
        claims.as_object_mut().unwrap().remove("aud");
        claims["exp"] = json!(now() + 604_800);
        claims["type"] = json!("refresh");
    })
}

impl Scene {
    fn token(&self, subject: &str) -> String {
        refresh_token(&self.issuer, subject)
    }

    fn post(&self, headers: &[&str], body: impl AsRef<[u8]>) -> Response {
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

fn said(response: &Response) -> String {
    match response.status {
        200 => "200".to_owned(),
        status => format!("{status} {}", response.reason()),
    }
}

const BODY: &str = "token_from = \"body:refreshToken\"";

#[test]
fn the_token_is_found_in_json_forms_cookies_and_headers_and_the_body_goes_on_as_it_came() {
    let everywhere = "token_from = [\"body:refreshToken\", \"body:/data/refresh_token\", \"cookie:rt\", \"header:x-refresh\"]";
    let scene = scene(everywhere, &[]);
    let token = scene.token("alice");
    let spaced = format!("{{ \"x\" : [1, 2.50],\n \"refreshToken\"\t: \"{token}\" }}");
    let nested = json!({ "data": { "refresh_token": token } }).to_string();
    let form = format!("grant_type=refresh_token&refreshToken={token}&x=%20+");
    let (cookie, header) = (format!("Cookie: a=1; rt={token}"), format!("X-Refresh: {token}"));
    let ways: [(&[&str], &str); 6] = [
        (&[JSON], &spaced),
        (&["Content-Type: application/json; charset=utf-8"], &nested),
        (&[FORM], &form),
        (&[&cookie], ""),
        (&[&header], ""),
        (&[JSON, &cookie, &header], &spaced),
    ];
    for (headers, body) in ways {
        assert_eq!(scene.post(headers, body).status, 200, "{headers:?}");
        let seen = scene.origin.only();
        assert_eq!(String::from_utf8_lossy(&seen.body), body);
        assert_eq!(seen.values("x-user-id"), ["alice"], "{headers:?}");
        scene.origin.forget();
    }
}

#[test]
fn a_body_in_chunks_and_in_drips_is_read_and_goes_on_whole() {
    let scene = scene(BODY, &[]);
    let body = json!({ "refreshToken": scene.token("alice"), "pad": "x".repeat(5_000) }).to_string();
    let mut raw = scene.gateway.raw();
    for framing in ["Transfer-Encoding: chunked".to_owned(), format!("Content-Length: {}", body.len())] {
        raw.send(format!("POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\n{framing}\r\n\r\n"));
        for part in body.as_bytes().chunks(1_000) {
            match framing.starts_with('T') {
                true => raw.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n"),
                false => raw.send(part),
            };
            pause(Duration::from_millis(2));
        }
        if framing.starts_with('T') {
            raw.send("0\r\n\r\n");
        }
        assert_eq!(raw.response().status, 200, "{framing}");
        let seen = scene.origin.only();
        let (head, wire) = (seen.text(), String::from_utf8_lossy(&seen.body).into_owned());
        // The frame may be another, the bytes within are the same.
        let unframed = if head.to_lowercase().contains("chunked") { unchunked(&wire) } else { wire };
        assert_eq!(unframed, body);
        scene.origin.forget();
    }
}

fn unchunked(mut wire: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = wire.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&rest[..size]);
        wire = rest[size..].strip_prefix("\r\n").unwrap();
    }
    body
}

#[test]
fn a_client_that_expects_to_be_asked_for_its_body_is_asked_once() {
    let scene = scene(BODY, &[]);
    let body = json!({ "refreshToken": scene.token("alice") }).to_string();
    let mut raw = scene.gateway.raw();
    let head = format!(
        "POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw.send(head);
    assert_eq!(raw.response().status, 100);
    raw.send(&body);
    assert_eq!(raw.response().status, 200);
    let seen = scene.origin.only();
    assert!(seen.values("expect").is_empty(), "it has been met");
    assert_eq!(String::from_utf8_lossy(&seen.body), body);
}

#[test]
fn what_two_readers_could_read_differently_is_refused_and_reaches_nobody() {
    let scene = scene("token_from = [\"body:refreshToken\", \"cookie:rt\"]", &[]);
    let (one, two) = (scene.token("alice"), scene.token("mallory"));
    let cookie = format!("Cookie: rt={two}");
    let bodies = [
        format!("{{\"refreshToken\":\"{one}\",\"refreshToken\":\"{two}\"}}"),
        format!("{{\"refreshToken\":\"{one}\",\"refresh\\u0054oken\":\"{two}\"}}"),
        format!("{{\"refreshToken\":\"{one}\",\"REFRESHTOKEN\":\"{two}\"}}"),
        format!("{{\"refreshToken\":[\"{one}\"]}}"),
        format!("[{{\"refreshToken\":\"{one}\"}}]"),
        format!("{{\"refreshToken\":\"{one}\"}} trailing"),
    ];
    for body in &bodies {
        assert_eq!(said(&scene.post(&[JSON], body)), "400 request_ambiguous", "{}", body.len());
    }
    for body in [
        format!("refreshToken={one}&refreshToken={two}"),
        format!("refreshToken={one}&refresh.token=1&RefreshToken[]={two}"),
        format!("a=1;refreshToken={two}&refreshToken={one}"),
    ] {
        assert_eq!(said(&scene.post(&[FORM], body)), "400 request_ambiguous");
    }
    let both = json!({ "refreshToken": one }).to_string();
    assert_eq!(said(&scene.post(&[JSON, &cookie], &both)), "400 request_ambiguous");
    let twice = [JSON, "Content-Type: text/plain"];
    assert_eq!(said(&scene.post(&twice, &both)), "400 request_ambiguous");
    scene.origin.saw_nothing();
}

#[test]
fn a_body_that_cannot_be_read_as_the_service_reads_it_is_a_415_even_beside_a_good_cookie() {
    let scene = scene("token_from = [\"body:refreshToken\", \"cookie:rt\"]", &[]);
    let token = scene.token("alice");
    let (cookie, body) = (format!("Cookie: rt={token}"), json!({ "refreshToken": token }).to_string());
    let unread = [
        vec!["Content-Type: text/plain"],
        vec!["Content-Type: multipart/form-data; boundary=x"],
        vec!["Content-Type: application/json; charset=utf-16"],
        vec![JSON, "Content-Encoding: gzip"],
        vec![],
    ];
    for mut headers in unread {
        headers.push(&cookie);
        let response = scene.post(&headers, &body);
        assert_eq!(said(&response), "415 body_unreadable", "{headers:?}");
        assert_eq!(response.header("accept-encoding"), Some("identity"));
    }
    scene.origin.saw_nothing();
    assert_eq!(scene.post(&[&cookie], "").status, 200, "no body, nothing to read");
}

#[test]
fn a_body_over_the_bound_is_a_413_whether_it_says_so_or_not() {
    let scene = scene(BODY, &["[token]\nbody_bytes = \"1KiB\""]);
    let body = json!({ "refreshToken": scene.token("alice"), "pad": "x".repeat(1_000) }).to_string();
    assert_eq!(said(&scene.post(&[JSON], &body)), "413 body_too_large");
    let mut raw = scene.gateway.raw();
    raw.send(format!(
        "POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    raw.send(format!("{:x}\r\n{body}\r\n", body.len()));
    assert_eq!(raw.response().reason(), "body_too_large");
    raw.assert_closed();
    scene.origin.saw_nothing();
    // Elsewhere the ordinary limit holds.
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    assert_eq!(scene.gateway.request("POST", "/x", &[&bearer], body.as_bytes()).status, 200);
}

#[test]
fn a_client_that_never_finishes_its_body_is_not_waited_for() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let gateway = setup(&issuer, &origin, BODY).server("limits = { header_timeout = \"300ms\" }").start();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut raw = gateway.raw();
        raw.send(format!("POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\n{framing}\r\n\r\n"));
        // A byte now and then does not buy more time.
        raw.send(if framing.starts_with('T') { "1\r\n{\r\n" } else { "{" });
        let response = raw.response();
        assert_eq!(said(&response), "408 body_timeout", "{framing}");
        raw.assert_closed();
    }
    // Nor is one that hangs up in the middle.
    let mut raw = gateway.raw();
    raw.send(format!("POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\nContent-Length: 100\r\n\r\n{{"));
    raw.finish();
    assert!(raw.try_response().is_ok_and(|it| it.status == 400) || raw.is_closed());
    origin.saw_nothing();
}

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
fn the_services_refresh_token_is_not_taken_out_and_lookalikes_are() {
    let from = "token_from = [\"header:x-refresh\", \"cookie:rt\"]";
    let scene = scene(
        from,
        &["[identity]\nforward_token = false", "[token]\nfrom = [\"header:authorization\", \"cookie:rt\"]"],
    );
    let token = scene.token("alice");
    let (header, cookie) = (format!("X-Refresh: {token}"), format!("Cookie: rt={token}"));
    let lookalike = format!("X_Refresh: {}", scene.token("mallory"));
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    assert_eq!(scene.post(&[&header, &cookie, &lookalike, &bearer], "").status, 200);
    let seen = scene.origin.only();
    assert_eq!(
        (seen.values("x-refresh"), seen.values("cookie")),
        (vec![token.clone()], vec![format!("rt={token}")])
    );
    assert!(seen.values("x_refresh").is_empty() && seen.values("authorization").is_empty());
}

#[test]
fn another_server_gets_the_same_body_where_the_first_does_not_answer() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    origin.answer(|_| Answer::ok());
    let upstream = format!(
        "[[upstreams]]\nname = \"app\"\nservers = [\"127.0.0.1:{}\", \"{}\"]\nretries = 1\n",
        crate::support::free_port(),
        origin.addr()
    );
    let gateway = Setup::new()
        .issuer(&issuer)
        .section(&upstream)
        .route(&format!("path = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n{BODY}"))
        .start();
    let body = json!({ "refreshToken": refresh_token(&issuer, "alice") }).to_string();
    for _ in 0..4 {
        assert_eq!(gateway.request("POST", "/refresh", &[JSON], body.as_bytes()).status, 200);
    }
    assert!(origin.requests().iter().all(|seen| seen.body == body.as_bytes()));
}
