//! The control API through its socket: who may call, what bad calls hear, and what the audit trail keeps.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::raw::{self, Response};

struct Scene {
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
}

fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let gateway = change(Gateway::guarding(&issuer, &origin)).start();
    Scene { gateway, origin, issuer }
}

impl Scene {
    fn call(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        raw::request(self.gateway.admin_addr(), method, path, headers, body)
    }

    /// With the right token.
    fn authorized(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        let bearer = format!("Authorization: Bearer {}", self.gateway.admin_token());
        self.call(method, path, &[&[bearer.as_str()], headers].concat(), body)
    }

    fn status_of(&self, user: &str) -> u16 {
        self.gateway.get("/x", Some(&self.issuer.good(user))).status
    }

    fn audit(&self) -> Vec<Value> {
        self.gateway.audit().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn is_problem(response: &Response, status: u16, why: &str) -> Value {
    assert_eq!(response.status, status, "{why}: {response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{why}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{why}");
    let problem = response.json();
    assert_eq!(problem["status"], status, "{why}");
    assert!(problem["detail"].as_str().is_some_and(|it| !it.is_empty()), "{why}: {problem}");
    problem
}

#[test]
fn health_and_metrics_are_open_and_control_is_the_token_holders() {
    let scene = scene(|it| it);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(scene.call("GET", path, &[], b"").status, 200, "{path}");
    }
    let (_, ready) = scene.gateway.ready();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((ready["status"].as_str(), ready["mode"].as_str()), (Some("ready"), Some("database")));
    assert_eq!(
        (ready["redis"]["state"].as_str(), ready["database"]["state"].as_str()),
        (Some("none"), Some("up"))
    );
    assert!(ready["database"]["latency_ms"].is_number(), "{ready}");

    let right = scene.gateway.admin_token();
    for wrong in [
        String::new(),
        "Authorization: Bearer wrong".to_owned(),
        format!("Authorization: Bearer {}", &right[..right.len() - 1]),
        format!("Authorization: Bearer {right}x"),
        format!("Authorization: Basic {right}"),
        format!("X-Token: {right}"),
        format!("Authorization: Bearer {right}\r\nAuthorization: Bearer {right}"),
    ] {
        let headers: Vec<&str> = Some(wrong.as_str()).into_iter().filter(|it| !it.is_empty()).collect();
        let body = br#"{"status":"banned"}"#;
        let refused = scene.call("PUT", "/v1/users/alice/status", &headers, body);
        is_problem(&refused, 401, &wrong.replace(right, "…"));
        assert!(refused.header("www-authenticate").is_some_and(|it| it.starts_with("Bearer")));
    }
    assert_eq!(scene.status_of("alice"), 200, "nothing was done");
    assert!(scene.audit().is_empty());
}

#[test]
fn pages_of_other_sites_have_no_business_here() {
    let scene = scene(|it| it);
    let bearer = format!("Authorization: Bearer {}", scene.gateway.admin_token());
    let with = |lines: &str| {
        let mut raw = raw::Raw::connect(scene.gateway.admin_addr());
        raw.send(format!(
            "POST /v1/users/alice/logout HTTP/1.1\r\n{lines}{bearer}\r\nConnection: close\r\n\r\n"
        ));
        raw.response()
    };
    for host in ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test"] {
        is_problem(&with(&format!("Host: {host}\r\n")), 421, host);
    }
    let own = format!("Host: {}\r\n", scene.gateway.admin_addr());
    for lines in [
        "Origin: https://evil.test",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        is_problem(&with(&format!("{own}{lines}\r\n")), 403, lines);
    }
    assert!(scene.audit().is_empty(), "nothing was done");
    assert_eq!(with(&format!("{own}Origin: http://{}\r\n", scene.gateway.admin_addr())).status, 200);
    assert_eq!(with("Host: localhost\r\n").status, 200);
}

#[test]
fn whoever_guesses_waits_and_the_operator_does_not() {
    let scene = scene(|it| it);
    let guess = || scene.call("GET", "/v1/stats", &["Authorization: Bearer a-guess"], b"");
    let statuses: Vec<u16> = (0..14).map(|_| guess().status).collect();
    assert!(statuses.starts_with(&[401; 10]), "{statuses:?}");
    let blocked = guess();
    is_problem(&blocked, 429, "too many");
    assert_eq!(blocked.header("retry-after"), Some("3"));
    assert_eq!(scene.authorized("GET", "/v1/stats", &[], b"").status, 200, "the operator was shut out");
}

