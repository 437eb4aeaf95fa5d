//! What a service is told of who is calling, and what of the token it gets to see.

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Origin, Seen};

struct Scene {
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
}

fn scene(identity: &str, change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Gateway::guarding(&issuer, &origin)
        .route("name = \"public\"\npath = \"/public\"\nupstream = \"app\"\nauth = \"public\"")
        .section(identity);
    Scene { gateway: change(setup).start(), origin, issuer }
}

impl Scene {
    fn send(&self, path: &str, headers: &[&str]) -> Seen {
        let response = self.gateway.request("GET", path, headers, b"");
        assert_eq!(response.status, 200, "{path} {headers:?}: {response:?}");
        let seen = self.origin.only();
        self.origin.forget();
        seen
    }
}

#[test]
fn a_service_is_told_user_roles_and_session_by_default() {
    let scene = scene("", |it| it);
    let token = scene.issuer.token("alice", |claims| {
        claims["sid"] = json!("s-7");
        claims["realm_access"] = json!({ "roles": ["admin", "user"] });
    });
    // Twice: as verified, and as remembered.
    for _ in 0..2 {
        let seen = scene.send("/x", &[&format!("Authorization: Bearer {token}")]);
        assert_eq!(seen.values("x-user-id"), ["alice"]);
        assert_eq!(seen.values("x-user-roles"), ["admin,user"]);
        assert_eq!(seen.values("x-session-id"), ["s-7"]);
        assert_eq!(seen.values("authorization"), [format!("Bearer {token}")], "the token is forwarded");
    }
}

#[test]
fn a_header_whose_claim_is_missing_is_absent_and_not_the_clients() {
    let scene = scene(
        "[identity]\nheaders = { x-user-id = \"{sub}\", x-tenant = \"{claims.tenant}\", x-tag = \"u:{sub}:{jti}\" }",
        |it| it,
    );
    let token = scene.issuer.token("alice", |claims| drop(claims.as_object_mut().unwrap().remove("jti")));
    let bearer = format!("Authorization: Bearer {token}");
    let spoofs = ["X-Tenant: evil", "x_tenant: evil", "X.Tag: evil", "Connection: x-user-id, close"];
    let seen = scene.send("/x", &[&[bearer.as_str()][..], &spoofs].concat());
    assert_eq!(seen.values("x-user-id"), ["alice"]);
    assert!(!seen.text().contains("evil"), "{}", seen.text());
    assert!(seen.values("x-tenant").is_empty() && seen.values("x-tag").is_empty());
    let seen = scene.send("/public", &["X-Tenant: evil", "X_USER_ID: evil"]);
    assert!(!seen.text().contains("evil"), "{}", seen.text());
    let whole = scene.issuer.token("alice", |claims| claims["tenant"] = json!("acme"));
    let seen = scene.send("/x", &[&format!("Authorization: Bearer {whole}"), "x-tenant: evil"]);
    assert_eq!(seen.values("x-tenant"), ["acme"]);
}

#[test]
fn no_claim_breaks_out_of_its_header() {
    let scene = scene("[identity]\nheaders = { x-user-id = \"{sub}\", x-name = \"{claims.name}\" }", |it| it);
    for name in ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\0b", "\u{7f}", "a\u{85}b"] {
        let token = scene.issuer.token("alice", |claims| claims["name"] = json!(name));
        let seen = scene.send("/x", &[&format!("Authorization: Bearer {token}")]);
        assert_eq!(seen.values("x-user-id"), ["alice"]);
        assert!(seen.values("x-evil").is_empty(), "{}", seen.text());
        assert!(!seen.head.contains(&0) && !seen.head.contains(&0x7f));
    }
    let token =
        scene.issuer.token("alice", |claims| claims["realm_access"] = json!({ "roles": ["user,admin"] }));
    let seen = scene.send("/x", &[&format!("Authorization: Bearer {token}")]);
    assert!(!seen.text().contains("user,admin"), "a comma in a role would make two of it");
}

