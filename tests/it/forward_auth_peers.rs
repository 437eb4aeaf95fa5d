//! Forward-auth with the real nginx, Traefik, Caddy and Envoy, each run by the files of examples/forward-auth.
//!
//! Every test is one for each of them: what a client can do to get round the question differs from proxy to proxy.

use std::fs;
use std::path::Path;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENT_DATABASE};
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::origin::{Answer, Origin};
use crate::support::peers::{Kind, Peer};
use crate::support::postgres::Postgres;
use crate::support::raw::{self, Raw, Response};
use crate::support::{eventually, within};

/// One test for each proxy.
macro_rules! with_each {
    ($($test:ident)*) => {
        with_each!(@nginx Nginx $($test)*);
        with_each!(@traefik Traefik $($test)*);
        with_each!(@caddy Caddy $($test)*);
        with_each!(@envoy Envoy $($test)*);
    };
    (@$module:ident $kind:ident $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    if super::Kind::$kind.is_here() {
                        super::$test(super::Kind::$kind);
                    }
                }
            )*
        }
    };
}

with_each! {
    a_token_passes_and_the_service_hears_whose_it_is
    a_ban_and_a_revoked_token_count_at_the_next_request
    a_client_cannot_say_who_it_is
    a_client_cannot_say_what_it_asks_for
    what_is_forwarded_is_what_was_judged
    an_outage_is_no_pass_and_no_fault_of_the_token
    a_websocket_is_judged_at_its_handshake
    a_browser_is_sent_where_it_can_log_in
}

const EXAMPLE: &str = include_str!("../../examples/forward-auth/gateway.toml");

/// A proxy, the service behind it, and the gateway that it asks.
struct Stage {
    // Dropped in this order: who asks goes first.
    peer: Peer,
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
    _keys: JwksServer,
}

impl Stage {
    fn new(kind: Kind) -> Self {
        Self::with(kind, PATIENT_DATABASE)
    }

    /// The example's gateway, with another `[database]`.
    fn with(kind: Kind, database: &str) -> Self {
        Self::with_toml(kind, &example(database))
    }

    fn with_toml(kind: Kind, toml: &str) -> Self {
        let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
        let keys = JwksServer::serving(&issuer.jwks());
        let variables = [
            ("PROXY", kind.word()),
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("JWT_ISSUER", &issuer.name),
            ("JWT_AUDIENCE", &issuer.audience),
            ("JWKS_URL", &keys.url()),
        ];
        let gateway = Gateway::start_in(toml, &variables);
        let peer = Peer::start(kind, gateway.asked_at(), origin.addr());
        // Some listen before they know where to forward to.
        eventually("the proxy forwards", || match raw::get(peer.addr(), "/public/ready", None) {
            ready if ready.status == 200 => Ok(()),
            not_yet => Err((not_yet, peer.log())),
        });
        origin.forget();
        Self { peer, gateway, origin, issuer, _keys: keys }
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        raw::request(self.peer.addr(), method, path, headers, body)
    }

    fn get(&self, path: &str, token: Option<&str>) -> Response {
        raw::get(self.peer.addr(), path, token)
    }

    #[track_caller]
    fn refused(&self, response: &Response, status: u16, reason: &str) {
        assert_eq!((response.status, response.reason().as_str()), (status, reason), "{}", self.peer.log());
        self.origin.saw_nothing();
    }
}

/// The example's gateway, with another `[database]`.
fn example(database: &str) -> String {
    let (before, rest) = EXAMPLE.split_once("[database]").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    format!("{before}{database}\n{after}")
}