#[test]
fn calls_with_the_right_token_are_bounded() {
    let scene = scene(|it| it);
    let refused = (0..120).find_map(|_| {
        let response = scene.authorized("GET", "/v1/openapi.json", &[], b"");
        (response.status == 429).then_some(response)
    });
    let refused = refused.unwrap_or_else(|| panic!("120 calls at once passed"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    crate::support::eventually("calls pass again", || {
        match scene.authorized("GET", "/v1/stats", &[], b"").status {
            200 => Ok(()),
            status => Err(status),
        }
    });
}

#[test]
fn a_bad_call_hears_what_is_wrong_and_nothing_is_done() {
    let scene = scene(|it| it);
    let put = "/v1/users/alice/status";
    let json = ["Content-Type: application/json"];
    let long = format!("{{\"status\":\"banned\",\"reason\":\"{}\"}}", "x".repeat(70_000));
    for (method, path, headers, body, status, field) in [
        ("GET", "/v1/nothing", &[][..], "", 404, None),
        ("GET", "/nothing", &[], "", 404, None),
        ("DELETE", put, &[], "", 405, None),
        ("POST", "/metrics", &[], "", 405, None),
        ("PUT", put, &json, "{", 400, None),
        ("PUT", put, &json, "[1", 400, None),
        ("PUT", put, &json, "[]", 422, None),
        ("PUT", put, &json, r#"["banned",null,null]"#, 422, None),
        ("PUT", put, &json, r#"{"status":"gone"}"#, 422, Some("status")),
        ("PUT", put, &json, r#"{"reason":"x"}"#, 422, Some("status")),
        ("PUT", put, &json, r#"{"status":"banned","extra":1}"#, 422, Some("extra")),
        ("PUT", put, &json, r#"{"status":"banned","status":"active"}"#, 422, Some("status")),
        ("PUT", put, &json, r#"{"status":"banned","until":"soon"}"#, 422, Some("until")),
        ("PUT", put, &json, r#"{"status":"banned","until":"2001-01-01T00:00:00Z"}"#, 422, Some("until")),
        ("PUT", put, &json, r#"{"status":"active","until":"2199-01-01T00:00:00Z"}"#, 422, Some("until")),
        ("PUT", put, &json, r#"{"status":"banned","reason":"a\nb"}"#, 422, Some("reason")),
        ("PUT", put, &json, &long, 413, None),
        ("PUT", put, &[], r#"{"status":"banned"}"#, 415, None),
        ("PUT", put, &["Content-Type: text/plain"], r#"{"status":"banned"}"#, 415, None),
        ("PUT", "/v1/users/a%00b/status", &json, r#"{"status":"banned"}"#, 422, Some("id")),
        ("PUT", "/v1/users/a%ffb/status", &json, r#"{"status":"banned"}"#, 400, None),
        ("PUT", "/v1/users/alice/status?realm=acme", &json, r#"{"status":"banned"}"#, 422, Some("realm")),
        ("PUT", "/v1/users/alice/status?relam=x", &json, r#"{"status":"banned"}"#, 400, None),
        ("POST", "/v1/tokens/revoke", &json, "{}", 422, Some("token")),
        ("POST", "/v1/tokens/revoke", &json, r#"{"token":"a.b"}"#, 422, Some("token")),
        ("POST", "/v1/tokens/revoke", &json, r#"{"jti":""}"#, 422, Some("jti")),
        ("POST", "/v1/tokens/revoke", &json, r#"{"jti":"a","exp":-1}"#, 422, Some("exp")),
        ("POST", "/v1/tokens/revoke", &json, r#"{"jti":"a","exp":1.5}"#, 422, Some("exp")),
    ] {
        let why = format!("{method} {path} {body:.60}");
        let problem = is_problem(&scene.authorized(method, path, headers, body.as_bytes()), status, &why);
        assert_eq!(problem["field"].as_str(), field, "{why}: {problem}");
    }
    let stranger = Issuer::new(Algorithm::ES256).good("alice");
    let unknown = json!({ "token": stranger });
    let problem =
        is_problem(&scene.gateway.control("POST", "/v1/tokens/revoke", &unknown), 422, "another issuer's");
    assert!(!problem.to_string().contains(&stranger));
    assert_eq!(scene.status_of("alice"), 200);
    assert!(scene.audit().iter().all(|line| line["outcome"] != "applied"), "{:?}", scene.audit());
}

#[test]
fn what_no_rule_could_carry_is_a_conflict_and_not_a_promise() {
    let scene = scene(|it| it.section("[ledger]\npresets = [\"token-blacklist\"]"));
    let ban = json!({ "status": "banned" });
    is_problem(&scene.gateway.control("PUT", "/v1/users/alice/status", &ban), 409, "no rule guards users");
    is_problem(&scene.gateway.control("POST", "/v1/sessions/s-1/revoke", &Value::Null), 409, "nor sessions");
    let token = scene.issuer.good("alice");
    scene.gateway.revoke_token(&token);
    assert_eq!(scene.gateway.get("/x", Some(&token)).reason(), "token_revoked");
}

#[test]
fn every_action_takes_effect_at_once_and_stands_in_the_audit_trail_without_a_token() {
    let scene = scene(|it| it);
    let Scene { gateway, issuer, .. } = &scene;
    let token = issuer.token("carol", |claims| claims["sid"] = json!("s-9"));
    assert_eq!(gateway.get("/x", Some(&token)).status, 200);
    let sessions = gateway.control("GET", "/v1/users/carol/sessions", &Value::Null).json();
    assert_eq!(sessions["sessions"][0]["sid"], "s-9", "{sessions}");
    assert!(!sessions.to_string().contains(&token));

    for _ in 0..2 {
        let first = gateway.ban("alice");
        assert_eq!(scene.status_of("alice"), 403, "{first}");
    }
    let user = gateway.control("GET", "/v1/users/alice", &Value::Null).json();
    assert_eq!(
        (user["status"].as_str(), user["reason"].as_str()),
        (Some("banned"), Some("a test")),
        "{user}"
    );
    gateway.activate("alice");
    assert_eq!(scene.status_of("alice"), 200);
    gateway.logout("bob");
    assert_eq!(scene.status_of("bob"), 401);
    gateway.revoke_token(&token);
    assert_eq!(gateway.get("/x", Some(&token)).reason(), "token_revoked");
    let by_id = issuer.token("dora", |claims| claims["jti"] = json!("j-1"));
    assert_eq!(gateway.control("POST", "/v1/tokens/revoke", &json!({ "jti": "j-1" })).status, 200);
    assert_eq!(gateway.get("/x", Some(&by_id)).reason(), "token_revoked");
    assert_eq!(gateway.control("POST", "/v1/sessions/s-9/revoke", &Value::Null).status, 200);
    assert_eq!(gateway.control("POST", "/v1/prune", &Value::Null).status, 200);
    let stats = gateway.control("GET", "/v1/stats", &Value::Null);
    assert_eq!(stats.status, 200, "{stats:?}");

    let named = scene.authorized("POST", "/v1/users/erin/logout", &["X-Request-Id: ticket-4711"], b"");
    assert_eq!(named.header("x-request-id"), Some("ticket-4711"));
    let audit = scene.audit();
    let actions: Vec<&str> = audit.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        [
            "user.status",
            "user.status",
            "user.status",
            "user.logout",
            "token.revoke",
            "token.revoke",
            "session.revoke",
            "prune",
            "user.logout"
        ]
    );
    for line in &audit {
        for member in ["at", "actor", "target", "outcome", "request_id", "remote"] {
            assert!(line[member].as_str().is_some_and(|it| !it.is_empty()), "{member}: {line}");
        }
        assert_eq!(line["outcome"], "applied", "{line}");
    }
    assert_eq!(audit[0]["target"], "alice");
    assert!(audit[0]["detail"].as_str().unwrap().contains("banned"));
    assert_eq!(audit[8]["request_id"], "ticket-4711");
    let versions: Vec<i64> = audit.iter().filter_map(|line| line["version"].as_i64()).collect();
    assert!(versions.is_sorted() && versions.len() == 8, "{versions:?}");
    assert!(!scene.origin.requests().is_empty());
}
