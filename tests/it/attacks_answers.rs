//! Services that are hostile, or broken: what a client gets has one meaning, and belongs to its own request.

use crate::attacks_common::{Scene, scene};
use crate::support::origin::Answer;
use crate::support::raw::Raw;

impl Scene {
    /// To `/raw` the service says these very bytes, and to everything else `ok`.
    fn says(&self, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.origin.answer(move |seen| match seen.target().as_str() {
            "/raw" => Answer { raw: Some(bytes.clone()), ..Answer::ok() },
            _ => Answer::ok(),
        });
    }

    fn asked(&self, raw: &mut Raw, method: &str, path: &str) {
        raw.send(format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{}\r\n", self.bearer()));
    }

    /// The service's connections, kept ones too, hold nothing that the next request could take for its answer.
    fn goes_on(&self, why: &str) {
        for _ in 0..3 {
            let response = self.gateway.get("/next", Some(&self.token));
            assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{why}");
        }
    }
}

#[test]
fn an_answer_that_could_be_read_in_two_ways_is_given_to_nobody() {
    let scene = scene();
    for (head, why) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n", "RFC 9112 6.3: differing lengths"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n", "nginx refuses it as well"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n", "RFC 9110 8.6: a list"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n", "signed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n", "negative"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n", "overflow"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n", "RFC 9112 6.1: a coding nobody knows"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", "RFC 9112 6.1"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n", "RFC 9112 6.1"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "twice"),
        (
            "HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: session=mallory\r\n",
            "RFC 9112 2.2: a bare carriage return",
        ),
        ("HTTP/1.1 200 OK\r\nX-A: b\0c\r\n", "RFC 9110 5.5: NUL"),
        ("HTTP/0.9 200 OK\r\n", "another protocol"),
        ("ICY 200 OK\r\n", "another protocol"),
        ("HTTP/1.1 099 OK\r\n", "RFC 9110 15: no such status"),
    ] {
        scene.says(format!("{head}\r\nok").as_bytes());
        let mut raw = scene.gateway.raw();
        scene.asked(&mut raw, "GET", "/raw");
        let response = raw.response();
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_unavailable"), "{why}");
        raw.assert_closed();
        scene.goes_on(why);
    }
}

#[test]
fn what_a_service_says_beyond_its_answer_is_nobodys_answer() {
    let scene = scene();
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (answer, method, status) in [
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}"), "GET", 200),
        (
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"),
            "GET",
            200,
        ),
        // One length is what a body would have; there is none (RFC 9110 section 9.3.2).
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{evil}"), "HEAD", 200),
        (format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"), "GET", 204),
        (format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n{evil}"), "GET", 304),
        // Chunks outweigh the length (RFC 9112 section 6.3).
        (
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}"
            ),
            "GET",
            200,
        ),
    ] {
        scene.says(answer.as_bytes());
        let mut raw = scene.gateway.raw();
        scene.asked(&mut raw, method, "/raw");
        let response = if method == "HEAD" { raw.response_to_head() } else { raw.response() };
        assert_eq!(response.status, status, "{answer:?}");
        let both =
            response.header("content-length").is_some() && response.header("transfer-encoding").is_some();
        assert!(!both && !response.text().contains("evil"), "{answer:?}: {response:?}");
        scene.goes_on(&answer);
    }
}

#[test]
fn an_answer_that_has_no_body_has_no_length_either() {
    let scene = scene();
    // Whoever believed the length would wait for it, or take the next answer for a part of this one.
    scene.says(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
          HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    );
    let mut raw = scene.gateway.raw();
    scene.asked(&mut raw, "GET", "/raw");
    for status in [103, 204] {
        let response = raw.response();
        assert_eq!(response.status, status, "{response:?}");
        for name in ["content-length", "transfer-encoding"] {
            assert_eq!(response.header(name), None, "RFC 9110 8.6: {response:?}");
        }
    }
    scene.asked(&mut raw, "GET", "/next");
    assert_eq!(raw.response().text(), "ok");
}

/// RFC 9110 section 2.5. By a 1.0 that is the service's a client would take the sizes of chunks for content.
#[test]
fn an_answer_has_the_version_of_the_connection_it_is_given_on() {
    let scene = scene();
    for says in [
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        scene.says(says.as_bytes());
        let mut raw = scene.gateway.raw();
        scene.asked(&mut raw, "GET", "/raw");
        let version = raw.bytes(8);
        assert!(version.starts_with(b"HTTP/1.1 "), "{says}: {}", String::from_utf8_lossy(&version));
    }
}

#[test]
fn a_head_that_never_ends_is_not_collected() {
    let scene = scene();
    scene.says(&[b"HTTP/1.1 200 OK\r\nX-A: ".to_vec(), vec![b'a'; 4 << 20]].concat());
    let mut raw = scene.gateway.raw();
    scene.asked(&mut raw, "GET", "/raw");
    assert_eq!(raw.response().status, 502);
    scene.goes_on("bounded");
}

/// A service cannot choose what the gateway says to a client about their connection.
#[test]
fn fields_of_the_connection_are_the_gateways() {
    let scene = scene();
    scene.says(
        b"HTTP/1.1 200 OK\r\nConnection: close, x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=900\r\n\
          Proxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok",
    );
    let mut raw = scene.gateway.raw();
    scene.asked(&mut raw, "GET", "/raw");
    let response = raw.response();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    scene.asked(&mut raw, "GET", "/next");
    assert_eq!(raw.response().text(), "ok", "the client's connection is not the service's to close");
}
