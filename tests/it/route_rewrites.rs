//! What a service receives where its route rewrites paths, the host and headers: the exact bytes.

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin, Seen};
use crate::support::raw::Response;
use crate::support::service::{Service, Speaks};

struct Scene {
    gateway: Gateway,
    origin: Origin,
}

fn scene(routes: &[&str]) -> Scene {
    let origin = Origin::start();
    let with =
        |setup: Setup, route: &&str| setup.route(&format!("upstream = \"app\"\nauth = \"public\"\n{route}"));
    let setup = Setup::new().server("h2c = true").upstream("app", &origin);
    Scene { gateway: routes.iter().fold(setup, with).start(), origin }
}

impl Scene {
    /// What the service saw of a request to `h.test`.
    fn send(&self, target: &str, headers: &[&str]) -> Seen {
        assert_eq!(self.ask(target, headers).status, 200, "{target}");
        let seen = self.origin.only();
        self.origin.forget();
        seen
    }

    fn ask(&self, target: &str, headers: &[&str]) -> Response {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let mut raw = self.gateway.raw();
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n{lines}\r\n"));
        raw.response()
    }
}

#[test]
fn a_rewritten_path_is_made_of_whole_segments_and_the_query_stays_as_it_is() {
    let scene = scene(&[
        "path = \"/api/{*rest}\"\nrewrite = { strip_prefix = \"/api\" }",
        "path = \"/api\"\nrewrite = { strip_prefix = \"/api/\" }",
        "path = \"/v1/{*rest}\"\nrewrite = { strip_prefix = \"/v1\", add_prefix = \"/v2/x\" }",
        "path = \"/old/{id}/{*rest}\"\nrewrite = { replace = \"/new/{rest}\" }",
        "path = \"/user/{id}\"\nrewrite = { replace = \"/u/{id}/profile\" }",
    ]);
    for (asked, line) in [
        ("/api/x/y?q=/api/%2e%2E//;&&a=b+%20", "GET /x/y?q=/api/%2e%2E//;&&a=b+%20 HTTP/1.1"),
        ("/api/", "GET / HTTP/1.1"),
        ("/api", "GET / HTTP/1.1"),
        ("/api?", "GET /? HTTP/1.1"),
        ("/api/api/api", "GET /api/api HTTP/1.1"),
        ("/api/%61%20%c3%a9", "GET /a%20%C3%A9 HTTP/1.1"),
        ("/v1/a", "GET /v2/x/a HTTP/1.1"),
        ("/v1/", "GET /v2/x/ HTTP/1.1"),
        ("/old/7/a/b?x", "GET /new/a/b?x HTTP/1.1"),
        ("/old/7/", "GET /new/ HTTP/1.1"),
        ("/user/a%3Fb%23", "GET /u/a%3Fb%23/profile HTTP/1.1"),
        ("http://h.test/api/x?y", "GET /x?y HTTP/1.1"),
    ] {
        assert_eq!(scene.send(asked, &[]).line(), line, "{asked}");
    }
    let mut client = Http2::plain(scene.gateway.addr());
    assert_eq!(client.get("h.test", "/v1/a?b=%2f", &[]).unwrap().status, 200);
    assert_eq!(scene.origin.only().line(), "GET /v2/x/a?b=%2f HTTP/1.1");
}

/// CVE-2026-48020, CVE-2026-40912: what only a rewritten path would mean is refused before.
#[test]
fn no_rewriting_lets_through_what_would_have_been_refused() {
    let scene = scene(&[
        "path = \"/api/{*rest}\"\nrewrite = { strip_prefix = \"/api\" }",
        "path = \"/old/{id}/{*rest}\"\nrewrite = { replace = \"/new/{id}/{rest}\" }",
    ]);
    for target in [
        "/api//evil.test/x",
        "/api/../admin",
        "/api/%2e%2e/admin",
        "/api/%2fadmin",
        "/api/%2Fevil",
        "/api/;/x",
        "/api/..",
        "/api/%5cx",
        "/old/%2e%2e/x",
        "/old/../x",
        "/old/7/%2e",
        "/old//x",
        "/old/7/a%0d%0aX:b",
        "/api\\x",
        "/api/%25%32%65",
    ] {
        assert_eq!(scene.ask(target, &[]).reason(), "request_ambiguous", "{target}");
    }
    for target in ["/apix", "/ap", "/API/x", "/x/api/y"] {
        assert_eq!(scene.ask(target, &[]).reason(), "no_route", "{target}");
    }
    scene.origin.saw_nothing();
}

#[test]
fn a_service_is_told_what_was_taken_off_and_nobody_else_may_say_so() {
    let scene =
        scene(&["path = \"/api/{*rest}\"\nrewrite = { strip_prefix = \"/api\" }", "path = \"/plain\""]);
    let seen = scene.send("/api/x", &["X-Forwarded-Prefix: /evil", "X_Forwarded_Prefix: /evil"]);
    assert_eq!(seen.values("x-forwarded-prefix"), ["/api"]);
    assert!(!seen.text().contains("evil"), "{}", seen.text());
    assert!(scene.send("/plain", &["X-Forwarded-Prefix: /evil"]).values("x-forwarded-prefix").is_empty());
}

