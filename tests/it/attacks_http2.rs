//! HTTP/2, frame by frame: what cannot be said in HTTP/1.1 without a second meaning is not said there.

use crate::http2::Scene;
use crate::support::gateway::Gateway;
use crate::support::http2::{self, DATA, END_HEADERS, END_STREAM, HEADERS};
use crate::support::https::Client;
use crate::support::raw::Raw;

/// A POST, to which fields are added.
fn post<'a>(bearer: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let head = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x")];
    [&head[..], &[("authorization", bearer)], more].concat()
}

fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    http2::raw_frame(HEADERS, END_HEADERS, &http2::block(fields))
}

fn last(body: &[u8]) -> Vec<u8> {
    http2::raw_frame(DATA, END_STREAM, body)
}

fn send(scene: &Scene, gateway: &Gateway, frames: &[Vec<u8>]) -> Raw {
    let client = Client::of(&scene.authority).alpn(&[b"h2"]);
    let mut raw = client.connect(gateway.tls_addr(), "a.test").unwrap().raw();
    raw.send(http2::raw_exchange(frames));
    raw
}

/// How the request ended: whether it was answered with 200.
fn passes(mut raw: Raw) -> bool {
    loop {
        let Ok(frame) = raw.frame() else { return false };
        match frame.kind {
            HEADERS => return frame.payload.first() == Some(&http2::STATUS_200),
            http2::RST_STREAM | http2::GOAWAY => return false,
            _ => {}
        }
    }
}

#[test]
fn a_body_that_is_not_as_long_as_it_said_is_no_request() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: a.test\r\nAuthorization: {bearer}\r\n\r\n");
    let first = http2::raw_frame(DATA, 0, b"abcde");
    for (length, body, why) in [
        ("5", vec![last(b"abc")], "RFC 9113 8.1.1: shorter"),
        ("0", vec![last(smuggled.as_bytes())], "RFC 9113 8.1.1: a length of nothing"),
        ("5", vec![last([b"abcde", smuggled.as_bytes()].concat().as_slice())], "RFC 9113 8.1.1: longer"),
        ("5", vec![first, last(smuggled.as_bytes())], "RFC 9113 8.1.1: longer, in two pieces"),
        ("+5", vec![last(b"abcde")], "RFC 9110 8.6: signed"),
        ("05", vec![last(b"abcde")], "octal to some"),
        ("5, 5", vec![last(b"abcde")], "RFC 9110 8.6: a list"),
        ("", vec![last(b"abcde")], "empty"),
    ] {
        scene.origin.forget();
        let frames = [vec![head(&post(&bearer, &[("content-length", length)]))], body].concat();
        assert!(!passes(send(&scene, &gateway, &frames)), "{why}");
        for seen in scene.origin.requests() {
            assert!(seen.target() == "/x" && seen.body.len() <= 5, "{why}: {seen:?}");
        }
    }
}

#[test]
fn a_body_without_a_length_is_framed_for_the_service() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    // In the words of the other framing; a GET may have a body as well.
    let inner = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\nAuthorization: {bearer}\r\n\r\n");
    for method in ["GET", "POST"] {
        scene.origin.forget();
        let mut fields = post(&bearer, &[]);
        fields[0].1 = method;
        assert!(passes(send(&scene, &gateway, &[head(&fields), last(inner.as_bytes())])), "{method}");
        let body = format!("{:X}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        assert_eq!(scene.origin.only().body, body.as_bytes(), "{method}");
    }
}

/// A chunk without bytes ends a body: what is written behind it would be the next request's beginning.
#[test]
fn an_empty_frame_leaves_nothing_behind_on_the_connection_to_the_service() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    let token = bearer.trim_start_matches("Bearer ");
    let piece = |body: &[u8]| http2::raw_frame(DATA, 0, body);
    for (pieces, body) in [
        (vec![last(b"")], "0\r\n\r\n"),
        (vec![piece(b"abc"), last(b"")], "3\r\nabc\r\n0\r\n\r\n"),
        (vec![piece(b""), piece(b""), piece(b"abc"), piece(b""), last(b"")], "3\r\nabc\r\n0\r\n\r\n"),
    ] {
        scene.origin.forget();
        let frames = [vec![head(&post(&bearer, &[]))], pieces].concat();
        assert!(passes(send(&scene, &gateway, &frames)), "{body:?}");
        for _ in 0..3 {
            assert_eq!(gateway.get("/next", Some(token)).status, 200, "{body:?}");
        }
        let seen = scene.origin.requests();
        let lines: Vec<_> = seen.iter().map(|it| it.line()).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[1..].iter().all(|line| line == "GET /next HTTP/1.1"), "{lines:?}");
        assert_eq!(String::from_utf8_lossy(&seen[0].body), body);
    }
}

