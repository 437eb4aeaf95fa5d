//! Hundreds of hostile connections of each kind: what they cost is bounded, and who is not one of them is served meanwhile.

use std::io::Write;
use std::net::TcpStream;

use jsonwebtoken::Algorithm;

use crate::http2::Scene;
use crate::ledger_common::metric;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http2;
use crate::support::https::Client;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};

const KIB: u64 = 1024;

struct World {
    origin: Origin,
    issuer: Issuer,
    gateway: Gateway,
    before: u64,
}

impl World {
    fn new(limits: &str) -> Self {
        let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
        let setup = Gateway::guarding(&issuer, &origin);
        let gateway = setup.server(limits).log("level = \"info\"").start();
        let world = Self { origin, issuer, gateway, before: 0 };
        // What is allocated once is not what is asked for here.
        world.serves();
        Self { before: world.gateway.memory(), ..world }
    }

    fn serves(&self) {
        assert_eq!(self.gateway.get("/x", Some(&self.issuer.good("alice"))).status, 200);
    }

    /// What each of so many has cost.
    fn each(&self, many: u64) -> u64 {
        self.gateway.memory().saturating_sub(self.before) / many
    }

    fn connect(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.gateway.addr()).unwrap();
        // The gateway may have had enough.
        let _ = stream.write_all(bytes);
        stream
    }
}

#[test]
fn heads_that_never_end_cost_a_few_kilobytes_each() {
    let world = World::new("limits = { header_timeout = \"60s\" }");
    let head = format!("GET /x HTTP/1.1\r\nHost: h\r\nX-Long: {}", "x".repeat(2000));
    let many: Vec<_> = (0..1500).map(|_| world.connect(head.as_bytes())).collect();
    world.serves();
    let each = world.each(1500);
    assert!(each < 100 * KIB, "{each}");
    drop(many);
    world.serves();
}

#[test]
fn idle_connections_cost_a_few_kilobytes_each() {
    let world = World::new("");
    let request = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    let many: Vec<_> = (0..1500).map(|_| world.connect(request)).collect();
    let denied = "portcullis_requests_total{method=\"GET\",route=\"all\",status=\"4xx\"}";
    eventually("all are answered", || match metric(&world.gateway, denied) {
        1500.0 => Ok(()),
        seen => Err(seen),
    });
    world.serves();
    let each = world.each(1500);
    assert!(each < 100 * KIB, "{each}");
    drop(many);
}

/// Without a bound of ours a megabyte of each would be collected.
#[test]
fn heads_without_bounds_are_refused_long_before_they_end() {
    let world = World::new("limits = { header_timeout = \"60s\", header_bytes = \"8KiB\" }");
    let mut head = b"GET /x HTTP/1.1\r\nHost: h\r\nX-Long: ".to_vec();
    head.resize(1_000_000, b'x');
    let many: Vec<_> = (0..300).map(|_| world.connect(&head)).collect();
    world.serves();
    let each = world.each(300);
    assert!(each < 200 * KIB, "{each}");
    drop(many);
    // Said on the wire, where nothing of the rest is in its way.
    let mut raw = world.gateway.raw();
    raw.send(&head[..26_000]);
    assert_eq!(raw.response().status, 431);
    raw.assert_closed();
    // A connection that was good has the same bound at its second request.
    let mut raw = world.gateway.raw();
    assert_eq!(raw.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").response().status, 401);
    raw.send(&head[..26_000]);
    assert_eq!(raw.response().status, 431);
    assert_eq!(world.origin.requests().iter().filter(|seen| seen.head.len() > 8192).count(), 0);
    // A long body is no long head.
    let body = vec![b'x'; 300_000];
    let bearer = format!("Authorization: Bearer {}", world.issuer.good("alice"));
    assert_eq!(world.gateway.request("POST", "/x", &[&bearer], &body).status, 200);
}

#[test]
fn bodies_that_stall_cost_a_few_kilobytes_each() {
    let world = World::new("limits = { idle_timeout = \"60s\" }");
    let bearer = world.issuer.good("mallory");
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bearer}\r\nContent-Length: 1000000\r\n\r\nhalf"
    );
    let many: Vec<_> = (0..300).map(|_| world.connect(head.as_bytes())).collect();
    eventually("they have reached the service", || match world.origin.open() {
        open if open >= 300 => Ok(()),
        open => Err(open),
    });
    world.serves();
    let each = world.each(300);
    assert!(each < 200 * KIB, "{each}");
    drop(many);
}