#[test]
fn a_service_gets_the_clients_host_unless_the_route_says_another() {
    let scene = scene(&["path = \"/kept\"", "path = \"/named\"\nrewrite = { host = \"app.internal:81\" }"]);
    assert_eq!(scene.send("/kept", &[]).values("host"), ["h.test"]);
    let seen = scene.send("/named", &[]);
    assert_eq!(
        (seen.values("host"), seen.values("x-forwarded-host")),
        (vec!["app.internal:81".into()], vec!["h.test".into()])
    );
    let mut client = Http2::plain(scene.gateway.addr());
    assert_eq!(client.get("h.test", "/named", &[]).unwrap().status, 200);
    assert_eq!(scene.origin.only().values("host"), ["app.internal:81"]);

    let service = Service::start(Speaks::h2c());
    let route = "path = \"/api/{*rest}\"\nupstream = \"app\"\nauth = \"public\"\n\
                 rewrite = { strip_prefix = \"/api\", host = \"app.internal\" }";
    let gateway = Setup::new().section(&service.config_toml("app", "http2 = true")).route(route).start();
    assert_eq!(gateway.get("/api/x?y", None).status, 200);
    let told = service.only();
    assert_eq!((told.version, told.path.as_str()), ("HTTP/2.0", "/x"));
    assert_eq!(told.headers.get("host").map(|it| it.as_bytes()), Some(&b"app.internal"[..]));
}

#[test]
fn places_that_a_service_names_are_given_their_prefix_back() {
    let scene = scene(&[
        "path = \"/api/{*rest}\"\nrewrite = { strip_prefix = \"/api\", host = \"app.internal\", restore = true }",
        "path = \"/as-is/{*rest}\"\nrewrite = { strip_prefix = \"/as-is\" }",
    ]);
    for (said, heard) in [
        ("/login?next=/x", "/api/login?next=/x"),
        ("http://h.test/a", "http://h.test/api/a"),
        ("http://app.internal/a#b", "/api/a#b"),
        ("https://other.test/a", "https://other.test/a"),
        ("//other.test/a", "//other.test/a"),
        ("relative", "relative"),
    ] {
        scene.origin.answer(move |_| Answer::new(302, "").header("Location", said));
        assert_eq!(scene.ask("/api/x", &[]).header("location"), Some(heard), "{said}");
        assert_eq!(scene.ask("/as-is/x", &[]).header("location"), Some(said), "{said}");
    }
    scene.origin.answer(|_| {
        Answer::ok()
            .header("Set-Cookie", "a=1; Path=/; HttpOnly")
            .header("Set-Cookie", "b=path=/; path=/x; Domain=app.internal")
    });
    let cookies: Vec<_> = scene
        .ask("/api/x", &[])
        .headers
        .into_iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .map(|(_, value)| value)
        .collect();
    assert_eq!(cookies, ["a=1; Path=/api/; HttpOnly", "b=path=/; Path=/api/x"]);
}

fn values(response: &Response, name: &str) -> Vec<String> {
    let all = response.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
    all.map(|(_, value)| value.clone()).collect()
}

#[test]
fn headers_are_removed_set_and_added_on_the_way_there_and_back() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let route = r#"name = "all"
path = "/t/{tenant_name}/{*rest}"
upstream = "app"
auth = "optional"
headers.request = { remove = ["cookie", "X-Secret"], set = { X-Who = "{sub}@{claims.tenant}", x-ip = "{client_ip}", x-fixed = "one", x-name = "{tenant_name}" }, add = { x-more = "{method} {scheme}://{host}{path}?{query}" } }
headers.response = { remove = ["server"], set = { strict-transport-security = "max-age=63072000", x-request = "{request_id}" }, add = { set-cookie = "seen=1" } }"#;
    let gateway = Setup::new().issuer(&issuer).upstream("app", &origin).route(route).start();
    origin.answer(|_| {
        Answer::ok()
            .header("Server", "own")
            .header("Strict-Transport-Security", "max-age=1")
            .header("Set-Cookie", "own=1")
    });
    let token = issuer.token("alice", |claims| claims["tenant"] = json!("acme"));
    let spoofs = [
        "x-who: evil",
        "X_Who: evil",
        "x.who: evil",
        "X-Fixed: evil",
        "X_IP: evil",
        "Cookie: evil=1",
        "x_secret: evil",
        "x-more: client",
    ];
    let mut headers = spoofs.to_vec();
    let bearer = format!("Authorization: Bearer {token}");
    headers.push(&bearer);
    let response = gateway.request("GET", "/t/a%20b/x?y=z", &headers, b"");
    let seen = origin.only();
    origin.forget();
    assert!(!seen.text().contains("evil"), "{}", seen.text());
    for (name, expected) in [
        ("x-who", vec!["alice@acme"]),
        ("x-ip", vec!["127.0.0.1"]),
        ("x-fixed", vec!["one"]),
        ("x-name", vec!["a%20b"]),
        ("x-more", vec!["client", "GET http://127.0.0.1/t/a%20b/x?y=z"]),
        ("x-user-id", vec!["alice"]),
    ] {
        assert_eq!(seen.values(name), expected, "{name}");
    }
    assert_eq!(values(&response, "server"), [""; 0]);
    assert_eq!(values(&response, "strict-transport-security"), ["max-age=63072000"]);
    assert_eq!(values(&response, "set-cookie"), ["own=1", "seen=1"]);
    assert_eq!(values(&response, "x-request"), seen.values("x-request-id"));

    // Of nobody nothing is told, and nobody says it in our place; not by nominating it away either (CVE-2024-45410).
    let response =
        gateway.request("GET", "/t/a/x", &["x-who: evil", "X_WHO: evil", "Connection: x-fixed, x-ip"], b"");
    assert_eq!(response.status, 200);
    let seen = origin.only();
    assert!(seen.values("x-who").is_empty() && !seen.text().contains("evil"), "{}", seen.text());
    assert_eq!(
        (seen.values("x-fixed").concat(), seen.values("x-ip").concat()),
        ("one".into(), "127.0.0.1".into())
    );
}

