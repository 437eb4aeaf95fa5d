//! Pages of other origins: who is let in, and what never reaches a service.

use http::Request;
use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Response;

const APP: &str = "https://app.example.com";

struct Scene {
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
}

fn scene(routes: &[&str]) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Setup::new().server("h2c = true").issuer(&issuer).upstream("app", &origin);
    let with = |setup: Setup, route: &&str| setup.route(&format!("upstream = \"app\"\n{route}"));
    Scene { gateway: routes.iter().fold(setup, with).start(), origin, issuer }
}

const LISTED: &str = "path = \"/api/{*rest}\"\ncors = { origins = [\"https://app.example.com\", \"https://*.apps.example.com\"], \
                      credentials = true, expose = [\"X-Total\"], max_age = \"1h\" }";

impl Scene {
    fn preflight(&self, path: &str, headers: &[&str]) -> Response {
        self.gateway.request("OPTIONS", path, headers, b"")
    }
}

fn said(response: &Response) -> Vec<(String, String)> {
    let lower = response.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut said: Vec<_> = lower.filter(|(name, _)| name.starts_with("access-control-")).collect();
    said.sort();
    said
}

fn pair(name: &str, value: &str) -> (String, String) {
    (format!("access-control-{name}"), value.to_owned())
}

fn vary(response: &Response) -> String {
    let lines = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("vary"));
    lines.map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ")
}

