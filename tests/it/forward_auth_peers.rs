//! Forward-auth with the real nginx, Traefik, Caddy and Envoy, each run by the files of examples/forward-auth.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::forward_auth_stage::{Stage, bearer, example, with_each};
use crate::support::eventually;
use crate::support::gateway::PATIENT_DATABASE;
use crate::support::origin::Answer;
use crate::support::peers::Kind;
use crate::support::postgres::Postgres;
use crate::support::raw::{self, Raw};

with_each! {
    a_token_passes_and_the_service_hears_whose_it_is
    a_ban_and_a_revoked_token_count_at_the_next_request
    an_outage_is_no_pass_and_no_fault_of_the_token
    a_websocket_is_judged_at_its_handshake
    a_browser_is_sent_where_it_can_log_in
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

fn an_outage_is_no_pass_and_no_fault_of_the_token(kind: Kind) {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().url();
    let database = format!("[database]\nurl = \"{url}\"\nmigrate = true\ntimeout = \"1s\"\n");
    let Stage { peer, gateway, origin, issuer, keys: _keys } = Stage::with(kind, &database);
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
    let head = stage.ask("HEAD", "/x", &[], b"");
    assert_eq!((head.status, head.body.len()), (401, 0));
    let value: Value = stage.ask("GET", "/nowhere/..", &[], b"").json();
    assert!(value["status"].is_number());
    stage.origin.saw_nothing();
}