#[test]
fn handshakes_that_never_end_cost_a_few_kilobytes_each() {
    let scene = Scene::new();
    let gateway = scene.setup().server("limits = { header_timeout = \"2s\" }").start();
    let bearer = scene.bearer("alice");
    let serves = || {
        let answer = scene.connect(&gateway).get("a.test", "/x", &[("authorization", &bearer)]);
        assert_eq!(answer.unwrap().status, 200);
    };
    serves();
    let before = gateway.memory();
    let many: Vec<_> = (0..800)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.tls_addr()).unwrap();
            // The head of a handshake record of 16 KiB, and a little of it.
            let _ = stream.write_all(&[&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc][..], &[0; 1000]].concat());
            stream
        })
        .collect();
    serves();
    let each = gateway.memory().saturating_sub(before) / 800;
    assert!(each < 100 * KIB, "{each}");
    eventually("they are given up", || {
        match metric(&gateway, "portcullis_tls_handshakes_total{outcome=\"timeout\"}") {
            800.0 => Ok(()),
            seen => Err(seen),
        }
    });
    drop(many);
}

#[test]
fn answers_that_nobody_reads_are_not_collected() {
    let scene = Scene::new();
    let long = vec![b'x'; 4_000_000];
    scene
        .origin
        .answer(move |seen| if seen.target() == "/long" { Answer::new(200, &long) } else { Answer::ok() });
    let gateway = scene.setup().server("limits = { idle_timeout = \"60s\" }").log("level = \"info\"").start();
    let bearer = scene.bearer("alice");
    let fields = [("authorization", &*bearer)];
    assert_eq!(scene.connect(&gateway).get("a.test", "/x", &fields).unwrap().status, 200);
    let before = gateway.memory();
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = scene.connect(&gateway);
            let unread: Vec<_> = (0..20)
                .map(|_| {
                    let begun = client.begin(http2::get("a.test", "/long", &fields), true).unwrap();
                    client.wait(begun.response).unwrap().into_body()
                })
                .collect();
            (client, unread)
        })
        .collect();
    let each = gateway.memory().saturating_sub(before) / 200;
    // 800 MB were asked for.
    assert!(each < 1000 * KIB, "{each}");
    assert_eq!(scene.connect(&gateway).get("a.test", "/x", &fields).unwrap().status, 200);
    drop(clients);
}

/// CVE-2019-9512 (pings), CVE-2019-9515 (settings), CVE-2019-9513 (priorities), CVE-2019-9518 (empty data).
#[test]
fn who_sends_frames_that_ask_for_nothing_is_cut_off() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let floods = [
        ("pings", vec![0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("settings", vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0]),
        ("priorities", vec![0, 0, 5, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 16]),
        ("windows", vec![0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("unknown", vec![0, 0, 1, 0xbe, 0, 0, 0, 0, 0, 7]),
    ];
    for (number, (what, frame)) in (1_u32..).zip(floods) {
        let tls = Client::of(&scene.authority).alpn(&[b"h2"]);
        let mut raw = tls.connect(gateway.tls_addr(), "a.test").unwrap().raw();
        raw.send(http2::raw_request(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", "/x"),
        ]));
        let block = frame.repeat(500);
        let sent = (0..200).take_while(|_| {
            raw.send(&block);
            !raw.is_closed_now()
        });
        let sent = sent.count();
        raw.wait_closed();
        assert!((1..199).contains(&sent), "{what}: {sent}");
        eventually("it is counted", || match metric(&gateway, "portcullis_http2_floods_total") {
            seen if seen == f64::from(number) => Ok(()),
            seen => Err(format!("{what}: {seen}")),
        });
    }
    scene.origin.saw_nothing();
    let bearer = scene.bearer("alice");
    assert_eq!(
        scene.connect(&gateway).get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status,
        200
    );
}