/// CVE-2026-71324, CVE-2026-133111.
#[test]
fn a_preflight_is_answered_by_the_gateway_without_a_token_and_no_service_hears_of_it() {
    let scene = scene(&[LISTED]);
    let asks = [
        &format!("Origin: {APP}"),
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: authorization, x-a",
    ];
    let answer = scene.preflight("/api/x?y", &asks);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let expected = [
        pair("allow-credentials", "true"),
        pair("allow-headers", "authorization, x-a"),
        pair("allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        pair("allow-origin", APP),
        pair("max-age", "3600"),
    ];
    assert_eq!(said(&answer), expected);
    assert_eq!(vary(&answer), "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
    assert_eq!(answer.header("content-length"), None, "RFC 9110 section 8.6");

    // On one connection with what follows, and over HTTP/2 alike.
    let mut raw = scene.gateway.raw();
    let head = |rest: &str| format!("OPTIONS /api/x HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\n{rest}\r\n");
    raw.send(head("Access-Control-Request-Method: GET\r\n"));
    assert_eq!(raw.response().status, 204);
    raw.send(head(""));
    assert_eq!(
        raw.response().reason(),
        "token_missing",
        "an OPTIONS that is no preflight is a request like any other"
    );
    let request = Request::options("https://a/api/x")
        .header("origin", APP)
        .header("access-control-request-method", "GET");
    let answer = Http2::plain(scene.gateway.addr()).request(request.body(()).unwrap(), b"").unwrap();
    assert_eq!(
        (answer.status, said(&answer)[1].clone()),
        (204, pair("allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE"))
    );

    // A stranger's page, and one that only looks like ours, hears nothing.
    for origin in [
        "https://evil.test",
        "https://app.example.com.evil.test",
        "http://app.example.com",
        "https://apps.example.com",
        "null",
        "https://app.example.com:8443",
    ] {
        let answer =
            scene.preflight("/api/x", &[&format!("Origin: {origin}"), "Access-Control-Request-Method: PUT"]);
        assert_eq!((answer.status, said(&answer)), (204, Vec::new()), "{origin}");
        assert!(vary(&answer).contains("Origin"));
    }
    let below = scene
        .preflight("/api/x", &["Origin: https://a.b.apps.example.com", "Access-Control-Request-Method: PUT"]);
    assert!(said(&below).contains(&pair("allow-origin", "https://a.b.apps.example.com")));
    scene.origin.saw_nothing();
}

#[test]
fn a_preflight_finds_the_route_of_the_method_that_it_announces() {
    let scene = scene(&[
        "path = \"/x\"\nmethods = [\"GET\"]\ncors = { origins = [\"*\"] }",
        "path = \"/x\"\nmethods = [\"PUT\", \"DELETE\"]\ncors = { origins = [\"https://app.example.com\"], headers = [\"X-A\"] }",
        "path = \"/x\"\nmethods = [\"POST\"]",
        "path = \"/open\"\nauth = \"public\"",
    ]);
    let ask = |method: &str| {
        scene.preflight(
            "/x",
            &[
                &format!("Origin: {APP}"),
                &format!("Access-Control-Request-Method: {method}"),
                "Access-Control-Request-Headers: x-b",
            ],
        )
    };
    assert!(said(&ask("GET")).contains(&pair("allow-origin", "*")));
    let put = said(&ask("DELETE"));
    assert!(
        put.contains(&pair("allow-origin", APP)) && put.contains(&pair("allow-methods", "PUT, DELETE")),
        "{put:?}"
    );
    assert!(put.contains(&pair("allow-headers", "X-A")), "{put:?}");
    assert_eq!(
        ask("POST").reason(),
        "no_route",
        "this route says nothing of other origins, and takes no OPTIONS"
    );
    assert_eq!(ask("PATCH").reason(), "no_route");
    scene.origin.saw_nothing();
    // Where no route says anything of it, the service may.
    scene.preflight("/open", &[&format!("Origin: {APP}"), "Access-Control-Request-Method: PUT"]);
    assert_eq!(scene.origin.only().line(), "OPTIONS /open HTTP/1.1");
}

#[test]
fn what_a_service_says_of_other_origins_is_replaced_and_never_doubled() {
    let scene = scene(&[LISTED, "path = \"/any\"\nauth = \"public\"\ncors = { origins = [\"*\"] }"]);
    scene.origin.answer(|_| {
        Answer::ok()
            .header("Access-Control-Allow-Origin", "*")
            .header("access-control-allow-credentials", "true")
            .header("Access-Control-Allow-Methods", "EVIL")
            .header("Vary", "Accept-Encoding")
    });
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    let ours = scene.gateway.request("GET", "/api/x", &[&bearer, &format!("Origin: {APP}")], b"");
    let expected =
        [pair("allow-credentials", "true"), pair("allow-origin", APP), pair("expose-headers", "X-Total")];
    assert_eq!((ours.status, said(&ours)), (200, expected.to_vec()));
    assert_eq!(vary(&ours), "Accept-Encoding, Origin");
    for other in [
        &["Origin: https://evil.test"][..],
        &["Origin: null"],
        &[],
        &["Origin: https://app.example.com", "Origin: https://evil.test"],
    ] {
        let answer = scene.gateway.request("GET", "/api/x", &[&[bearer.as_str()][..], other].concat(), b"");
        assert_eq!((answer.status, said(&answer)), (200, Vec::new()), "{other:?}");
        assert_eq!(vary(&answer), "Accept-Encoding, Origin", "caches must not confuse them");
    }
    let any = scene.gateway.request("GET", "/any", &["Origin: https://evil.test"], b"");
    assert_eq!((said(&any), vary(&any)), (vec![pair("allow-origin", "*")], "Accept-Encoding".to_owned()));
    scene.origin.answer(|_| Answer::ok().header("Vary", "origin"));
    assert_eq!(vary(&scene.gateway.request("GET", "/api/x", &[&bearer], b"")), "origin");
}

#[test]
fn a_page_can_read_why_it_was_refused() {
    let scene = scene(&[LISTED, "path = \"/down\"\nauth = \"public\"\nupstream = \"app\"\ncors = { origins = [\"*\"] }\nmaintenance = true".replace("upstream = \"app\"\n", "").as_str()]);
    let page = format!("Origin: {APP}");
    let denied = scene.gateway.request("GET", "/api/x", &[&page], b"");
    assert_eq!(denied.reason(), "token_missing");
    assert!(said(&denied).contains(&pair("allow-origin", APP)) && vary(&denied).contains("Origin"));
    scene.gateway.ban("mallory");
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("mallory"));
    let banned = scene.gateway.request("GET", "/api/x", &[&page, &bearer], b"");
    assert_eq!((banned.status, banned.reason().as_str()), (403, "user_banned"));
    assert!(said(&banned).contains(&pair("allow-credentials", "true")));
    assert_eq!(said(&scene.gateway.request("GET", "/api/x", &["Origin: https://evil.test"], b"")), []);
    let down = scene.gateway.request("GET", "/down", &[&page], b"");
    assert_eq!((down.reason().as_str(), said(&down)), ("maintenance", vec![pair("allow-origin", "*")]));
    scene.origin.saw_nothing();
    // Nobody is there to answer in the service's place.
    scene.origin.answer(|_| Answer { raw: Some(b"nonsense\r\n\r\n".to_vec()), close: true, ..Answer::ok() });
    let good = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    let broken = scene.gateway.request("POST", "/api/x", &[&page, &good], b"x");
    assert_eq!((broken.status, broken.reason().as_str()), (502, "upstream_unavailable"));
    assert!(said(&broken).contains(&pair("allow-origin", APP)));
}

#[test]
fn pages_of_public_networks_are_let_into_a_private_one_only_where_that_is_said() {
    let cors = |path: &str, rest: &str| {
        format!("path = \"{path}\"\ncors = {{ origins = [\"{APP}\", \"null\"]{rest} }}")
    };
    let scene = scene(&[&cors("/no", ""), &cors("/yes", ", private_network = true")]);
    let asks = |origin: &str| {
        [
            format!("Origin: {origin}"),
            "Access-Control-Request-Method: GET".into(),
            "Access-Control-Request-Private-Network: true".into(),
        ]
    };
    let allowed = |path: &str, origin: &str| {
        let asks = asks(origin);
        let answer = scene.preflight(path, &asks.iter().map(String::as_str).collect::<Vec<_>>());
        said(&answer).contains(&pair("allow-private-network", "true"))
    };
    assert!(allowed("/yes", APP) && allowed("/yes", "null"));
    assert!(!allowed("/no", APP) && !allowed("/yes", "https://evil.test"));
    scene.origin.saw_nothing();
}

#[test]
fn a_page_that_may_use_its_visitors_cookies_may_open_a_websocket_with_them() {
    let scene = scene(&[LISTED, "path = \"/other\"\ncors = { origins = [\"https://app.example.com\"] }"]);
    scene.origin.answer(|_| Answer::switch_to_websocket());
    let cookie = format!("Cookie: access_token={}", scene.issuer.good("alice"));
    let open = |path: &str, origin: &str| {
        let mut raw = scene.gateway.raw();
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: {origin}\r\n{cookie}\r\n\r\n"
        ));
        raw.response()
    };
    assert_eq!(open("/api/x", "https://evil.test").reason(), "origin_refused");
    assert_eq!(open("/other", APP).reason(), "origin_refused", "not with cookies");
    scene.origin.saw_nothing();
    assert_eq!(open("/api/x", APP).status, 101);
}
