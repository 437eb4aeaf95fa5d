//! One request after another on the wire: bodies, limits, connections kept and ended, services that fail.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::{eventually, free_port};

struct Scene {
    gateway: Gateway,
    origin: Origin,
    token: String,
}

fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let gateway = change(Gateway::guarding(&issuer, &origin)).start();
    Scene { gateway, origin, token: issuer.good("alice") }
}

impl Scene {
    fn head(&self, line: &str, lines: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\n{lines}\r\n", self.token)
    }
}

/// Text in which no part looks like another.
fn long(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn large_bodies_pass_byte_for_byte_both_ways() {
    let scene = scene(|it| it);
    let (up, down) = (long(3_000_000), long(5_000_000));
    let answer = down.clone();
    scene.origin.answer(move |seen| match seen.target().as_str() {
        "/chunked" => Answer::new(200, &answer).chunked(),
        _ => Answer::new(200, &answer),
    });
    let mut raw = scene.gateway.raw();
    for path in ["/plain", "/chunked"] {
        let head = scene.head(&format!("POST {path}"), &format!("Content-Length: {}\r\n", up.len()));
        raw.send(head).send(&up);
        let response = raw.response();
        assert_eq!(response.status, 200);
        assert!(response.body == down, "{path}: {} bytes", response.body.len());
        assert!(scene.origin.only().body == up, "{path}");
        scene.origin.forget();
    }
    raw.send(scene.head("POST /plain", "Transfer-Encoding: chunked\r\n"));
    for chunk in up.chunks(65_537) {
        raw.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
    }
    raw.send("0\r\n\r\n");
    assert!(raw.response().body == down);
    let seen = scene.origin.only();
    let body = unchunked(&seen.body);
    assert!(body == up, "{} bytes", body.len());
}

fn unchunked(mut wire: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = crate::support::raw::find(wire, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&wire[..end]).unwrap(), 16).unwrap();
        body.extend(&wire[end + 2..end + 2 + size]);
        wire = wire.get(end + 4 + size..).unwrap_or_default();
    }
    body
}

#[test]
fn after_a_denial_the_connection_goes_on_where_that_is_safe() {
    let scene = scene(|it| it);
    let denied = |lines: &str| format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    let mut raw = scene.gateway.raw();
    raw.send(denied("Content-Length: 5\r\n") + "hello");
    assert_eq!(raw.response().reason(), "token_missing");
    raw.send(denied("Content-Length: 40000\r\n")).send(vec![b'x'; 40_000]);
    assert_eq!(raw.response().reason(), "token_missing");
    raw.send("HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let head = raw.response_to_head();
    assert_eq!((head.status, head.header("www-authenticate")), (401, Some("Bearer")));
    assert!(head.header("content-length").is_some_and(|it| it != "0"), "as long as GET's would be");
    raw.send(scene.head("GET /x", ""));
    assert_eq!(raw.response().status, 200);
    assert_eq!(scene.origin.only().line(), "GET /x HTTP/1.1");

    for lines in ["Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut raw = scene.gateway.raw();
        raw.send(denied(lines));
        assert_eq!(raw.response().reason(), "token_missing", "{lines}");
        raw.assert_closed();
    }
    let mut raw = scene.gateway.raw();
    raw.send(denied("Expect: 100-continue\r\nContent-Length: 5\r\n"));
    assert_eq!(raw.response().status, 401, "and no 100 before it");
    assert_eq!(scene.origin.requests().len(), 1);
}

#[test]
fn an_expectation_that_is_allowed_is_the_services_to_meet() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream =
        format!("[[upstreams]]\nname = \"s\"\nservers = [\"{}\"]\n", service.local_addr().unwrap());
    let gateway =
        Setup::new().section(&upstream).route("path = \"/x\"\nupstream = \"s\"\nauth = \"public\"").start();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = service.accept().unwrap();
        let mut seen = Vec::new();
        let mut until = |stream: &mut TcpStream, end: &[u8]| {
            while !seen.ends_with(end) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                seen.extend(byte);
            }
        };
        until(&mut stream, b"\r\n\r\n");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        until(&mut stream, b"hello");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        seen
    });
    let mut raw = gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(raw.response().status, 100);
    raw.send("hello");
    assert_eq!(raw.response().text(), "ok");
    let seen = String::from_utf8(served.join().unwrap()).unwrap().to_lowercase();
    assert!(seen.contains("expect: 100-continue") && seen.ends_with("hello"), "{seen}");
}