#[test]
fn no_claim_and_no_path_breaks_out_of_a_header_of_the_route() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let route = "path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"optional\"\n\
                 headers.request.set = { x-name = \"{claims.name}\" }\nheaders.response.set = { x-name = \"{claims.name}\" }";
    let gateway = Setup::new().issuer(&issuer).upstream("app", &origin).route(route).start();
    for name in ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\0b", "\u{7f}", "a\u{85}b"] {
        let token = issuer.token("alice", |claims| claims["name"] = json!(name));
        let response = gateway.get("/x", Some(&token));
        let seen = origin.only();
        origin.forget();
        assert!(seen.values("x-evil").is_empty() && seen.values("x-name").is_empty(), "{}", seen.text());
        assert_eq!((response.header("x-evil"), response.header("x-name")), (None, None));
    }
}

#[test]
fn denials_carry_the_routes_headers_and_keep_what_they_say_themselves() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let route = "path = \"/{*rest}\"\nupstream = \"app\"\n\
                 headers.response = { set = { strict-transport-security = \"max-age=1\", cache-control = \"public, max-age=600\", \
                 www-authenticate = \"None\", x-who = \"{sub}\" }, remove = [\"x-request-id\"] }";
    let gateway = Setup::new().issuer(&issuer).upstream("app", &origin).route(route).start();
    let denied = gateway.get("/x", None);
    assert_eq!((denied.status, denied.reason().as_str()), (401, "token_missing"));
    assert_eq!(values(&denied, "strict-transport-security"), ["max-age=1"]);
    assert_eq!(values(&denied, "cache-control"), ["no-store"], "a refusal must not be cached for others");
    assert_eq!(values(&denied, "www-authenticate"), ["Bearer"]);
    assert!(denied.header("x-request-id").is_some() && denied.header("x-who").is_none());
    gateway.ban("mallory");
    let banned = gateway.get("/x", Some(&issuer.good("mallory")));
    assert_eq!((banned.reason().as_str(), banned.header("x-who")), ("user_banned", None));
    let passed = gateway.get("/x", Some(&issuer.good("alice")));
    assert_eq!(
        (values(&passed, "cache-control").concat(), passed.header("x-who")),
        ("public, max-age=600".into(), Some("alice"))
    );
}

#[test]
fn a_token_is_taken_out_of_a_rewritten_target_and_a_retry_is_rewritten_once() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let gateway = Setup::new()
        .issuer(&issuer)
        .section("[identity]\nforward_token = false\n")
        .upstream("app", &origin)
        .route("path = \"/a/{*rest}\"\nupstream = \"app\"\nrewrite = { strip_prefix = \"/a\" }\nheaders.request.add = { x-path = \"{path}\", x-query = \"{query}\" }")
        .start();
    let token = issuer.good("alice");
    assert_eq!(gateway.get(&format!("/a/a/b?x=%20&access_token={token}&y"), None).status, 200);
    let seen = origin.only();
    assert_eq!(
        (seen.line().as_str(), seen.values("x-path")),
        ("GET /a/b?x=%20&y HTTP/1.1", vec!["/a/a/b".to_owned()])
    );
    assert!(!seen.text().contains(&token) && seen.values("x-query") == ["x=%20&y"]);
    origin.forget();
    // The kept connection is closed without a word: the request goes out again, and is the same.
    let closed = std::sync::atomic::AtomicBool::new(false);
    origin.answer(move |_| match closed.swap(true, std::sync::atomic::Ordering::SeqCst) {
        false => Answer { raw: Some(Vec::new()), close: true, ..Answer::ok() },
        true => Answer::ok(),
    });
    assert_eq!(gateway.get("/a/a/b?x", Some(&token)).status, 200);
    let lines: Vec<_> = origin.requests().iter().map(Seen::line).collect();
    assert_eq!(lines, ["GET /a/b?x HTTP/1.1"; 2]);
    assert!(origin.requests().iter().all(|seen| seen.values("x-path") == ["/a/a/b"]));
}
