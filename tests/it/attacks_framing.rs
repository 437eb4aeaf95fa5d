//! Framing, upgrades, methods: where one request ends and the next begins has one answer.

use crate::attacks_common::{Scene, scene};
use crate::support::origin::Answer;
use crate::support::raw::Raw;

impl Scene {
    /// A request head with a good token; `line` without its end, `lines` each with theirs.
    fn head(&self, line: &str, lines: &str) -> String {
        format!("{line}\r\nHost: a.test\r\n{}{lines}\r\n", self.bearer())
    }

    fn send(&self, line: &str, lines: &str, body: &str) -> Raw {
        let mut raw = self.gateway.raw();
        raw.send(self.head(line, lines) + body);
        raw
    }
}

/// What would be a second request to whoever reads the framing the other way.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[test]
fn framing_that_can_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let scene = scene();
    for (lines, body, why) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "CVE-2026-2835: CL and TE"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n", "CVE-2026-2835: TE and CL"),
        ("Content-Length: 3\r\nContent-Length: 5\r\n", "abcde", "CVE-2023-40225: differing lengths"),
        ("Content-Length: 3, 5\r\n", "abcde", "RFC 9110 8.6: a list that differs"),
        ("Content-Length:\r\n", "", "CVE-2023-40225: empty"),
        ("Content-Length: +3\r\n", "abc", "CVE-2023-40225: signed"),
        ("Content-Length: -1\r\n", "", "CVE-2023-40225: negative"),
        ("Content-Length: 0x3\r\n", "abc", "not decimal"),
        ("Content-Length: 3 3\r\n", "abc", "two numbers"),
        ("Content-Length: 18446744073709551617\r\n", "a", "overflow"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", "RFC 9112 6.1: chunked not last"),
        ("Transfer-Encoding: identity\r\n", "", "RFC 9112 6.1: no chunked at all"),
        ("Transfer-Encoding: gzip\r\n", "", "RFC 9112 6.1: no chunked at all"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", "a name that contains it"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n", "two fields"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "chunked twice"),
        ("Transfer-Encoding:\r\n", "", "empty"),
        ("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", "a vertical tab"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", "space before the colon"),
    ] {
        let mut raw = scene.send("POST /x HTTP/1.1", lines, &format!("{body}{SMUGGLED}"));
        let response = raw.response();
        assert!(matches!(response.status, 400 | 501), "{why}: {response:?}");
        raw.assert_closed();
        scene.origin.saw_nothing();
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    let scene = scene();
    let mut raw =
        scene.send("POST /x HTTP/1.0", "Transfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}"));
    assert_eq!(raw.response().status, 400, "RFC 9112 6.1");
    raw.assert_closed();
    scene.origin.saw_nothing();
}

#[test]
fn broken_chunks_never_become_a_request() {
    let scene = scene();
    for (body, why) in [
        ("zz\r\nab\r\n0\r\n\r\n", "no size"),
        ("-1\r\n\r\n0\r\n\r\n", "negative"),
        ("+2\r\nab\r\n0\r\n\r\n", "signed"),
        ("0x2\r\nab\r\n0\r\n\r\n", "prefixed"),
        ("ffffffffffffffff1\r\nab\r\n", "overflow"),
        ("2\r\nabc\r\n0\r\n\r\n", "longer than said"),
        ("2\nab\n0\n\n", "bare line feeds"),
        ("2\r\nab\n0\r\n\r\n", "a bare line feed behind a chunk"),
        ("2\r\nabXX0\r\n\r\n", "no line end behind a chunk"),
        ("2;a\rb\r\nab\r\n0\r\n\r\n", "a bare carriage return in an extension"),
        ("2\r\nab\r\n0\n\n", "a bare line feed at the end"),
    ] {
        scene.origin.forget();
        // With a good token: were it parsed, it would pass.
        let inner = scene.head("GET /smuggled HTTP/1.1", "");
        let mut raw =
            scene.send("POST /x HTTP/1.1", "Transfer-Encoding: chunked\r\n", &format!("{body}{inner}"));
        raw.finish();
        // The head may have gone on before the body broke; nothing of the body may be taken for a request.
        let said = String::from_utf8_lossy(&raw.rest_until_closed()).into_owned();
        assert!(!said.contains(" 200 "), "{why}: {said}");
        for seen in scene.origin.requests() {
            assert!(!seen.line().contains("smuggled"), "{why}: {}", seen.text());
        }
    }
}