#[test]
fn a_body_beyond_the_limit_is_refused_by_its_length_and_while_it_streams() {
    let scene = scene(|it| it.server("limits = { body_bytes = \"100KiB\" }"));
    let just = vec![b'x'; 102_400];
    let mut raw = scene.gateway.raw();
    raw.send(scene.head("POST /x", "Content-Length: 102400\r\n")).send(&just);
    assert_eq!(raw.response().status, 200);
    scene.origin.forget();

    raw.send(scene.head("POST /x", "Content-Length: 102401\r\n"));
    let refused = raw.response();
    assert_eq!((refused.status, refused.reason().as_str()), (413, "body_too_large"));
    scene.origin.saw_nothing();
    for length in ["18446744073709551615", "99999999999999999999999"] {
        let mut raw = scene.gateway.raw();
        raw.send(scene.head("POST /x", &format!("Content-Length: {length}\r\n")));
        let status = raw.response().status;
        assert!(matches!(status, 400 | 413), "{length}: {status}");
        scene.origin.saw_nothing();
    }

    let mut raw = scene.gateway.raw();
    raw.send(scene.head("POST /x", "Transfer-Encoding: chunked\r\n"));
    for _ in 0..3 {
        raw.send("c800\r\n").send(vec![b'x'; 51_200]).send("\r\n");
    }
    let refused = raw.response();
    assert_eq!((refused.status, refused.reason().as_str()), (413, "body_too_large"));
    raw.assert_closed();
    // The service never saw the end, so it has no whole request.
    assert!(scene.origin.requests().iter().all(|it| !it.body.ends_with(b"0\r\n\r\n")));
}

