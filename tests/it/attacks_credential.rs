//! Credentials that the gateway and a service behind it might read differently: a token that the gateway overlooks on
//! a route where tokens are optional would reach the service unjudged.

use jsonwebtoken::Algorithm;

use crate::attacks_common::Scene;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Response;
use crate::support::redis::Redis;
use crate::support::{eventually, now};

fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    Scene::with(|setup| {
        let route = "name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"optional\"";
        change(setup.route(route))
    })
}

impl Scene {
    fn ask(&self, version: &str, path: &str, lines: &str) -> Response {
        let head = format!("GET {path} {version}\r\n{lines}Connection: close\r\n\r\n");
        self.gateway.raw().send(head).response()
    }

    fn get(&self, lines: &str) -> Response {
        self.ask("HTTP/1.1", "/x", &format!("Host: a.test\r\n{lines}"))
    }
}

#[test]
fn a_scheme_and_a_token_may_be_divided_by_any_blank() {
    // Services split at white space: what they take for a token is judged as one.
    let scene = scene(|it| it);
    let (good, expired) = (scene.issuer.good("alice"), scene.issuer.expired("alice"));
    for blank in [" ", "\t", " \t ", "\t\t"] {
        let response = scene.get(&format!("Authorization: Bearer{blank}{expired}\r\n"));
        assert_eq!((response.status, response.reason().as_str()), (401, "token_expired"), "{blank:?}");
        scene.origin.saw_nothing();
        assert_eq!(scene.get(&format!("Authorization: Bearer{blank}{good}\r\n")).status, 200, "{blank:?}");
        assert_eq!(scene.origin.only().values("x-user-id"), ["alice"], "{blank:?}");
        scene.origin.forget();
    }
}

#[test]
fn a_header_that_may_carry_the_token_has_one_spelling() {
    // CGI and WSGI read `x_access_token` and `x-access-token` as one variable.
    let scene = scene(|it| it.section("[token]\nfrom = [\"header:x-access-token\"]"));
    let expired = scene.issuer.expired("alice");
    for name in ["x_access_token", "X_Access-Token", "x.access.token"] {
        let response = scene.get(&format!("{name}: {expired}\r\n"));
        assert_eq!(response.status, 200, "{name}");
        let seen = scene.origin.only();
        assert!(!seen.text().contains(&expired), "{name}: {}", seen.text());
        scene.origin.forget();
    }
}

/// The token is revoked; were it overlooked, the request would pass as anonymous, and the service would find it.
#[test]
fn a_token_that_only_a_service_would_find_is_not_overlooked() {
    let scene = scene(|it| it);
    let token = scene.issuer.good("alice");
    scene.gateway.revoke_token(&token);
    for (path, lines, why) in [
        ("/x", format!("Cookie: Access_Token={token}\r\n"), "ASP.NET compares without case"),
        ("/x", format!("Cookie: access.token={token}\r\n"), "PHP has no dots in names"),
        ("/x", format!("Cookie: access_token[]={token}\r\n"), "PHP and Rack have lists"),
        ("/x", format!("Cookie: access%5ftoken={token}\r\n"), "CVE-2020-8184: names that are decoded"),
        ("/x", format!("Cookie: a=1 access_token={token}\r\n"), "Python divides at blanks"),
        ("/x", format!("Cookie: a=1, access_token={token}\r\n"), "RFC 2109 divides at commas"),
        (&*format!("/x?Access_Token={token}"), String::new(), "ASP.NET compares without case"),
        (&*format!("/x?access.token={token}"), String::new(), "PHP has no dots in names"),
        (&*format!("/x?a=1;access_token={token}"), String::new(), "older servers divide at semicolons"),
    ] {
        let response = scene.ask("HTTP/1.1", path, &format!("Host: a.test\r\n{lines}"));
        assert_eq!((response.status, response.reason().as_str()), (400, "request_ambiguous"), "{why}");
        scene.origin.saw_nothing();
    }
    for value in [
        format!("JWT {token}"),
        format!("Bearer{token}"),
        format!("Token token=\"{token}\""),
        format!("Basic YTpi, Bearer {token}"),
    ] {
        let response = scene.get(&format!("Authorization: {value}\r\n"));
        assert_eq!(response.reason(), "token_revoked", "{value}");
        scene.origin.saw_nothing();
    }
    // What is only similar is nobody's token.
    for lines in [
        "Cookie: access-token=1; my_access_token=2; next=/?access_token=3\r\n",
        "Authorization: Basic YTpi\r\n",
    ] {
        assert_eq!(scene.get(lines).status, 200, "{lines}");
    }
}

