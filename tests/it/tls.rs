//! Listening with TLS: versions, protocols, and clients that never finish.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::gateway::{BINARY, Gateway, Setup};
use crate::support::https::Client;
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};
use crate::support::raw::Raw;
use crate::support::{DEADLINE, eventually};

/// What most tests stand on: one public route, one certificate for `a.test`.
pub struct Scene {
    pub authority: Authority,
    pub shelf: Shelf,
    pub origin: Origin,
}

impl Scene {
    pub fn new() -> Self {
        let (authority, shelf) = (Authority::new(), Shelf::new());
        shelf.put("a", &authority.server(&["a.test"]));
        Self { authority, shelf, origin: Origin::start() }
    }

    pub fn setup(&self) -> Setup {
        let route = "name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"";
        Setup::new().upstream("app", &self.origin).route(route)
    }

    /// With a listener for `a.test`, and these lines of it.
    pub fn with(&self, more: &str) -> Setup {
        self.setup().section(&self.shelf.listener(&[self.shelf.entry("a", &["a.test"])], more))
    }

    pub fn client(&self) -> Client<'_> {
        Client::of(&self.authority)
    }
}

fn handshakes(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!("portcullis_tls_handshakes_total{{outcome=\"{outcome}\"}}")).unwrap()
}

#[track_caller]
pub fn counted(gateway: &Gateway, outcome: &str, count: f64) {
    eventually(outcome, || match handshakes(gateway, outcome) {
        seen if seen == count => Ok(()),
        seen => Err((seen, gateway.metrics())),
    });
}

#[test]
fn where_there_is_tls_alone_nothing_else_is_listened_on() {
    let scene = Scene::new();
    let toml = scene.with("").toml().replace("listen = [\"127.0.0.1:0\"]\n", "");
    let gateway = Gateway::start(&toml);
    assert!(!gateway.listens_plain());
    assert_eq!(scene.client().get(gateway.tls_addr(), "a.test", "/", &[]).unwrap().status, 200);
    // What speaks to the control door does not care.
    let client = toml.replace(
        "[admin]\nlisten = \"127.0.0.1:0\"",
        &format!("[admin]\nlisten = \"{}\"", gateway.admin_addr()),
    );
    std::fs::write(gateway.directory().join("client.toml"), client).unwrap();
    for command in ["health", "check"] {
        let output = Command::new(BINARY)
            .args([command, "-c", "client.toml"])
            .current_dir(gateway.directory())
            .output();
        assert!(output.as_ref().is_ok_and(|it| it.status.success()), "{command}: {output:?}");
    }
}

#[test]
fn services_hear_by_which_scheme_a_request_came() {
    let scene = Scene::new();
    let gateway = scene.with("").start();
    scene.client().get(gateway.tls_addr(), "a.test", "/", &["X-Forwarded-Proto: http"]).unwrap();
    assert_eq!(scene.origin.only().values("x-forwarded-proto"), ["https"]);
    scene.origin.forget();
    gateway.request("GET", "/", &["X-Forwarded-Proto: https"], b"");
    assert_eq!(scene.origin.only().values("x-forwarded-proto"), ["http"]);
}