#[test]
fn too_many_or_too_long_header_fields_are_refused() {
    let scene = scene(|it| it.server("limits = { header_bytes = \"8KiB\", headers = 20 }"));
    let many: String = (0..30).map(|number| format!("X-{number}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(9000));
    let endless: String = (0..500).map(|number| format!("X-{number}: 1\r\n")).collect();
    let huge = format!("X-Huge: {}\r\n", "x".repeat(2_000_000));
    for (lines, why) in [(many, "many"), (long, "long"), (endless, "endless"), (huge, "huge")] {
        let mut raw = scene.gateway.raw();
        raw.send(scene.head("GET /x", &lines));
        if let Ok(response) = raw.try_response() {
            assert!(matches!(response.status, 400 | 431), "{why}: {response:?}");
            if matches!(why, "many" | "long") {
                assert_eq!(
                    (response.status, response.reason().as_str()),
                    (431, "headers_too_large"),
                    "{why}"
                );
            }
        }
        scene.origin.saw_nothing();
    }
    let path = format!("GET /{}", "p".repeat(9000));
    assert_eq!(scene.gateway.raw().send(scene.head(&path, "")).response().status, 431);
    assert_eq!(scene.gateway.raw().send(scene.head("GET /x", "")).response().status, 200);
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let scene = scene(|it| it.server("limits = { header_timeout = \"1s\", idle_timeout = \"1s\" }"));
    let mut silent = scene.gateway.raw();
    let mut slow = scene.gateway.raw();
    slow.send("GET /x HTTP/1.1\r\nHost: a.test\r\n");
    let mut idle = scene.gateway.raw();
    idle.send(scene.head("GET /x", ""));
    assert_eq!(idle.response().status, 200);
    // A trickle is no progress.
    for _ in 0..40 {
        if slow.is_closed() {
            break;
        }
        slow.send("X-Drip: 1\r\n");
    }
    assert!(slow.is_closed(), "a byte now and then holds the connection for ever");
    silent.rest_until_closed();
    idle.rest_until_closed();
    let closed = scene.gateway.metric("portcullis_slow_heads_total");
    assert!(closed.is_some_and(|count| count >= 1.0), "{closed:?}");
    scene.origin.only();
}

#[test]
fn a_service_that_is_down_or_slow_is_told_apart() {
    let origin = Origin::start();
    let slow = |toml: &str| format!("{}{toml}\n", origin.config_toml("slow"));
    let nobody = format!("[[upstreams]]\nname = \"down\"\nservers = [\"127.0.0.1:{}\"]\n", free_port());
    let gateway = Setup::new()
        .section(&slow("timeouts = { read = \"200ms\" }"))
        .section(&nobody)
        .route("path = \"/slow\"\nupstream = \"slow\"\nauth = \"public\"")
        .route("path = \"/down\"\nupstream = \"down\"\nauth = \"public\"")
        .start();
    origin.answer(|_| Answer::ok().delayed(Duration::from_secs(1)));
    for (path, status, reason) in [("/down", 502, "upstream_unavailable"), ("/slow", 504, "upstream_timeout")]
    {
        let response = gateway.get(path, None);
        assert_eq!((response.status, response.reason().as_str()), (status, reason));
        let id = response.json()["request_id"].as_str().unwrap().to_owned();
        let line = eventually("the access line", || {
            gateway
                .log_lines()
                .into_iter()
                .find(|line| line["request_id"] == id.as_str() && line["target"] == "access")
                .ok_or(())
        });
        assert_eq!((line["status"].as_u64(), line["verdict"].as_str()), (Some(status.into()), Some("allow")));
    }
    origin.answer(|_| Answer { raw: Some(b"nonsense\r\n\r\n".to_vec()), ..Answer::ok().closing() });
    assert_eq!(gateway.get("/slow", None).status, 502);
}

#[test]
fn another_server_is_asked_where_one_does_not_answer() {
    let (origin, dead) = (Origin::start(), free_port());
    let upstream = |retries: usize| {
        let servers = format!("\"127.0.0.1:{dead}\", \"{}\"", origin.addr());
        format!("[[upstreams]]\nname = \"app\"\nservers = [{servers}]\nretries = {retries}\n")
    };
    let route = "path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"";
    let patient = Setup::new().section(&upstream(1)).route(route).start();
    for number in 0..6 {
        let response = patient.request("POST", "/x", &[], b"body");
        assert_eq!(response.status, 200, "{number}");
    }
    assert_eq!(origin.requests().len(), 6);
    assert!(origin.requests().iter().all(|it| it.body == b"body"));
    let hasty = Setup::new().section(&upstream(0)).route(route).start();
    let statuses: Vec<u16> = (0..4).map(|_| hasty.get("/x", None).status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&502), "{statuses:?}");
}

#[test]
fn connections_to_the_service_are_kept_and_one_that_was_closed_is_no_failure() {
    let scene = scene(|it| it);
    let mut raw = scene.gateway.raw();
    for _ in 0..5 {
        raw.send(scene.head("GET /x", ""));
        assert_eq!(raw.response().status, 200);
    }
    assert_eq!(scene.origin.connections(), 1);
    scene.origin.answer(|_| Answer::ok().closing());
    for _ in 0..5 {
        raw.send(scene.head("GET /x", ""));
        assert_eq!(raw.response().status, 200);
    }
}

#[test]
fn a_client_that_goes_away_before_the_answer_is_a_client_error_in_log_and_metrics() {
    let scene = scene(|it| it);
    scene.origin.answer(|_| Answer::ok().delayed(Duration::from_millis(500)));
    let mut raw = scene.gateway.raw();
    raw.send(scene.head("GET /gone", ""));
    eventually("the request has reached the service", || match scene.origin.requests().len() {
        1 => Ok(()),
        count => Err(count),
    });
    drop(raw);
    let line = eventually("the access line", || {
        scene.gateway.log_lines().into_iter().find(|line| line["path"] == "/gone").ok_or(())
    });
    assert_eq!((line["status"].as_u64(), line["verdict"].as_str()), (Some(499), Some("allow")), "{line}");
    let series = "portcullis_requests_total{method=\"GET\",route=\"all\",status=\"4xx\"}";
    eventually("it is counted", || match scene.gateway.metric(series) {
        Some(1.0) => Ok(()),
        other => Err(other),
    });
}

#[test]
fn clients_of_http10_get_no_chunks() {
    let scene = scene(|it| it);
    scene.origin.answer(|_| Answer::new(200, "all of it").chunked());
    let mut raw = scene.gateway.raw();
    raw.send(scene.head("GET /x", "").replace("HTTP/1.1", "HTTP/1.0"));
    let response = raw.response();
    assert_eq!((response.header("transfer-encoding"), response.text()), (None, "all of it".to_owned()));
    assert_eq!(response.header("connection"), Some("close"));
}