/// CVE-2026-33496: what was verified once is judged again each time.
#[test]
fn a_token_that_was_good_a_moment_ago_is_judged_again() {
    let scene = scene(|it| it);
    let soon = now() + 4;
    let token = scene.issuer.token("alice", |claims| claims["exp"] = soon.into());
    let line = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(scene.get(&line).status, 200);
    let refused = eventually("it has expired", || {
        let response = scene.get(&line);
        if response.status == 200 { Err(response.status) } else { Ok(response) }
    });
    assert_eq!(refused.reason(), "token_expired");
    assert!(now() >= soon);
}

#[test]
fn a_token_that_is_not_to_be_forwarded_is_not_forwarded_in_any_spelling() {
    let scene = scene(|it| it.section("[identity]\nforward_token = false"));
    let good = scene.issuer.good("alice");
    for lines in [
        format!("Authorization: Bearer {good}\r\n"),
        format!("Authorization: bEARER\t{good}\r\n"),
        format!("Cookie: a=1; access_token=\"{good}\"; b=2\r\n"),
        format!("Cookie: a=1\r\nCookie: access_token = {good}\r\n"),
    ] {
        assert_eq!(scene.get(&lines).status, 200, "{lines}");
        let seen = scene.origin.only();
        assert!(!seen.text().contains(&good), "{}", seen.text());
        assert_eq!(seen.values("x-user-id"), ["alice"]);
        scene.origin.forget();
    }
}

#[test]
fn every_line_that_a_trusted_proxy_adds_is_kept_in_its_order() {
    // HAProxy appends a line of its own instead of lengthening the client's.
    let scene = scene(|it| it.server("trusted_proxies = [\"127.0.0.1/32\"]"));
    let lines = "X-Forwarded-For: 203.0.113.66\r\nX-Forwarded-For: 192.0.2.7\r\n";
    assert_eq!(scene.get(lines).status, 200);
    let seen = scene.origin.only();
    assert_eq!(seen.values("x-forwarded-for"), ["203.0.113.66, 192.0.2.7, 127.0.0.1"]);
}

#[test]
fn a_service_is_told_the_host_that_was_judged() {
    let scene = scene(|it| it);
    for (version, lines) in [("HTTP/1.1", "Host: b.test\r\n"), ("HTTP/1.1", ""), ("HTTP/1.0", "")] {
        let response = scene.ask(version, "http://b.test/x", lines);
        if response.status == 200 {
            let seen = scene.origin.only();
            assert_eq!(seen.values("host"), ["b.test"], "{version} {lines}: {}", seen.text());
            assert_eq!(seen.target(), "/x");
        }
        scene.origin.forget();
    }
}

#[test]
fn a_fragment_is_refused_behind_empty_lines_too() {
    let scene = scene(|it| it);
    for empty in ["", "\r\n", "\r\n\r\n", "\n"] {
        let head = format!("{empty}GET /x#/../admin HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        if let Ok(response) = scene.gateway.raw().send(head).try_response() {
            assert_eq!(response.status, 400, "{empty:?}");
        }
        scene.origin.saw_nothing();
    }
}

/// The token with its ECDSA signature spelled the other way.
fn twin(token: &str) -> String {
    portcullis::token::Token::new(token).twin().unwrap()
}

#[test]
fn a_revoked_token_does_not_come_back_with_the_twin_of_its_signature() {
    let origin = Origin::start();
    for algorithm in [Algorithm::ES256, Algorithm::ES384] {
        let issuer = Issuer::new(algorithm);
        let gateway = Gateway::guarding(&issuer, &origin).start();
        // Without an id there is only its text to know it by.
        let token = issuer.token("alice", |claims| drop(claims.as_object_mut().unwrap().remove("jti")));
        let twin = twin(&token);
        assert_eq!(gateway.get("/x", Some(&twin)).status, 200, "it verifies");
        gateway.revoke_token(&token);
        for spelling in [&token, &twin] {
            assert_eq!(gateway.get("/x", Some(spelling)).reason(), "token_revoked");
        }
    }
}

#[test]
fn a_token_that_a_service_has_listed_is_revoked_in_both_spellings() {
    let (origin, redis, issuer) = (Origin::start(), Redis::start(), Issuer::new(Algorithm::ES256));
    let gateway = Gateway::guarding(&issuer, &origin)
        .section(&redis.config_toml())
        .section("[ledger]\npresets = [\"token-blacklist\"]")
        .start();
    let token = issuer.good("alice");
    redis.cmd(&["SET", &format!("blacklist:{token}"), "{}"]);
    for spelling in [token.clone(), twin(&token)] {
        assert_eq!(gateway.get("/x", Some(&spelling)).reason(), "token_revoked");
    }
}

#[test]
fn a_service_cannot_switch_protocols_unasked() {
    let scene = scene(|it| it);
    scene.origin.answer(|_| Answer::switch_to_websocket());
    for lines in ["", "Upgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        let mut raw = scene.gateway.raw();
        raw.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"));
        assert_eq!(raw.response().status, 502, "{lines}");
        raw.assert_closed();
    }
    assert!(scene.origin.tunnelled().is_empty());
}