#[test]
fn a_token_that_is_not_to_be_forwarded_is_taken_out_and_the_rest_stays() {
    let scene = scene("[identity]\nforward_token = false", |it| it);
    let token = scene.issuer.good("alice");
    let seen = scene.send("/x?a=1", &[&format!("Authorization: Bearer {token}"), "X-Other: stays"]);
    assert!(seen.values("authorization").is_empty() && seen.values("x-other") == ["stays"]);
    assert_eq!((seen.target().as_str(), seen.values("x-user-id").concat().as_str()), ("/x?a=1", "alice"));

    let cookie = format!("Cookie: theme=dark; access_token={token}; lang=en");
    let seen = scene.send("/x", &[&cookie, "Cookie: other=1"]);
    assert_eq!(seen.values("cookie").join("; "), "theme=dark; lang=en; other=1");
    let seen = scene.send("/x", &[&format!("Cookie: access_token={token}")]);
    assert!(seen.values("cookie").is_empty());

    let seen = scene.send(&format!("/x?a=1&access_token={token}&b=%20+&b=2"), &[]);
    assert_eq!(seen.target(), "/x?a=1&b=%20+&b=2");
    let seen = scene.send(&format!("/x?access%5Ftoken={token}"), &[]);
    assert_eq!(seen.target(), "/x");
    assert!(!seen.text().contains(&token));

    // Of a route that looks at no token too, and credentials of other schemes are not ours.
    let seen = scene.send(&format!("/public?access_token={token}"), &["Authorization: Basic eDp5"]);
    assert_eq!(
        (seen.target().as_str(), seen.values("authorization").concat().as_str()),
        ("/public", "Basic eDp5")
    );
}

#[test]
fn where_a_request_came_from_is_said_by_the_gateway_or_by_a_trusted_proxy() {
    let said = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.test",
        "X-Request-Id: of-the-proxy",
        "X-Real-IP: 203.0.113.9",
    ];
    let stranger = scene("", |it| it);
    let seen = stranger.send("/public", &said);
    assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.values("host"), [stranger.gateway.addr().to_string()], "which needs no second copy");
    assert!(seen.values("x-forwarded-host").is_empty());
    assert_eq!(seen.values("x-request-id").concat().len(), 32);
    assert!(!seen.text().contains("203.0.113") && !seen.text().contains("of-the-proxy"), "{}", seen.text());

    let trusted = scene("", |it| it.server("trusted_proxies = [\"127.0.0.0/8\"]"));
    let seen = trusted.send("/public", &[&said[..], &["X-User-Id: mallory"]].concat());
    assert_eq!(seen.values("x-forwarded-for"), ["203.0.113.9, 127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.values("x-forwarded-host"), ["shop.test"]);
    assert_eq!(seen.values("x-request-id"), ["of-the-proxy"]);
    let lines = ["X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 203.0.113.9, 127.0.0.9"];
    let seen = trusted.send("/public", &lines);
    assert_eq!(seen.values("x-forwarded-for"), ["198.51.100.7, 203.0.113.9, 127.0.0.9, 127.0.0.1"]);
    let denied = trusted.gateway.request("GET", "/x", &["X-Request-Id: of-the-proxy:2"], b"");
    assert_eq!(denied.json()["request_id"], "of-the-proxy:2");
    crate::support::eventually("the access lines", || {
        let lines = trusted.gateway.log_lines();
        let named =
            |id: &str| lines.iter().any(|line| line["request_id"] == id && line["target"] == "access");
        if named("of-the-proxy") && named("of-the-proxy:2") { Ok(()) } else { Err(lines.len()) }
    });
    assert!(seen.values("x-user-id").is_empty(), "who the user is, no proxy says");
    let log = crate::support::eventually("the access line", || {
        trusted.gateway.log_lines().into_iter().find(|line| line["request_id"] == "of-the-proxy").ok_or(())
    });
    assert_eq!(log["client"], "203.0.113.9", "whose request it is");
}

#[test]
fn a_trace_goes_on_and_the_request_id_is_the_same_everywhere() {
    let scene = scene("", |it| it);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    let trace_line = format!("traceparent: {trace}");
    let seen = scene.send("/x", &[&bearer, &trace_line, "tracestate: vendor=1"]);
    assert_eq!(seen.values("traceparent"), [trace]);
    assert_eq!(seen.values("tracestate"), ["vendor=1"]);
    let id = seen.values("x-request-id").concat();
    crate::support::eventually("the access line", || {
        scene.gateway.log_lines().into_iter().find(|line| line["request_id"] == id.as_str()).ok_or(())
    });
}
