//! Listening with TLS: certificates, versions, and clients that never finish.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::gateway::{BINARY, Gateway, Setup};
use crate::support::https::Client;
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};
use crate::support::raw::Raw;

pub const APPLIED: &str = "portcullis_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "portcullis_reloads_total{outcome=\"refused\"}";

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
fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let scene = Scene::new();
    let (wild, deep) = (scene.authority.server(&["*.b.test"]), scene.authority.server(&["x.b.test"]));
    scene.shelf.put("wild", &wild);
    scene.shelf.put("deep", &deep);
    let entries = [
        scene.shelf.entry("a", &["a.test"]),
        scene.shelf.entry("wild", &["*.b.test"]),
        scene.shelf.entry("deep", &["x.b.test"]),
    ];
    let strict = scene.shelf.listener(&entries, "strict_sni = true");
    let gateway = scene.setup().section(&scene.shelf.listener(&entries, "")).start();

    let shown = |name: &str| Client::blind().connect(gateway.tls_addr(), name).unwrap().certificate();
    let first = shown("a.test");
    assert_eq!(shown("A.TEST"), first);
    assert_eq!(shown("y.b.test"), wild.der);
    assert_eq!(shown("x.b.test"), deep.der, "the exact name wins");
    for unknown in ["elsewhere.test", "b.test", "127.0.0.1"] {
        assert_eq!(shown(unknown), first, "{unknown}: the first one is for everybody else");
    }
    // And clients that check believe it.
    for name in ["a.test", "y.b.test", "x.b.test"] {
        assert_eq!(scene.client().get(gateway.tls_addr(), name, "/", &[]).unwrap().status, 200);
    }
    assert!(scene.client().connect(gateway.tls_addr(), "elsewhere.test").is_err());
    counted(&gateway, "refused_by_client", 1.0);

    let gateway = scene.setup().section(&strict).start();
    assert!(Client::blind().connect(gateway.tls_addr(), "a.test").is_ok());
    assert!(Client::blind().connect(gateway.tls_addr(), "elsewhere.test").is_err());
    assert!(Client::blind().connect(gateway.tls_addr(), "127.0.0.1").is_err(), "no name at all");
    counted(&gateway, "unknown_name", 2.0);
}

#[test]
fn one_host_may_have_a_certificate_for_each_kind_of_client() {
    let scene = Scene::new();
    let (ecdsa, rsa) = (scene.authority.server(&["a.test"]), scene.authority.rsa_server(&["a.test"]));
    scene.shelf.put("ecdsa", &ecdsa);
    scene.shelf.put("rsa", &rsa);
    let entries = ["ecdsa", "rsa"].map(|name| scene.shelf.entry(name, &["a.test"]));
    let gateway = scene.setup().section(&scene.shelf.listener(&entries, "")).start();
    let shown =
        |client: Client<'_>, name: &str| client.connect(gateway.tls_addr(), name).unwrap().certificate();
    for name in ["a.test", "elsewhere.test"] {
        assert_eq!(shown(Client::blind(), name), ecdsa.der);
        assert_eq!(shown(Client::blind().only_rsa(), name), rsa.der);
        assert_eq!(shown(Client::blind().only_rsa().tls12(), name), rsa.der);
    }
}

