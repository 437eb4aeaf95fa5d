//! What can be seen of a gateway: its access lines, its metrics, and nothing that is secret.

use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};

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
    /// The access lines, once there are so many.
    fn access(&self, count: usize) -> Vec<Value> {
        eventually("the access lines", || {
            let lines: Vec<_> =
                self.gateway.log_lines().into_iter().filter(|line| line["target"] == "access").collect();
            if lines.len() >= count { Ok(lines) } else { Err(lines.len()) }
        })
    }
}

/// Counting comes after the answer, whatever is logged.
fn counted(gateway: &Gateway, series: &str, count: f64) {
    eventually(series, || match gateway.metric(series) {
        Some(seen) if seen == count => Ok(()),
        seen => Err(seen),
    });
}

#[test]
fn an_access_line_says_who_what_where_and_how_long() {
    let scene = scene(|it| it);
    let token = scene.issuer.good("alice");
    scene.origin.answer(|_| Answer::new(201, "made"));
    assert_eq!(scene.gateway.get("/things/7?q=1", Some(&token)).status, 201);
    let line = scene.access(1).remove(0);
    let origin = scene.origin.addr().to_string();
    for (member, expected) in [
        ("method", "GET"),
        ("path", "/things/7"),
        ("route", "all"),
        ("verdict", "allow"),
        ("reason", "none"),
        ("sub", "alice"),
        ("client", "127.0.0.1"),
        ("upstream", origin.as_str()),
        ("level", "INFO"),
    ] {
        assert_eq!(line[member], expected, "{member}: {line}");
    }
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(201), Some(4)), "{line}");
    for time in ["total_ms", "upstream_ms", "judgment_us"] {
        assert!(line[time].as_f64().is_some_and(|it| it > 0.0), "{time}: {line}");
    }
    assert!(line["total_ms"].as_f64() >= line["upstream_ms"].as_f64());
    assert_eq!(line["request_id"], scene.origin.only().values("x-request-id").concat());
    assert!(line["token"].as_str().is_some_and(|it| !token.contains(it)), "a fingerprint: {line}");
    assert!(line["timestamp"].as_str().is_some_and(|it| it.ends_with('Z')), "{line}");

    scene.gateway.ban("alice");
    scene.gateway.get("/things/8", Some(&token));
    scene.gateway.get("/things/9", None);
    let lines = scene.access(3);
    // Two connections: either may be told first.
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    let (banned, missing) = (of("/things/8"), of("/things/9"));
    assert_eq!((banned["verdict"].as_str(), banned["reason"].as_str()), (Some("deny"), Some("user_banned")));
    assert_eq!((banned["sub"].as_str(), banned["token"] == line["token"]), (Some("alice"), true));
    assert!(banned["upstream"].is_null() && banned["upstream_ms"].is_null(), "{banned}");
    assert!(missing["sub"].is_null() && missing["token"].is_null(), "{missing}");
}

#[test]
fn what_is_logged_is_chosen_and_denials_are_never_sampled_away() {
    for (log, passed, denied) in [
        ("access = \"denied\"", false, true),
        ("access = \"off\"", false, false),
        ("sample = 0.0000001", false, true),
    ] {
        let toml = Gateway::guarding;
        let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
        let toml = toml(&issuer, &origin).toml();
        let with = match log.starts_with("access") {
            true => toml.replace("access = \"all\"", log),
            false => toml.replace("access = \"all\"", &format!("access = \"all\"\n{log}")),
        };
        let gateway = Gateway::start(&with);
        for _ in 0..10 {
            assert_eq!(gateway.get("/passed", Some(&issuer.good("alice"))).status, 200);
            assert_eq!(gateway.get("/denied", None).status, 401);
        }
        let metric = "portcullis_verdicts_total{reason=\"token_missing\",route=\"all\",verdict=\"deny\"}";
        counted(&gateway, metric, 10.0);
        let directory = gateway.directory().to_owned();
        gateway.signal("TERM");
        let mut gateway = gateway;
        assert!(gateway.wait_exit().success());
        // Everything has been written by now.
        let text = std::fs::read_to_string(directory.join("stdout.log")).unwrap();
        assert_eq!(text.matches("\"/passed\"").count() > 0, passed, "{log}");
        assert_eq!(text.matches("\"/denied\"").count(), if denied { 10 } else { 0 }, "{log}");
    }
}

#[test]
fn nothing_that_a_client_sends_steers_the_terminal_that_shows_the_log() {
    let scene = scene(|it| it);
    let token = scene.issuer.token("a\u{1b}[31mlice", |_| {});
    assert_eq!(scene.gateway.get("/x", Some(&token)).reason(), "token_claims");
    assert_eq!(scene.gateway.request("GET", "/x\u{1b}[31m", &[], b"").status, 400);
    scene.access(2);
    assert!(!scene.gateway.log().contains('\u{1b}'), "{}", scene.gateway.log());
}