#[test]
fn fields_that_would_have_a_second_meaning_are_refused() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    for (field, why) in [
        (("transfer_encoding", "chunked"), "to WSGI the name of the framing"),
        (("content_length", "5"), "to CGI the name of the framing"),
        (("host", "A.test"), "RFC 9113 8.3.1: another spelling than :authority"),
        (("host", "a.test:80"), "RFC 9113 8.3.1"),
        (("authorization", "Basic YTpi"), "a second credential"),
    ] {
        assert!(!passes(send(&scene, &gateway, &[head(&post(&bearer, &[field])), last(b"")])), "{why}");
        scene.origin.saw_nothing();
    }
    for (index, value, why) in [
        (0, "GET /y HTTP/1.1\r\nX-A:", "a request line in the method"),
        (1, "ftp", "a scheme that is not HTTP's"),
        (1, "javascript", "a scheme that is not HTTP's"),
        (2, "a.test\r\nX-A: b", "a line in the authority"),
        (3, "/y HTTP/1.1\r\nX-A: b", "a line in the path"),
        (3, "/public/..%3B/x", "dots behind an encoded parameter"),
    ] {
        let mut fields = post(&bearer, &[]);
        fields[index].1 = value;
        assert!(!passes(send(&scene, &gateway, &[head(&fields), last(b"")])), "{why}");
        scene.origin.saw_nothing();
    }
    // Without :authority it is Host that names the host, and there is one.
    let without: Vec<_> = post(&bearer, &[]).into_iter().filter(|(name, _)| *name != ":authority").collect();
    for (hosts, passed) in [(&["a.test"][..], true), (&[], false), (&["a.test", "b.test"], false)] {
        let fields: Vec<_> =
            without.iter().copied().chain(hosts.iter().map(|host| ("host", *host))).collect();
        assert_eq!(passes(send(&scene, &gateway, &[head(&fields), last(b"")])), passed, "{hosts:?}");
        let seen = scene.origin.requests();
        assert_eq!(seen.len(), usize::from(passed), "{hosts:?}: {seen:?}");
        scene.origin.forget();
    }
}

#[test]
fn nothing_in_the_trailers_of_a_request_reaches_anybody() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    let body = http2::raw_frame(DATA, 0, b"abc");
    for trailers in [
        &[("x-user-id", "mallory"), ("x_user_id", "mallory")][..],
        &[(":path", "/mallory"), (":authority", "mallory.test")],
        &[("content-length", "9"), ("x-mallory", "mallory")],
        &[("transfer-encoding", "mallory")],
        &[("X-Mallory", "mallory")],
        &[("x-a", "b\r\nx-user-id: mallory")],
    ] {
        scene.origin.forget();
        let trailers = http2::raw_frame(HEADERS, END_HEADERS | END_STREAM, &http2::block(trailers));
        let frames = [head(&post(&bearer, &[])), body.clone(), trailers];
        passes(send(&scene, &gateway, &frames));
        for seen in scene.origin.requests() {
            let all = seen.text().to_lowercase() + &String::from_utf8_lossy(&seen.body);
            assert!(!all.contains("mallory") && seen.target() == "/x", "{all}");
        }
    }
}

#[test]
fn a_denied_expectation_gets_no_100_over_http2_either() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut fields = post("Bearer x", &[("expect", "100-continue"), ("content-length", "5")]);
    fields.remove(4);
    let mut raw = send(&scene, &gateway, &[head(&fields)]);
    let answer = loop {
        let frame = raw.frame().unwrap();
        if frame.kind == HEADERS {
            break frame.payload;
        }
    };
    // `:status 401`, the number in Huffman's code (RFC 7541 appendix B).
    assert_eq!(answer.get(..4), Some(&[0x48, 0x82, 0x68, 0x01][..]));
    scene.origin.saw_nothing();
}