#[test]
fn without_hosts_a_certificate_is_shown_for_the_names_in_it() {
    let scene = Scene::new();
    scene.shelf.put("b", &scene.authority.server(&["b.test", "*.c.test"]));
    let path = scene.shelf.path().join("b");
    let named = format!("{{ cert = \"{0}.crt\", key = \"{0}.key\" }}", path.display());
    let entries = [scene.shelf.entry("a", &["a.test"]), named];
    let gateway = scene.setup().section(&scene.shelf.listener(&entries, "")).start();
    for name in ["b.test", "x.c.test"] {
        assert_eq!(scene.client().get(gateway.tls_addr(), name, "/", &[]).unwrap().status, 200);
    }
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
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
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
fn a_renewed_certificate_is_taken_up_under_load_without_a_request_lost() {
    let scene = Scene::new();
    let gateway = scene.with("").start();
    let address = gateway.tls_addr();
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut kept = scene.client().connect(address, "a.test").unwrap().raw();
    let mut ask = || kept.send("GET /kept HTTP/1.1\r\nHost: a.test\r\n\r\n").response().status;
    assert_eq!(ask(), 200);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let mut connection = scene.client().connect(address, "a.test").unwrap().raw();
                    for _ in 0..5 {
                        connection.send("GET /load HTTP/1.1\r\nHost: a.test\r\n\r\n");
                        assert_eq!(connection.response().status, 200);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let _end = OnDrop(&done);
        let shown = || scene.client().connect(address, "a.test").unwrap().certificate();
        for round in 0..3 {
            let next = scene.authority.server(&["a.test"]);
            scene.shelf.put("a", &next);
            if round == 0 {
                gateway.signal("HUP");
            }
            eventually(
                "the new one is shown",
                || if shown() == next.der { Ok(()) } else { Err(gateway.log()) },
            );
        }
        assert_eq!(ask(), 200, "the connection from before");
    });
    assert!(served.load(Ordering::SeqCst) > 20);
    assert_eq!(gateway.metric(REFUSED), Some(0.0));
}

/// Ends the load, however the test ends.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_bad_certificate_is_refused_with_its_place_and_the_old_one_serves_on() {
    let scene = Scene::new();
    let old = scene.authority.server(&["a.test"]);
    scene.shelf.put("a", &old);
    let gateway = scene.with("").start();
    let shown = || scene.client().connect(gateway.tls_addr(), "a.test").unwrap().certificate();
    let expiry = gateway.metrics();
    let series = format!(
        "portcullis_certificate_expiry_timestamp_seconds{{host=\"a.test\",listener=\"{}\"}}",
        "127.0.0.1:0"
    );
    assert!(expiry.contains(&series), "{expiry}");

    // The certificate of one pair, the key of another.
    let other = scene.authority.server(&["a.test"]);
    let key = scene.shelf.path().join("a.key");
    std::fs::write(&key, &other.key).unwrap();
    eventually("the refusal is counted", || match gateway.metric(REFUSED) {
        Some(1.0) => Ok(()),
        seen => Err((seen, gateway.log())),
    });
    let refusal = eventually("the refusal is told", || {
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains("this key does not belong to the certificate"));
        line.map(str::to_owned).ok_or(log)
    });
    assert!(refusal.contains("gateway.toml:"), "the place: {refusal}");
    assert_eq!(shown(), old.der);

    // Whoever replaces a pair replaces the one and then the other.
    scene.shelf.put("a", &other);
    eventually("the whole pair is taken", || if shown() == other.der { Ok(()) } else { Err(gateway.log()) });
    eventually("that is counted", || match gateway.metric(APPLIED) {
        Some(1.0) => Ok(()),
        seen => Err(seen),
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
fn an_expired_certificate_is_served_and_warned_of() {
    let scene = Scene::new();
    scene.shelf.put("a", &scene.authority.expired(&["a.test"]));
    let gateway = scene.with("").start();
    let log = gateway.log();
    assert!(log.contains("this certificate has expired"), "{log}");
    assert!(Client::blind().connect(gateway.tls_addr(), "a.test").is_ok());
    assert!(scene.client().connect(gateway.tls_addr(), "a.test").is_err());
}

#[test]
fn websockets_go_through_tls_and_may_be_silent() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::switch_to_websocket());
    let gateway = scene.with("").server("limits = { header_timeout = \"300ms\" }").start();
    let mut socket = scene.client().alpn(&[b"http/1.1"]).connect(gateway.tls_addr(), "a.test").unwrap().raw();
    socket.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(socket.response().status, 101);
    assert_eq!(socket.send("hello").bytes(5), b"hello");
    let silent_since = Instant::now();
    while silent_since.elapsed() < Duration::from_millis(600) {
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