#[test]
fn the_page_shows_the_files_that_are_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/forward-auth.md")).unwrap();
    let files = [
        "nginx/nginx.conf",
        "traefik/traefik.yaml",
        "traefik/dynamic.yaml",
        "caddy/Caddyfile",
        "envoy/envoy.yaml",
    ];
    for name in files {
        let file = fs::read_to_string(root.join("examples/forward-auth").join(name)).unwrap();
        assert!(page.contains(&file), "docs/forward-auth.md shows another {name}");
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn a_token_passes_and_the_service_hears_whose_it_is(kind: Kind) {
    let stage = Stage::new(kind);
    let token =
        stage.issuer.token("alice", |claims| claims["realm_access"] = json!({ "roles": ["admin", "clerk"] }));
    let body = vec![b'x'; 200_000];
    let passed = stage.ask("POST", "/admin/orders?from=1", &[&bearer(&token)], &body);
    assert_eq!((passed.status, passed.text().as_str()), (200, "ok"), "{}", stage.peer.log());
    let seen = stage.origin.only();
    assert_eq!(seen.line(), "POST /admin/orders?from=1 HTTP/1.1");
    assert_eq!(
        (seen.values("x-user-id"), seen.values("x-user-roles")),
        (vec!["alice".into()], vec!["admin,clerk".into()])
    );
    assert_eq!((seen.values("x-session-id").len(), seen.values("x-request-id").len()), (1, 1));
    assert_eq!(seen.body.len(), body.len(), "the question does not cost the body");
    stage.origin.forget();
    let chunked = format!(
        "PUT /admin/upload HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n{}\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        bearer(&token)
    );
    let answer = Raw::connect(stage.peer.addr()).send(chunked).response();
    assert_eq!(answer.status, 200, "{answer:?}: {}", stage.peer.log());
    assert!(stage.origin.only().body.windows(5).any(|it| it == b"hello"));

    let line = eventually("the access line is written", || {
        let lines = stage.gateway.log_lines();
        let line = lines.iter().find(|line| line["target"] == "access" && line["path"] == "/admin/orders");
        line.cloned().ok_or(lines.len())
    });
    let told = |key: &str| line[key].clone();
    assert_eq!((told("method"), told("sub"), told("route")), (json!("POST"), json!("alice"), json!("admin")));
    assert_eq!(
        (told("asked_by"), told("request_id")),
        (json!(kind.word()), json!(seen.values("x-request-id")[0]))
    );

    stage.origin.forget();
    let clerk = stage.issuer.good("bob");
    stage.refused(&stage.get("/admin/orders", Some(&clerk)), 403, "insufficient_role");
    let missing = stage.get("/orders", None);
    stage.refused(&missing, 401, "token_missing");
    let challenges = missing.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
    assert_eq!(challenges.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["Bearer"]);
    assert_eq!(missing.header("x-request-id"), missing.json()["request_id"].as_str());
    stage.refused(&stage.get("/orders", Some(&stage.issuer.expired("bob"))), 401, "token_expired");
}

fn a_ban_and_a_revoked_token_count_at_the_next_request(kind: Kind) {
    let stage = Stage::new(kind);
    let (token, other) = (stage.issuer.good("alice"), stage.issuer.good("alice"));
    assert_eq!(stage.get("/x", Some(&token)).status, 200);
    stage.gateway.ban("alice");
    stage.origin.forget();
    let banned = stage.get("/x", Some(&token));
    stage.refused(&banned, 403, "user_banned");
    assert!(banned.header("www-authenticate").unwrap().contains("The user is banned"), "{banned:?}");
    stage.gateway.activate("alice");
    assert_eq!(stage.get("/x", Some(&token)).status, 200);
    stage.gateway.revoke_token(&token);
    stage.origin.forget();
    stage.refused(&stage.get("/x", Some(&token)), 401, "token_revoked");
    assert_eq!(stage.get("/x", Some(&other)).status, 200, "the other one is good");
}

/// CVE-2025-64484, CVE-2026-30851: what the answer does not say, and what it says in another spelling, is a client's own.
fn a_client_cannot_say_who_it_is(kind: Kind) {
    let stage = Stage::new(kind);
    let token = stage.issuer.token("alice", |claims| drop(claims.as_object_mut().unwrap().remove("sid")));
    let bearer = bearer(&token);
    let names = ["X-User-Id", "x-user-id", "X-USER-ROLES", "X-Session-Id"];
    let aliases = ["X_User_Id", "x-user_id", "X.User.Id", "x_user_roles", "X-Session.Id", "x~user~id"];
    for name in names.iter().chain(&aliases) {
        for (path, who) in [("/x", Some(bearer.as_str())), ("/shop/1", None), ("/public/a", None)] {
            let lie = format!("{name}: mallory");
            let headers: Vec<&str> = who.into_iter().chain([lie.as_str(), lie.as_str()]).collect();
            let nominated = [&headers[..], &["Connection: x-user-id, x-user-roles, x-session-id"]].concat();
            for headers in [headers, nominated] {
                stage.origin.forget();
                let answer = stage.ask("GET", path, &headers, b"");
                let seen = stage.origin.requests();
                assert!(matches!((answer.status, seen.len()), (200, 1) | (400, 0)), "{name}: {answer:?}");
                let Some(seen) = seen.first() else {
                    let nominates = headers.iter().any(|it| it.starts_with("Connection"));
                    assert!(aliases.contains(name) || nominates, "{name} alone is no reason to refuse");
                    continue;
                };
                assert!(!seen.text().contains("mallory"), "{name} at {path}: {}", seen.text());
                assert_eq!(seen.values("x-user-id").len(), usize::from(who.is_some()));
                let told = seen.folded_names();
                let told = told.iter().filter(|it| *it == "x-user-id" || *it == "x-session-id");
                assert_eq!(told.count(), usize::from(who.is_some()), "{}", seen.text());
            }
        }
    }
}

/// A header that the proxy sets cannot be a client's, and one that it does not set is not looked at.
fn a_client_cannot_say_what_it_asks_for(kind: Kind) {
    let stage = Stage::new(kind);
    let lies = [
        "X-Original-URI: /public/a",
        "X-Original-URL: http://api.test/public/a",
        "X-Original-Method: OPTIONS",
        "X-Original-Host: public.test",
        "X-Forwarded-Uri: /public/a",
        "X-Forwarded-URI: /public/a",
        "X_Forwarded_Uri: /public/a",
        "X-Forwarded-Method: OPTIONS",
        "X-Forwarded-Host: public.test",
        "X-Forwarded-Prefix: /public",
        "X-Rewrite-URL: /public/a",
        "X-Envoy-Original-Path: /public/a",
        "X-HTTP-Method-Override: OPTIONS",
        "Forwarded: host=public.test",
    ];
    let nominated = "Connection: X-Original-URI, X-Original-Method, X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host";
    let together = [&lies[..], &[nominated]].concat();
    let each = lies.iter().map(|lie| vec![*lie]);
    let each_nominated = lies.iter().map(|lie| vec![*lie, nominated]);
    for headers in each.chain(each_nominated).chain([lies.to_vec(), together]) {
        let refused = stage.ask("DELETE", "/x", &headers, b"");
        assert!(matches!(refused.status, 400 | 401), "{headers:?}: {refused:?}");
        stage.origin.saw_nothing();
    }
    // Nor whose address it has: what stands in the log is whom the proxy heard from.
    let told = stage.ask("GET", "/told", &["X-Forwarded-For: 198.51.100.9", "X-Real-IP: 198.51.100.9"], b"");
    assert_eq!(told.status, 401);
    let line = eventually("the access line is written", || {
        let lines = stage.gateway.log_lines();
        lines.iter().find(|line| line["path"] == "/told").cloned().ok_or(lines.len())
    });
    assert_ne!(line["client"], "198.51.100.9");
}

/// A service reads a path after one round of decoding, with its dot segments resolved.
fn as_a_service_reads_it(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap();
    let bytes = path.as_bytes();
    let (mut plain, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escape = path.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], escape) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    let text = String::from_utf8_lossy(&plain).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split('/').map(|it| it.split(';').next().unwrap()) {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// CVE-2019-9901, CVE-2021-29492, CVE-2026-33494: two readings of one path.
fn what_is_forwarded_is_what_was_judged(kind: Kind) {
    let stage = Stage::new(kind);
    let paths = [
        "/public/%2e%2e/admin/x",
        "/public/../admin/x",
        "/public/.%2E/admin/x",
        "/public/..%2fadmin/x",
        "/public/..%5cadmin/x",
        "/public/..\\admin\\x",
        "/public/%252e%252e/admin/x",
        "/public/..;/admin/x",
        "/public/.;x/../admin/x",
        "/public/a/../../admin/x",
        "/public//../admin/x",
        "/public/x/%2e%2e%2f%2e%2e%2fadmin",
        "//public/../admin/x",
        "//public/a",
        "/public//a",
        "/public%2fa",
        "/%70ublic/a",
        "/%61dmin/x",
        "/./admin/x",
        "/public/./../admin/x",
        "/admin/x#/public/a",
        "/admin/x?/../public/a",
        "/public/a#/../../admin/x",
        "/public/%00/../../admin/x",
        "/public/\u{00e4}",
        "/public/%c0%ae%c0%ae/admin/x",
        "/public/%zz",
        "public/a",
        "*",
        "?/public/a",
        "http://public.test/admin/x",
        "http://public.test/public/../admin/x",
        "http://public.test",
        "/public",
    ];
    for path in paths {
        stage.origin.forget();
        let mut raw = Raw::connect(stage.peer.addr());
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"));
        let status = raw.try_response().map_or(0, |answer| answer.status);
        for seen in stage.origin.requests() {
            let read = as_a_service_reads_it(&seen.target());
            assert!(
                read.starts_with("/public/"),
                "{path} reached the service as {} ({status})",
                seen.target()
            );
        }
        assert!(!(stage.origin.requests().is_empty() && status == 200), "{path}: 200 from nowhere");
    }
    // So that it is not all refused: these are what they are.
    for path in ["/public/a%20b", "/public/%C3%A4?q=/../x", "/public/~a.b/"] {
        stage.origin.forget();
        assert_eq!(stage.get(path, None).status, 200, "{path}: {}", stage.peer.log());
        assert_eq!(stage.origin.only().target(), path);
    }
}

fn an_outage_is_no_pass_and_no_fault_of_the_token(kind: Kind) {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().url();
    let database = format!("[database]\nurl = \"{url}\"\nmigrate = true\ntimeout = \"1s\"\n");
    let Stage { peer, gateway, origin, issuer, _keys } = Stage::with(kind, &database);
    let (known, new) = (issuer.good("alice"), issuer.good("bob"));
    let get = |token: &str| raw::get(peer.addr(), "/x", Some(token));
    eventually("the database answers", || match get(&known).status {
        200 => Ok(()),
        other => Err(other),
    });
    postgres.kill();
    // What was said a moment ago may be believed for that moment.
    eventually("the outage is noticed", || match get(&known).status {
        200 => Err(()),
        _ => Ok(()),
    });
    origin.forget();
    for token in [&known, &new] {
        let refused = get(token);
        // Envoy keeps the body of a 5xx to itself.
        assert_eq!(refused.status, 503, "{refused:?}: {}", peer.log());
        assert_eq!(refused.header("www-authenticate"), None);
        if kind != Kind::Envoy {
            assert_eq!(
                (refused.reason().as_str(), refused.header("retry-after")),
                ("ledger_unavailable", Some("1"))
            );
        }
    }
    let line = eventually("the access line is written", || {
        let lines = gateway.log_lines();
        lines.iter().find(|line| line["reason"] == "ledger_unavailable").cloned().ok_or(lines.len())
    });
    assert_eq!(line["status"], 503);

    drop(gateway);
    let gone = get(&known);
    let status = match kind {
        Kind::Nginx | Kind::Envoy => 503,
        Kind::Caddy => 502,
        Kind::Traefik => 500,
    };
    assert_eq!(gone.status, status, "{gone:?}: {}", peer.log());
    origin.saw_nothing();
}

fn a_websocket_is_judged_at_its_handshake(kind: Kind) {
    let stage = Stage::new(kind);
    stage.origin.answer(|_| Answer::switch_to_websocket());
    let handshake = |more: &[&str]| {
        let mut lines = vec![
            "GET /chat HTTP/1.1",
            "Host: api.test",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        lines.extend(more);
        let mut raw = Raw::connect(stage.peer.addr());
        raw.send(lines.join("\r\n") + "\r\n\r\n");
        raw
    };
    let token = stage.issuer.good("alice");
    let cookie = format!("Cookie: access_token={token}");
    stage.refused(&handshake(&[]).response(), 401, "token_missing");
    stage.refused(&handshake(&[&cookie, "Origin: https://evil.test"]).response(), 403, "origin_refused");
    let spoofed = [
        cookie.as_str(),
        "Origin: https://evil.test",
        "X-Forwarded-Host: evil.test",
        "X-Original-Host: evil.test",
    ];
    let refused = handshake(&spoofed).response();
    assert!(matches!(refused.status, 400 | 403), "{refused:?}");
    stage.origin.saw_nothing();

    for good in [&[bearer(&token).as_str()][..], &[&cookie, "Origin: https://api.test"]] {
        stage.origin.forget();
        let mut raw = handshake(good);
        assert_eq!(raw.response().status, 101, "{}", stage.peer.log());
        assert_eq!(raw.send(b"hello").bytes(5), b"hello");
        assert_eq!(stage.origin.only().values("x-user-id"), ["alice"]);
    }
    stage.gateway.ban("alice");
    let banned = handshake(&[&bearer(&token)]).response();
    assert_eq!((banned.status, banned.reason().as_str()), (403, "user_banned"));
}

fn a_browser_is_sent_where_it_can_log_in(kind: Kind) {
    let toml = example(PATIENT_DATABASE)
        + "\n[[routes]]\npath = \"/page\"\nredirect = \"/login?then=page\"\n\
           \n[[routes]]\npath = \"/said\"\nhtml = true\n";
    let stage = Stage::with_toml(kind, &toml);
    let accept = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let sent = stage.ask("GET", "/page", &[accept], b"");
    assert_eq!(
        (sent.status, sent.header("location")),
        (302, Some("/login?then=page")),
        "{}",
        stage.peer.log()
    );
    let said = stage.ask("GET", "/said", &[accept], b"");
    assert_eq!((said.status, said.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert!(said.text().contains("This needs an access token."), "{}", said.text());
    stage.refused(&stage.ask("GET", "/page", &["Accept: application/json"], b""), 401, "token_missing");
    let head = within(crate::support::DEADLINE, "HEAD is answered", || {
        let head = stage.ask("HEAD", "/x", &[], b"");
        if head.status == 401 { Ok(head) } else { Err(head) }
    });
    assert!(head.body.is_empty());
    let value: Value = stage.ask("GET", "/nowhere/..", &[], b"").json();
    assert!(value["status"].is_number());
    stage.origin.saw_nothing();
}
