//! What clients do to get round the question that nginx, Traefik, Caddy or Envoy asks. It differs from proxy to proxy.

use crate::forward_auth_stage::{Stage, bearer, example, with_each};
use crate::support::eventually;
use crate::support::gateway::PATIENT_DATABASE;
use crate::support::http2::Http2;
use crate::support::peers::Kind;
use crate::support::raw::Raw;

with_each! {
    a_client_cannot_say_who_it_is
    a_client_cannot_say_what_it_asks_for
    what_is_forwarded_is_what_was_judged
    the_host_that_is_judged_is_the_one_that_the_service_hears
    what_could_be_read_in_two_ways_reaches_nobody_unjudged
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

const PUBLIC_HOST: &str = "\n[[routes]]\nhosts = [\"public.test\"]\npath = \"/{*rest}\"\nauth = \"public\"\n";

/// The two that take HTTP/2 on a plain listener: there a host has two places, and cookies come in crumbs.
#[test]
fn over_http2_the_host_and_the_cookies_are_those_that_were_judged() {
    for kind in [Kind::Traefik, Kind::Envoy].into_iter().filter(|kind| kind.is_here()) {
        let stage = Stage::with_toml(kind, &(example(PATIENT_DATABASE) + PUBLIC_HOST));
        let mut client = Http2::plain(stage.peer.addr());
        for lie in
            [("host", "public.test"), ("x-forwarded-host", "public.test"), ("x-original-host", "public.test")]
        {
            let status = client.get("api.test", "/x", &[lie]).map_or(0, |answer| answer.status);
            assert!(matches!(status, 0 | 400 | 401), "{kind:?}: {lie:?}: {status}");
            stage.origin.saw_nothing();
            if status == 0 {
                client = Http2::plain(stage.peer.addr());
            }
        }
        assert_eq!(client.get("public.test", "/x", &[]).unwrap().status, 200, "{}", stage.peer.log());
        stage.origin.forget();
        let token = format!("access_token={}", stage.issuer.good("alice"));
        let crumbs = [("cookie", "a=1"), ("cookie", token.as_str()), ("cookie", "b=2")];
        assert_eq!(client.get("api.test", "/x", &crumbs).unwrap().status, 200, "{}", stage.peer.log());
        let seen = stage.origin.only();
        assert_eq!(
            (seen.values("x-user-id"), seen.values("host")),
            (vec!["alice".into()], vec!["api.test".into()])
        );
        stage.origin.forget();
        let other = format!("access_token={}", stage.issuer.good("mallory"));
        let two = [("cookie", token.as_str()), ("cookie", other.as_str())];
        assert_eq!(client.get("api.test", "/x", &two).unwrap().status, 400);
        stage.origin.saw_nothing();
    }
}

/// CVE-2026-100664: two hosts in one request, of which one is let in.
fn the_host_that_is_judged_is_the_one_that_the_service_hears(kind: Kind) {
    let stage = Stage::with_toml(kind, &(example(PATIENT_DATABASE) + PUBLIC_HOST));
    let heads = [
        "GET /x HTTP/1.1\r\nHost: public.test",
        "GET /x HTTP/1.1\r\nHost: api.test",
        "GET http://public.test/x HTTP/1.1\r\nHost: api.test",
        "GET http://api.test/x HTTP/1.1\r\nHost: public.test",
        "GET /x HTTP/1.1\r\nHost: public.test\r\nHost: api.test",
        "GET /x HTTP/1.1\r\nHost: api.test\r\nHost: public.test",
        "GET /x HTTP/1.1\r\nHost: api.test, public.test",
        "GET /x HTTP/1.1\r\nHost: public.test@api.test",
        "GET /x HTTP/1.1\r\nHost: api.test/public.test",
        "GET /x HTTP/1.1\r\nHost: public.test/../x?",
        "GET /x HTTP/1.1\r\nHost: public.test?",
        "GET /x HTTP/1.1\r\nHost:",
        "GET /x HTTP/1.0",
        "GET /x HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-Host: public.test\r\nForwarded: host=public.test",
    ];
    for (index, head) in heads.into_iter().enumerate() {
        stage.origin.forget();
        let mut raw = Raw::connect(stage.peer.addr());
        raw.send(format!("{head}\r\nConnection: close\r\n\r\n"));
        let status = raw.try_response().map_or(0, |answer| answer.status);
        let seen = stage.origin.requests();
        assert_eq!(seen.is_empty(), status != 200, "{head}: {status}");
        for seen in seen {
            assert_eq!(seen.values("host"), ["public.test"], "{head}");
        }
        assert!(index > 0 || status == 200, "the first one passes: {status} {}", stage.peer.log());
    }
}

/// Framing that two servers could read differently: whatever reaches the service has been asked about.
fn what_could_be_read_in_two_ways_reaches_nobody_unjudged(kind: Kind) {
    let stage = Stage::new(kind);
    let hidden = "GET /hidden HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let of = |line: &str, fields: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nHost: api.test\r\n{fields}\r\n\r\n{body}")
    };
    let length = hidden.len();
    let both = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked");
    let attacks = [
        of("POST /public/a", &both, &format!("0\r\n\r\n{hidden}")),
        of("POST /public/a", "Transfer-Encoding: xchunked", &format!("0\r\n\r\n{hidden}")),
        of("POST /public/a", "Transfer-Encoding : chunked", &format!("0\r\n\r\n{hidden}")),
        of("POST /public/a", &format!("Content-Length: 0\r\nContent-Length: {length}"), hidden),
        of("POST /public/a", &format!("Content-Length: {length}"), hidden),
        of(
            "GET /public/a",
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings",
            hidden,
        ),
        of("GET /public/a", "Upgrade: x, H2C\r\nConnection: upgrade", hidden),
        of("GET /public/a", "Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade", hidden),
        of("GET /public/a", "Upgrade: websocket\r\nConnection: Upgrade", hidden),
        of("GET /public/a", "Expect: 100-continue\r\nContent-Length: 5", hidden),
        of("GET /public/a\tHTTP/1.1\r\nX: ", "X: y", hidden),
    ];
    for attack in attacks {
        stage.origin.forget();
        let mut raw = Raw::connect(stage.peer.addr());
        // The last one ends the connection, whatever the rest was taken for.
        let last = of("GET /public/last", "Connection: close", "");
        raw.send(attack.clone() + &last);
        while raw.try_response().is_ok() {}
        for seen in stage.origin.requests() {
            assert!(!seen.line().contains("/hidden"), "{attack:?}: {}", seen.line());
            let upgrade = seen.values("upgrade").join(",").to_ascii_lowercase();
            assert!(!upgrade.contains("h2c"), "{attack:?}: a tunnel past every question");
        }
    }
}