#[test]
fn agreeing_content_lengths_have_one_meaning() {
    let scene = scene();
    let mut raw = scene.send("POST /x HTTP/1.1", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc");
    // RFC 9110 8.6: may be refused, or made one.
    match raw.response().status {
        400 => scene.origin.saw_nothing(),
        status => {
            assert_eq!(status, 200);
            assert_eq!(scene.origin.only().values("content-length"), ["3"]);
            assert_eq!(scene.origin.only().body, b"abc");
        }
    }
}

#[test]
fn a_body_arrives_whole_by_length_and_by_chunks() {
    let scene = scene();
    let mut raw = scene.send("POST /x HTTP/1.1", "Content-Length: 3\r\n", "abc");
    assert_eq!(raw.response().status, 200);
    assert_eq!(scene.origin.only().body, b"abc");
    scene.origin.forget();
    raw.send(scene.head("POST /y HTTP/1.1", "Transfer-Encoding: chunked\r\n") + "2;x=y\r\nhi\r\n0\r\n\r\n");
    assert_eq!(raw.response().status, 200);
    assert_eq!(scene.origin.only().body, b"2\r\nhi\r\n0\r\n\r\n");
}

#[test]
fn the_body_of_a_denied_request_is_never_parsed_as_a_request() {
    let scene = scene();
    // CVE-2025-4366. The inner request bears a good token: were it parsed, it would pass.
    let inner = scene.head("GET /smuggled HTTP/1.1", "");
    let framings = [
        (format!("Content-Length: {}\r\n", inner.len()), inner.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len())),
        (format!("Expect: 100-continue\r\nContent-Length: {}\r\n", inner.len()), inner.clone()),
        // More than anyone will drain: then the connection closes.
        ("Content-Length: 1000000\r\n".to_owned(), inner.clone()),
    ];
    for (lines, body) in framings {
        let mut raw = scene.gateway.raw();
        raw.send(format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{body}"));
        assert_eq!(raw.response().status, 401, "{lines}");
        raw.finish();
        let rest = raw.rest_until_closed();
        assert!(rest.is_empty(), "{lines}: {}", String::from_utf8_lossy(&rest));
        scene.origin.saw_nothing();
    }
}

#[test]
fn a_denial_without_a_body_keeps_the_connection() {
    let scene = scene();
    let mut raw = scene.gateway.raw();
    for _ in 0..3 {
        raw.send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let response = raw.response();
        assert_eq!((response.status, response.reason().as_str()), (401, "token_missing"));
    }
    raw.send(scene.head("GET /x HTTP/1.1", ""));
    assert_eq!(raw.response().status, 200);
    scene.origin.only();
}

#[test]
fn pipelined_requests_are_judged_each_for_itself() {
    let scene = scene();
    let good = scene.head("GET /good HTTP/1.1", "");
    let bad = "GET /bad HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut raw = scene.gateway.raw();
    raw.send(format!("{good}{bad}{good}"));
    assert_eq!(raw.response().status, 200);
    // A gateway may serve pipelines or close after any answer; it may not let `bad` pass.
    let more = (0..2).map_while(|_| raw.try_response().ok()).map(|it| it.status).collect::<Vec<_>>();
    assert!([401, 200].starts_with(&more), "{more:?}");
    assert!(scene.origin.requests().iter().all(|it| it.target() == "/good"));
}

#[test]
fn a_denied_expectation_gets_no_100() {
    let scene = scene();
    let mut raw = scene.gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    assert_eq!(raw.response().status, 401);
    scene.origin.saw_nothing();
}

#[test]
fn methods_that_reflect_or_tunnel_are_refused() {
    let scene = scene();
    // CVE-2026-71324
    for line in [
        "TRACE /x HTTP/1.1",
        "trace /x HTTP/1.1",
        "TRACK /x HTTP/1.1",
        "CONNECT a.test:443 HTTP/1.1",
        "CONNECT /x HTTP/1.1",
    ] {
        let response = scene.send(line, "", "").response();
        assert!(matches!(response.status, 400 | 405), "{line}: {response:?}");
        scene.origin.saw_nothing();
    }
}

/// No route names them, so the one that takes any method would; and many frameworks make capitals of them.
#[test]
fn a_method_in_small_letters_is_no_other_method() {
    let scene = scene();
    for method in ["get", "Get", "post", "PoST", "delete", "patch", "mkCOL"] {
        let response = scene.send(&format!("{method} /x HTTP/1.1"), "", "").response();
        assert_eq!((response.status, response.reason().as_str()), (400, "request_ambiguous"), "{method}");
        scene.origin.saw_nothing();
    }
    for method in ["PATCH", "MKCOL", "M-SEARCH", "X_1"] {
        assert_eq!(scene.send(&format!("{method} /x HTTP/1.1"), "", "").response().status, 200, "{method}");
    }
}

#[test]
fn an_upgrade_without_a_token_is_denied_like_anything_else() {
    let scene = scene();
    scene.origin.answer(|_| Answer::switch_to_websocket());
    // CVE-2026-58172: an upgrade is no way round authentication.
    for upgrade in ["websocket", "WebSocket", "h2c", "anything"] {
        let mut raw = scene.gateway.raw();
        raw.send(format!(
            "GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        ));
        assert_eq!(raw.response().status, 401, "{upgrade}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn only_websocket_is_upgraded() {
    let scene = scene();
    for (lines, why) in [
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            "h2c smuggling",
        ),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\n", "h2c smuggling"),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n", "RFC 2817"),
        ("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", "a choice for the service"),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", "two fields"),
    ] {
        scene.origin.forget();
        let response = scene.send("GET /x HTTP/1.1", lines, "").response();
        if response.status != 200 {
            assert_eq!(response.status, 400, "{why}: {response:?}");
            scene.origin.saw_nothing();
            continue;
        }
        let seen = scene.origin.only();
        let said = seen.values("upgrade").concat().to_lowercase();
        assert!(!said.contains("h2c") && !said.contains("tls"), "{why}: {}", seen.text());
        assert!(seen.values("http2-settings").is_empty(), "{why}: {}", seen.text());
    }
}

#[test]
fn no_byte_after_the_head_passes_before_the_service_has_switched() {
    let scene = scene();
    // CVE-2026-2833: the service refuses to switch, and what follows is a request, to be judged as one.
    scene.origin.answer(|_| Answer::ok());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut raw = scene.send("GET /ws HTTP/1.1", upgrade, SMUGGLED);
    assert_eq!(raw.response().status, 200);
    raw.finish();
    let rest = String::from_utf8_lossy(&raw.rest_until_closed()).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 401"), "{rest}");
    assert!(scene.origin.requests().iter().all(|it| it.target() == "/ws" && it.body.is_empty()));
    assert!(scene.origin.tunnelled().is_empty());
}

#[test]
fn a_websocket_with_a_good_token_is_a_tunnel() {
    let scene = scene();
    scene.origin.answer(|_| Answer::switch_to_websocket());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // Pingora by itself ends one in some hundred, whose 101 comes before it has noted that the request has no body.
    for number in 1..=200 {
        let mut raw = scene.send("GET /ws HTTP/1.1", upgrade, "");
        assert_eq!(raw.response().status, 101);
        raw.send("hello");
        assert_eq!(raw.try_bytes(5).as_deref(), Ok(&b"hello"[..]), "{number}");
    }
    assert_eq!(scene.origin.tunnelled(), b"hello".repeat(200));
}

#[test]
fn nothing_is_cached() {
    let scene = scene();
    // CVE-2026-2836: one user's answer is never another's.
    scene.origin.answer(|_| Answer::ok().header("Cache-Control", "public, max-age=600"));
    for _ in 0..3 {
        assert_eq!(scene.send("GET /x HTTP/1.1", "", "").response().status, 200);
    }
    assert_eq!(scene.origin.requests().len(), 3);
    let denied = scene.gateway.raw().send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").response();
    assert_eq!(denied.status, 401);
}

#[test]
fn nonsense_on_the_wire_costs_nobody_else_anything() {
    let scene = scene();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a.test\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /x HTTP/1.1\nHost: a.test\n\n",
    ] {
        let mut raw = scene.gateway.raw();
        raw.send(bytes).finish();
        let said = String::from_utf8_lossy(&raw.rest_until_closed()).into_owned();
        assert!(!said.starts_with("HTTP/1.1 2"), "{bytes:?}: {said}");
        scene.origin.saw_nothing();
    }
    assert_eq!(scene.send("GET /x HTTP/1.1", "", "").response().status, 200);
}
