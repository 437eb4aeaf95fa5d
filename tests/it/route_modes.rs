//! Routes that only observe, and bodies as long as their route allows.

use std::time::Duration;

use http::Request;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin, Seen};
use crate::support::raw::Response;

struct Scene {
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
}

fn observing(rest: &str, sections: &str) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let gateway = Setup::new()
        .server("h2c = true")
        .issuer(&issuer)
        .upstream("app", &origin)
        .route(&format!(
            "name = \"seen\"\npath = \"/seen/{{*rest}}\"\nupstream = \"app\"\nmode = \"observe\"\n{rest}"
        ))
        .route("name = \"held\"\npath = \"/held\"\nupstream = \"app\"")
        .section(sections)
        .start();
    Scene { gateway, origin, issuer }
}

impl Scene {
    /// Passes, and what the service saw of it.
    fn passes(&self, headers: &[&str]) -> Seen {
        let response = self.gateway.request("GET", "/seen/x", headers, b"");
        assert_eq!(response.status, 200, "{headers:?}: {}", response.text());
        let seen = self.origin.only();
        self.origin.forget();
        seen
    }

    fn line(&self, seen: &Seen) -> Value {
        let id = seen.values("x-request-id").remove(0);
        eventually("the access line", || {
            self.gateway.log_lines().into_iter().find(|line| line["request_id"] == id.as_str()).ok_or(())
        })
    }

    fn count(&self, verdict: &str, reason: &str) -> f64 {
        let series =
            format!("portcullis_verdicts_total{{reason=\"{reason}\",route=\"seen\",verdict=\"{verdict}\"}}");
        self.gateway.metric(&series).unwrap_or_else(|| panic!("{series} is missing"))
    }
}

