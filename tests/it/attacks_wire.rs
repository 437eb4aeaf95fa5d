//! HTTP/1.1, byte for byte, in the open and by TLS: what an origin gets is what was judged, framed by the gateway.

use crate::http2::Scene;
use crate::support::gateway::Gateway;
use crate::support::https::Client;
use crate::support::raw::Raw;

/// The same bytes in the open and by TLS, each on a connection of its own, one after the other.
fn send(scene: &Scene, gateway: &Gateway, bytes: &[u8], then: impl Fn(&mut Raw)) {
    let tls = Client::of(&scene.authority).connect(gateway.tls_addr(), "a.test").unwrap().raw();
    for mut raw in [gateway.raw(), tls] {
        then(raw.send(bytes));
    }
}

/// Host and credential.
fn lines(scene: &Scene) -> String {
    format!("Host: a.test\r\nAuthorization: {}\r\n", scene.bearer("alice"))
}

#[test]
fn what_one_server_could_read_otherwise_than_another_is_refused() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let good = lines(&scene);
    // With a good token: were it parsed, it would pass.
    let smuggled = format!("GET /smuggled HTTP/1.1\r\n{good}\r\n");
    for (line, more, body, why) in [
        (
            "POST /x HTTP/1.1",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            "RFC 9112 6.1",
        ),
        (
            "POST /x HTTP/1.1",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\n",
            "RFC 9112 6.1",
        ),
        ("POST /x HTTP/1.1", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", "RFC 9112 5.2: folded"),
        ("POST /x HTTP/1.1", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", "RFC 9112 6.1"),
        ("POST /x HTTP/1.1", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n", "RFC 9112 6.1"),
        ("POST /x HTTP/1.1", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", "RFC 9112 6.1"),
        ("POST /x HTTP/1.1", "Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n", "RFC 9110 5.5"),
        (
            "POST /x HTTP/1.1",
            "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\n",
            "to WSGI the same name",
        ),
        (
            "POST /x HTTP/1.1",
            "Content_Length: 0\r\nContent-Length: 5\r\n",
            "0\r\n\r\n",
            "to CGI the same name",
        ),
        ("POST /x HTTP/1.1", "Content-Length: 05\r\n", "0\r\n\r\n", "octal to some"),
        ("POST /x HTTP/1.1", "Content-Length: 5, 5\r\n", "0\r\n\r\n", "RFC 9110 8.6: a list"),
        ("GET /x HTTP/1.1", "X-A: b\nX-B: c\r\n", "", "RFC 9112 2.2: a bare line feed"),
        ("GET /x HTTP/1.1", "X-A: b\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "RFC 9112 2.2"),
        ("GET /x HTTP/1.1", "X-A: b\n", "", "RFC 9112 2.2"),
        ("GET /x HTTP/1.1", "\n", "", "RFC 9112 2.2: an empty line"),
        ("GET /x HTTP/1.1\nX-A: b", "", "", "RFC 9112 2.2: behind the request line"),
        ("\nGET /x HTTP/1.1", "", "", "RFC 9112 2.2: before it"),
        ("GET /x HTTP/1.2", "", "", "RFC 9110 2.5"),
        ("GET /x HTTP/2.0", "", "", "RFC 9113 3.4"),
        ("GET /x http/1.1", "", "", "RFC 9112 2.3"),
        ("GET /x HTTP/1.1 ", "", "", "RFC 9112 3"),
        ("GET /x HTTP/1.1 HTTP/1.1", "", "", "RFC 9112 3"),
        ("GET  /x HTTP/1.1", "", "", "RFC 9112 3"),
        ("GET\t/x\tHTTP/1.1", "", "", "RFC 9112 3"),
        (" GET /x HTTP/1.1", "", "", "RFC 9112 3"),
        ("GET /x", "", "", "HTTP/0.9"),
        ("OPTIONS * HTTP/1.1", "", "", "RFC 9112 3.2.4: about the server, and not a route's"),
    ] {
        let bytes = format!("{line}\r\n{good}{more}\r\n{body}{smuggled}");
        send(&scene, &gateway, bytes.as_bytes(), |raw| {
            let response = raw.response();
            assert_eq!(response.status, 400, "{line}, {more:?} ({why}): {response:?}");
            raw.assert_closed();
            scene.origin.saw_nothing();
        });
    }
}

#[test]
fn connection_cannot_take_the_frame_of_a_body_away() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let good = lines(&scene);
    let inner = format!("GET /smuggled HTTP/1.1\r\n{good}\r\n");
    let length = inner.len();
    for (framing, body) in [
        (format!("Content-Length: {length}\r\nConnection: content-length\r\n"), inner.clone()),
        (
            "Transfer-Encoding: chunked\r\nConnection: transfer-encoding, content-length\r\n".to_owned(),
            format!("{length:x}\r\n{inner}\r\n0\r\n\r\n"),
        ),
        (
            format!(
                "Content-Length: {length}\r\nConnection: expect, content-length\r\nExpect: 100-continue\r\n"
            ),
            inner.clone(),
        ),
    ] {
        let bytes = format!("POST /x HTTP/1.1\r\n{good}{framing}\r\n{body}");
        send(&scene, &gateway, bytes.as_bytes(), |raw| {
            // CVE-2024-45410 and its like, about the fields by which a request ends.
            assert_eq!(raw.response().status, 200, "{framing}");
            let seen = scene.origin.only();
            assert_eq!(seen.body, format!("{length:X}\r\n{inner}\r\n0\r\n\r\n").as_bytes(), "{framing}");
            assert_eq!(seen.values("transfer-encoding"), ["chunked"]);
            assert!(seen.values("content-length").is_empty());
            scene.origin.forget();
        });
    }
}

/// Whatever a client puts between the pieces of a body, RFC 9112 sections 7.1.1 and 7.1.2.
#[test]
fn chunks_are_made_anew() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let head = format!("POST /x HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\n", lines(&scene));
    for chunks in [
        "5;a=b;c=\"d\"\r\nabcde\r\n0;last\r\n\r\n",
        "0005\r\nabcde\r\n000\r\n\r\n",
        "5\r\nabcde\r\n0\r\nX-User-Id: mallory\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n",
        "5\r\nabcde\r\n0\r\nno colon at all\r\n\r\n",
    ] {
        send(&scene, &gateway, (head.clone() + chunks).as_bytes(), |raw| {
            assert_eq!(raw.response().status, 200, "{chunks:?}");
            let seen = scene.origin.only();
            assert_eq!(seen.body, b"5\r\nabcde\r\n0\r\n\r\n", "{chunks:?}");
            assert!(seen.values("trailer").is_empty() && !seen.text().contains("mallory"), "{}", seen.text());
            scene.origin.forget();
        });
    }
}

/// RFC 6455 section 4.2.1: anything less is an ordinary request.
#[test]
fn half_a_handshake_is_no_upgrade() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let good = lines(&scene);
    for (line, more, body) in [
        ("GET /x HTTP/1.1", "Upgrade: websocket\r\n", ""),
        ("POST /x HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("GET /x HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
        ("GET /x HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "hello"),
        ("GET /x HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n", ""),
        ("GET /x HTTP/1.1", "Connection: x-upgrade\r\nUpgrade: websocket\r\n", ""),
    ] {
        let bytes = format!("{line}\r\n{good}{more}\r\n{body}");
        send(&scene, &gateway, bytes.as_bytes(), |raw| {
            assert_eq!(raw.response().status, 200, "{line}, {more:?}");
            let seen = scene.origin.only();
            assert!(
                seen.values("upgrade").is_empty() && seen.values("connection").is_empty(),
                "{}",
                seen.text()
            );
            scene.origin.forget();
        });
    }
}

/// Hints for other proxies are a service's to read, and nobody acts on them here.
#[test]
fn a_hop_count_and_a_hint_about_replays_change_nothing() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let more = "Max-Forwards: 0\r\nEarly-Data: 1\r\nVia: 1.1 elsewhere\r\n";
    for (good, status) in [(lines(&scene), 200), ("Host: a.test\r\n".to_owned(), 401)] {
        let bytes = format!("OPTIONS /x HTTP/1.1\r\n{good}{more}\r\n");
        send(&scene, &gateway, bytes.as_bytes(), |raw| {
            assert_eq!(raw.response().status, status);
        });
    }
    let seen = scene.origin.requests();
    assert!(seen.len() == 2 && seen.iter().all(|it| it.values("early-data") == ["1"]), "{seen:?}");
}