#[test]
fn http2_is_offered_and_taken_where_both_want_it() {
    let scene = Scene::new();
    let spoken = |gateway: &Gateway, alpn: &[&[u8]]| {
        let connection = scene.client().alpn(alpn).connect(gateway.tls_addr(), "a.test");
        connection.map(|it| it.alpn().map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    let both = scene.with("").start();
    assert_eq!(spoken(&both, &[b"http/1.1", b"h2"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(spoken(&both, &[b"http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(spoken(&both, &[]).unwrap(), None);
    assert!(spoken(&both, &[b"spdy/3"]).is_err(), "RFC 7301 section 3.2");
    counted(&both, "incompatible", 1.0);
    let old = scene.with("http2 = false").start();
    assert_eq!(spoken(&old, &[b"h2", b"http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
}

#[test]
fn older_versions_than_the_least_are_refused() {
    let scene = Scene::new();
    let by_default = scene.with("").start();
    let old = |gateway: &Gateway| scene.client().tls12().get(gateway.tls_addr(), "a.test", "/", &[]);
    assert_eq!(old(&by_default).unwrap().status, 200);
    let strict = scene.with("min_version = \"1.3\"").start();
    assert!(old(&strict).is_err());
    counted(&strict, "incompatible", 1.0);
    assert_eq!(scene.client().get(strict.tls_addr(), "a.test", "/", &[]).unwrap().status, 200);
}

#[test]
fn plain_http_to_a_port_of_tls_is_told_so_and_reaches_nobody() {
    let scene = Scene::new();
    let gateway = scene.with("").start();
    let mut raw = Raw::connect(gateway.tls_addr());
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let response = raw.response();
    assert_eq!(response.status, 400);
    assert!(response.text().contains("https"), "{}", response.text());
    raw.assert_closed();
    let mut raw = Raw::connect(gateway.tls_addr());
    raw.send([0x80, 0x2e, 1, 0, 2]).assert_closed();
    counted(&gateway, "plaintext", 2.0);
    scene.origin.saw_nothing();
}

#[test]
fn a_handshake_that_never_ends_is_cut_and_counted() {
    let scene = Scene::new();
    let gateway = scene.with("").server("limits = { header_timeout = \"300ms\" }").start();
    let began = Instant::now();
    let silent = TcpStream::connect(gateway.tls_addr()).unwrap();
    let mut half = TcpStream::connect(gateway.tls_addr()).unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).unwrap();
    for mut stream in [silent, half] {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty(), "{said:?}");
    }
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    counted(&gateway, "timeout", 2.0);
    // After the handshake the time for the first head begins anew.
    let mut idle = scene.client().connect(gateway.tls_addr(), "a.test").unwrap().raw();
    idle.assert_closed();
    assert_eq!(gateway.metric("portcullis_slow_heads_total"), Some(1.0));
}

#[test]
fn a_connection_counts_before_its_handshake_is_done() {
    let scene = Scene::new();
    let gateway = scene.with("").server("limits = { connections = 1 }").start();
    let mut silent = Raw::connect(gateway.tls_addr());
    silent.send([0x16]);
    eventually("the place is taken", || match scene.client().connect(gateway.tls_addr(), "a.test") {
        Err(_) => Ok(()),
        Ok(_) => Err("there was still room"),
    });
    drop(silent);
    eventually("the place is free again", || {
        scene.client().get(gateway.tls_addr(), "a.test", "/", &[]).map(drop).map_err(|it| it.to_string())
    });
}

#[test]
fn a_request_on_its_way_is_answered_before_the_gateway_ends() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::new(200, "late").delayed(Duration::from_millis(500)));
    let mut gateway = scene.with("").start();
    let mut busy = scene.client().connect(gateway.tls_addr(), "a.test").unwrap().raw();
    let mut idle = scene.client().connect(gateway.tls_addr(), "a.test").unwrap().raw();
    assert_eq!(idle.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").response().status, 200);
    busy.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    eventually("it has reached the service", || match scene.origin.requests().len() {
        2 => Ok(()),
        seen => Err(seen),
    });
    gateway.signal("TERM");
    let response = busy.response();
    assert_eq!((response.status, response.text()), (200, "late".to_owned()));
    assert!(gateway.wait_exit().success());
}

#[test]
fn websockets_go_through_tls_and_may_be_silent() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::switch_to_websocket());
    let gateway = scene.with("").server("limits = { header_timeout = \"1s\" }").start();
    let mut socket = scene.client().alpn(&[b"http/1.1"]).connect(gateway.tls_addr(), "a.test").unwrap().raw();
    socket.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(socket.response().status, 101);
    assert_eq!(socket.send("hello").bytes(5), b"hello");
    let silent_since = Instant::now();
    while silent_since.elapsed() < Duration::from_millis(1500) {
        assert!(!socket.is_closed());
    }
    assert_eq!(socket.send("again").bytes(5), b"again", "longer silent than a head may take");
}

/// Without close_notify anybody on the way could have cut the rest off (RFC 8446 section 6.1).
#[test]
fn the_end_of_an_answer_without_a_length_is_said_by_tls_too() {
    let scene = Scene::new();
    let gateway = scene.with("").start();
    let ask = |raw: &'static [u8]| {
        scene.origin.answer(|_| Answer { raw: Some(raw.to_vec()), ..Answer::ok() }.closing());
        let mut connection = scene.client().connect(gateway.tls_addr(), "a.test").unwrap();
        connection.write_all(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let end = connection.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("chunked"), "RFC 9112 section 6.1: {answer}");
        (answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned(), end.is_ok())
    };
    for whole in [
        &b"HTTP/1.1 200 OK\r\n\r\nall of it"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of it\r\n0\r\n\r\n",
    ] {
        assert_eq!(ask(whole), ("all of it".to_owned(), true));
    }
    let part = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of it\r\n";
    assert!(!ask(part).1, "the service never said that this was all");
}