#[test]
fn an_observing_route_says_whom_it_would_refuse_and_lets_them_pass_as_nobody() {
    let scene = observing("require = { roles = [\"admin\"] }", "");
    scene.gateway.ban("mallory");
    let admin = |subject: &str| {
        scene
            .issuer
            .token(subject, |claims| claims["realm_access"] = serde_json::json!({ "roles": ["admin"] }))
    };
    assert_eq!(scene.count("observed", "user_banned"), 0.0, "the series is there from the first second");
    let (banned, good) = (admin("mallory"), admin("alice"));
    let (expired, plain) = (scene.issuer.expired("alice"), scene.issuer.good("bob"));
    for (token, reason, sub) in [
        (None, "token_missing", None),
        (Some(expired.as_str()), "token_expired", None),
        (Some("nonsense"), "token_malformed", None),
        (Some(plain.as_str()), "insufficient_role", Some("bob")),
        (Some(banned.as_str()), "user_banned", Some("mallory")),
    ] {
        let bearer = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut headers: Vec<&str> = bearer.iter().map(String::as_str).collect();
        headers.extend(["X-User-Id: evil", "x_user_id: evil", "X-User-Roles: evil"]);
        let seen = scene.passes(&headers);
        assert!(seen.values("x-user-id").is_empty() && !seen.text().contains("evil"), "{}", seen.text());
        let line = scene.line(&seen);
        assert_eq!((line["verdict"].as_str(), line["reason"].as_str()), (Some("would_deny"), Some(reason)));
        assert_eq!((line["sub"].as_str(), line["status"].as_u64()), (sub, Some(200)));
        assert_eq!((scene.count("observed", reason), scene.count("deny", reason)), (1.0, 0.0), "{reason}");
    }
    let seen = scene.passes(&[&format!("Authorization: Bearer {good}")]);
    assert_eq!(seen.values("x-user-id"), ["alice"]);
    assert_eq!((scene.line(&seen)["verdict"].as_str(), scene.count("allow", "none")), (Some("allow"), 1.0));
    assert_eq!(scene.gateway.get("/held", None).status, 401, "other routes enforce");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_by_an_observing_route_too() {
    let scene = observing("body_bytes = 4", "");
    let (one, other) = (scene.issuer.good("alice"), scene.issuer.good("bob"));
    let ask = |target: &str, headers: &[&str]| scene.gateway.request("GET", target, headers, b"").reason();
    let two = [format!("Authorization: Bearer {one}"), format!("Cookie: access_token={other}")];
    assert_eq!(ask("/seen/x", &[&two[0], &two[1]]), "request_ambiguous");
    assert_eq!(ask("/seen/../held", &[]), "request_ambiguous");
    assert_eq!(scene.gateway.request("POST", "/seen/x", &[], b"12345").reason(), "body_too_large");
    let mut raw = scene.gateway.raw();
    raw.send(b"POST /seen/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(raw.response().status, 400);
    scene.origin.saw_nothing();
}

#[test]
fn an_outage_of_the_ledger_stops_nobody_on_an_observing_route() {
    let nowhere = "[database]\nurl = \"postgres://portcullis@127.0.0.1:1/none\"\ntimeout = \"100ms\"\n";
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let toml = Setup::new()
        .issuer(&issuer)
        .upstream("app", &origin)
        .route("name = \"seen\"\npath = \"/seen/{*rest}\"\nupstream = \"app\"\nmode = \"observe\"")
        .route("name = \"held\"\npath = \"/held\"\nupstream = \"app\"")
        .section(nowhere)
        .toml();
    let gateway = Gateway::start_unready(&toml);
    let token = issuer.good("alice");
    assert_eq!(gateway.get("/held", Some(&token)).status, 503);
    origin.saw_nothing();
    assert_eq!(gateway.get("/seen/x", Some(&token)).status, 200);
    let series =
        "portcullis_verdicts_total{reason=\"ledger_unavailable\",route=\"seen\",verdict=\"observed\"}";
    assert_eq!(gateway.metric(series), Some(1.0));
    assert!(origin.only().values("x-user-id").is_empty());
}

fn bounded() -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let gateway = Setup::new()
        .server("h2c = true\nlimits = { body_bytes = 16 }")
        .issuer(&issuer)
        .upstream("app", &origin)
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
        .route("name = \"small\"\npath = \"/small\"\nupstream = \"app\"\nauth = \"public\"\nbody_bytes = 4")
        .route("name = \"large\"\npath = \"/large\"\nupstream = \"app\"\nauth = \"public\"\nbody_bytes = \"1MiB\"")
        .route("name = \"guarded\"\npath = \"/guarded\"\nupstream = \"app\"\nbody_bytes = 4")
        .start();
    Scene { gateway, origin, issuer }
}

#[test]
fn a_body_may_be_as_long_as_its_route_allows_however_it_is_sent() {
    let scene = bounded();
    let large = vec![b'x'; 1 << 20];
    let chunked = |path: &str, body: &[u8]| -> Response {
        let mut raw = scene.gateway.raw();
        raw.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        ));
        for piece in body.chunks(64 << 10) {
            raw.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        }
        raw.send(b"0\r\n\r\n");
        raw.response()
    };
    let http2 = |path: &str, body: &[u8], says: bool| {
        let mut request = Request::post(format!("https://a{path}"));
        if says {
            request = request.header("content-length", body.len());
        }
        Http2::plain(scene.gateway.addr()).request(request.body(()).unwrap(), body)
    };
    for (path, bytes) in [("/small", 4), ("/x", 16), ("/large", 1 << 20)] {
        let fits = &large[..bytes];
        assert_eq!(scene.gateway.request("POST", path, &[], fits).status, 200, "{path}");
        assert_eq!(chunked(path, fits).status, 200, "{path}");
        assert_eq!(http2(path, fits, true).unwrap().status, 200, "{path}");
        assert_eq!(http2(path, fits, false).unwrap().status, 200, "{path}");
        scene.origin.forget();
        let over = vec![b'x'; bytes + 1];
        let refused = scene.gateway.request("POST", path, &[], &over);
        assert_eq!((refused.status, refused.reason().as_str()), (413, "body_too_large"), "{path}");
        let refused = http2(path, &over, true);
        assert!(refused.as_ref().is_ok_and(|it| it.status == 413), "{path}: {refused:?}");
        scene.origin.saw_nothing();
        assert_eq!(chunked(path, &over).reason(), "body_too_large", "{path}");
        // An answer, or a stream that is reset: either way the service has not had all of it.
        let refused = http2(path, &over, false);
        assert!(refused.is_err() || refused.is_ok_and(|it| it.status == 413), "{path}");
        let whole =
            |seen: &Seen| seen.body.windows(5).any(|it| it == b"0\r\n\r\n") && seen.body.len() > bytes;
        assert!(!scene.origin.requests().iter().any(whole), "{path}: all of it has arrived");
        scene.origin.forget();
    }
}

#[test]
fn a_body_that_is_too_long_is_refused_before_a_token_is_asked_for_and_before_it_is_sent() {
    let scene = bounded();
    assert_eq!(scene.gateway.request("POST", "/guarded", &[], b"12345").reason(), "body_too_large");
    assert_eq!(scene.gateway.request("POST", "/guarded", &[], b"1234").reason(), "token_missing");
    let mut raw = scene.gateway.raw();
    raw.send(b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(raw.response().reason(), "body_too_large", "no 100 Continue before it");
    scene.origin.saw_nothing();
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    assert_eq!(scene.gateway.request("POST", "/guarded", &[&bearer], b"1234").status, 200);
    // What follows an upgrade is no body.
    scene.origin.answer(|_| Answer::switch_to_websocket().delayed(Duration::ZERO));
    let mut raw = scene.gateway.raw();
    raw.send(
        "GET /small HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(raw.response().status, 101);
    raw.send(b"longer than four");
    assert_eq!(raw.bytes(16), b"longer than four");
}