#[test]
fn every_metric_has_its_series_from_the_first_second() {
    let scene = scene(|it| it);
    let metrics = scene.gateway.metrics();
    for series in [
        "portcullis_requests_total{method=\"GET\",route=\"all\",status=\"2xx\"} 0",
        "portcullis_requests_total{method=\"other\",route=\"(none)\",status=\"4xx\"} 0",
        "portcullis_request_duration_seconds_count{route=\"all\"} 0",
        "portcullis_upstream_duration_seconds_count{route=\"all\"} 0",
        "portcullis_judgment_duration_seconds_count 0",
        "portcullis_verdicts_total{reason=\"none\",route=\"all\",verdict=\"allow\"} 0",
        "portcullis_verdicts_total{reason=\"user_banned\",route=\"all\",verdict=\"deny\"} 0",
        "portcullis_verdicts_total{reason=\"token_revoked\",route=\"all\",verdict=\"deny\"} 0",
        "portcullis_verdicts_total{reason=\"ledger_unavailable\",route=\"all\",verdict=\"allow\"} 0",
        "portcullis_verdicts_total{reason=\"no_route\",route=\"(none)\",verdict=\"deny\"} 0",
        "portcullis_mode{mode=\"database\"} 1",
        "portcullis_mode{mode=\"coherent\"} 0",
        "portcullis_mode{mode=\"direct\"} 0",
        "portcullis_store_up{store=\"database\"} 1",
        "portcullis_reloads_total{outcome=\"applied\"} 0",
        "portcullis_reloads_total{outcome=\"refused\"} 0",
        "portcullis_outbox_pending 0",
        "portcullis_panics_total 0",
        "portcullis_build_info{version=",
    ] {
        assert!(metrics.contains(&format!("\n{series}")), "{series} in\n{metrics}");
    }
    for name in ["portcullis_lookups_total{", "portcullis_jwks_refreshes_total"] {
        // Key sets are fetched by nobody here.
        assert!(metrics.contains(name) || name.contains("jwks"), "{name}");
    }
    let families: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(
        families.iter().all(|family| family.starts_with("portcullis_") || family.starts_with("process_"))
    );
    for family in families {
        let name = family.split(' ').next().unwrap();
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} is not explained");
    }
}

#[test]
fn requests_are_counted_by_route_method_and_class_and_never_by_what_clients_invent() {
    let scene =
        scene(|it| it.route("name = \"p\"\npath = \"/p/{*rest}\"\nupstream = \"app\"\nauth = \"public\""));
    let gateway = &scene.gateway;
    let before = gateway.metrics().lines().count();
    for number in 0..30 {
        assert_eq!(gateway.request(&format!("M{number}"), &format!("/p/{number}"), &[], b"").status, 200);
    }
    scene.origin.answer(|_| Answer::new(503, ""));
    assert_eq!(gateway.request("POST", "/p/x", &[], b"x").status, 503);
    assert_eq!(gateway.get("/p/x", None).status, 503);
    for (series, count) in [
        ("portcullis_requests_total{method=\"other\",route=\"p\",status=\"2xx\"}", 30.0),
        ("portcullis_requests_total{method=\"POST\",route=\"p\",status=\"5xx\"}", 1.0),
        ("portcullis_upstream_duration_seconds_count{route=\"p\"}", 32.0),
        ("portcullis_judgment_duration_seconds_count", 32.0),
    ] {
        counted(gateway, series, count);
    }
    assert_eq!(gateway.metrics().lines().count(), before, "no new series");
}

#[test]
fn no_token_gets_into_log_or_metrics_wherever_a_client_puts_it() {
    // `trace`: what the most curious operator could ask for.
    let scene = scene(|it| {
        it.log("level = \"trace\"")
            .route("name = \"p\"\npath = \"/p/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
    });
    let gateway = &scene.gateway;
    let (good, expired) = (scene.issuer.good("alice"), scene.issuer.expired("alice"));
    for token in [&good, &expired] {
        for (method, path, header) in [
            ("GET", format!("/x?access_token={token}"), "Accept: */*".to_owned()),
            ("GET", format!("/p/{token}/x"), "Accept: */*".to_owned()),
            ("GET", format!("/p/x?t={token}#{token}"), "Accept: */*".to_owned()),
            ("GET", format!("/none/../{token}"), format!("Referer: http://x/?t={token}")),
            ("GET", "/x".to_owned(), format!("Cookie: access_token={token}")),
            ("GET", "/x".to_owned(), format!("Authorization: {token}")),
            ("GET", "/x".to_owned(), format!("Authorization: Bearer {token} {token}")),
            ("GET", "/x".to_owned(), format!("Authorization: Basic {token}")),
            ("GET", "/p/x".to_owned(), format!("User-Agent: {token}")),
            ("GET", "/p/x".to_owned(), format!("X-Request-Id: {token}")),
            ("GET", "/p/x".to_owned(), format!("{token}: x")),
            ("GET", "/p/x".to_owned(), format!("traceparent: {token}")),
            (token.as_str(), "/p/x".to_owned(), "Accept: */*".to_owned()),
            ("POST", "/p/x".to_owned(), format!("Content-Length: {token}")),
            ("POST", "/p/x".to_owned(), format!("Transfer-Encoding: {token}")),
        ] {
            let mut raw = gateway.raw();
            raw.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: a.test\r\n{header}\r\nConnection: close\r\n\r\n"
            ));
            // Whatever it is answered: what counts is what is left behind.
            raw.finish();
            raw.rest_until_closed();
        }
        let mut host = gateway.raw();
        host.send(format!("GET /p/x HTTP/1.1\r\nHost: {token}\r\nConnection: close\r\n\r\n")).finish();
        host.rest_until_closed();
        let mut broken = gateway.raw();
        broken.send(format!("{token}\r\n\r\n")).finish();
        broken.rest_until_closed();
    }
    scene.origin.answer(|_| Answer { raw: Some(b"nonsense\r\n\r\n".to_vec()), ..Answer::ok().closing() });
    assert_eq!(gateway.get(&format!("/p/{good}?t={good}"), None).status, 502);
    gateway.revoke_token(&good);
    assert_eq!(gateway.metric("portcullis_panics_total"), Some(0.0));
    assert!(!gateway.log().contains("panic"), "{}", gateway.log());
    let Scene { gateway, .. } = scene;
    gateway.finish();
}
