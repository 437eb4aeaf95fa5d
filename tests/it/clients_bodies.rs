//! Large bodies, slow clients and slow services: every byte arrives, none too early is kept, and memory stays bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::Request;
use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::issuer::Issuer;
use crate::support::raw::{Raw, find};
use crate::support::scripted::{Scripted, Talk};
use crate::support::service::{Service, Speaks};
use crate::support::{DEADLINE, eventually};

/// Several times as much as may be held on the way.
const LENGTH: u64 = 96 << 20;

/// How much more the gateway may hold than before, whatever its clients and services do.
const GROWTH: u64 = 24 << 20;

struct Scene {
    service: Scripted,
    gateway: Gateway,
    token: String,
}

impl Scene {
    fn new(part: impl Fn(&mut Talk, &crate::support::origin::Seen) -> bool + Send + Sync + 'static) -> Self {
        let issuer = Issuer::new(Algorithm::ES256);
        let service = Scripted::start(part);
        let gateway = Setup::new()
            .server("h2c = true\nlimits = { body_bytes = \"1GiB\" }")
            .issuer(&issuer)
            .section(&service.config_toml("app", ""))
            .route("path = \"/{*rest}\"\nupstream = \"app\"")
            .start();
        Self { service, gateway, token: issuer.good("alice") }
    }

    fn head(&self, line: &str, fields: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\n{fields}\r\n", self.token)
    }

    /// What the gateway holds in memory, in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }
}

/// Bytes of which no two pieces look alike.
struct Bytestream(u64);

impl Bytestream {
    fn fill(&mut self, piece: &mut [u8]) {
        for word in piece.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bytes = self.0.to_be_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }
}

/// Sends so many bytes; the hash of those that went.
fn send(mut to: impl FnMut(&[u8]) -> bool, length: u64) -> Vec<u8> {
    let (mut hash, mut bytes, mut piece) = (Context::new(&SHA256), Bytestream(length), vec![0; 256 << 10]);
    let mut left = length;
    while left > 0 {
        let count = piece.len().min(usize::try_from(left).unwrap());
        bytes.fill(&mut piece[..count]);
        hash.update(&piece[..count]);
        if !to(&piece[..count]) {
            break;
        }
        left -= count as u64;
    }
    hash.finish().as_ref().to_vec()
}

/// Takes so many bytes; the hash of those that came.
fn receive(mut from: impl FnMut() -> Option<Vec<u8>>, length: u64) -> Vec<u8> {
    let (mut hash, mut left) = (Context::new(&SHA256), length);
    while left > 0 {
        let piece = from().expect("more was announced");
        hash.update(&piece);
        left -= piece.len() as u64;
    }
    hash.finish().as_ref().to_vec()
}

#[test]
fn a_hundred_megabytes_pass_byte_for_byte_in_little_memory() {
    let scene = Scene::new(|talk, seen| {
        if seen.target() == "/down" {
            talk.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            send(|piece| talk.say(piece), LENGTH);
            return true;
        }
        let hash = receive(|| talk.piece(), LENGTH);
        talk.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n{}", hex(&hash)))
    });
    let expected = hex(&send(|_| true, LENGTH));
    let before = scene.memory();
    let mut raw = scene.gateway.raw();
    raw.send(scene.head("PUT /up", &format!("Content-Length: {LENGTH}\r\n")));
    send(
        |piece| {
            raw.send(piece);
            true
        },
        LENGTH,
    );
    assert_eq!(raw.response().text(), expected, "up");

    let mut stream = TcpStream::connect(scene.gateway.addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(scene.head("GET /down", "").as_bytes()).unwrap();
    let mut first = read_piece(&mut stream).unwrap();
    let body = find(&first, b"\r\n\r\n").expect("a head") + 4;
    first.drain(..body);
    let mut first = Some(first);
    assert_eq!(hex(&receive(|| first.take().or_else(|| read_piece(&mut stream)), LENGTH)), expected, "down");

    let mut http2 = Http2::plain(scene.gateway.addr());
    let down = Request::get("http://a.test/down").header("authorization", format!("Bearer {}", scene.token));
    let pending = http2.begin(down.body(()).unwrap(), true).unwrap();
    let hash = http2.wait(async move {
        let mut body = pending.response.await.unwrap().into_body();
        let mut hash = Context::new(&SHA256);
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            hash.update(&piece);
        }
        hash.finish()
    });
    assert_eq!(hex(hash.as_ref()), expected, "down, over HTTP/2");
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < GROWTH, "it holds {} MiB more", grown >> 20);
}

fn read_piece(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut piece = vec![0; 256 << 10];
    let count = loop {
        match stream.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.unwrap(),
        }
    };
    piece.truncate(count);
    (count > 0).then_some(piece)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn who_reads_slowly_slows_down_who_writes() {
    let sent = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&sent);
    let scene = Scene::new(move |talk, seen| {
        if seen.target() == "/down" {
            talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            send(
                |piece| {
                    counts.fetch_add(piece.len() as u64, Ordering::SeqCst);
                    talk.say(format!("{:x}\r\n", piece.len())) && talk.say(piece) && talk.say("\r\n")
                },
                LENGTH,
            );
        } else {
            // Says that it is there, and reads nothing.
            talk.say("HTTP/1.1 103 Early Hints\r\n\r\n");
            talk.rest();
        }
        false
    });
    let before = scene.memory();
    // What the system's own buffers hold on two connections, at most.
    let buffered = 32 << 20;

    let mut raw = scene.gateway.raw();
    raw.send(scene.head("GET /down", ""));
    settles(|| sent.load(Ordering::SeqCst));
    let so_far = sent.swap(0, Ordering::SeqCst);
    assert!(so_far > 0 && so_far < buffered, "{} MiB for a client that does not read", so_far >> 20);

    let mut http2 = Http2::plain(scene.gateway.addr());
    let down = Request::get("http://a.test/down").header("authorization", format!("Bearer {}", scene.token));
    let unread = http2.begin(down.body(()).unwrap(), true).unwrap();
    settles(|| sent.load(Ordering::SeqCst));
    let so_far = sent.swap(0, Ordering::SeqCst);
    assert!(so_far > 0 && so_far < buffered, "{} MiB for one of HTTP/2", so_far >> 20);

    // The other way: a service that does not read.
    let mut up = TcpStream::connect(scene.gateway.addr()).unwrap();
    up.write_all(scene.head("PUT /up", &format!("Content-Length: {LENGTH}\r\n")).as_bytes()).unwrap();
    up.set_nonblocking(true).unwrap();
    let mut written = 0_u64;
    settles(|| {
        while let Ok(count) = up.write(&[b'x'; 64 << 10]) {
            written += count as u64;
            assert!(written < buffered, "a service that does not read is sent for");
        }
        written
    });
    assert!(written > 0);
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < GROWTH, "it holds {} MiB more", grown >> 20);
    drop((raw, unread, up));
}

/// Waits until a number has not changed for a second.
fn settles(mut number: impl FnMut() -> u64) {
    let (mut last, mut since) = (0, std::time::Instant::now());
    eventually("nothing moves any more", || {
        let now = number();
        if now != last {
            (last, since) = (now, std::time::Instant::now());
        }
        if last > 0 && since.elapsed().as_secs() >= 1 { Ok(()) } else { Err(last) }
    });
}

#[test]
fn an_upload_over_http2_ends_early_where_the_service_has_had_enough() {
    let scene = Scene::new(|talk, _| {
        talk.say_last("HTTP/1.1 413 Too much\r\nConnection: close\r\nContent-Length: 6\r\n\r\nenough")
    });
    let mut http2 = Http2::plain(scene.gateway.addr());
    for _ in 0..3 {
        let request =
            Request::put("http://a.test/up").header("authorization", format!("Bearer {}", scene.token));
        let mut pending = http2.begin(request.body(()).unwrap(), false).unwrap();
        pending.body.send_data(Bytes::from(vec![b'x'; 1 << 20]), false).unwrap();
        let answer = http2.answer(pending.response).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "enough"));
    }
    assert!(http2.is_open());
    let seen = scene.service.take_seen();
    assert_eq!(seen.len(), 3);
}

#[test]
fn an_answer_that_breaks_off_is_reset_on_http2_and_ends_in_the_middle_on_http1() {
    let scene = Scene::new(|talk, seen| {
        let framing = if seen.target() == "/chunks" {
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        } else {
            "Content-Length: 10\r\n\r\nabc"
        };
        talk.say_last(format!("HTTP/1.1 200 OK\r\n{framing}"))
    });
    let mut http2 = Http2::plain(scene.gateway.addr());
    for path in ["/chunks", "/length"] {
        let bearer = format!("Bearer {}", scene.token);
        let request = Request::get(format!("http://a.test{path}")).header("authorization", bearer);
        let answer = http2.request(request.body(()).unwrap(), b"");
        assert!(answer.as_ref().is_err_and(|error| error.is_reset()), "{path}: {answer:?}");
        let mut raw = scene.gateway.raw();
        let rest = raw.send(scene.head(&format!("GET {path}"), "")).rest_until_closed();
        assert!(find(&rest, b"abc").is_some() && !rest.ends_with(b"0\r\n\r\n"), "{path}");
    }
}

#[test]
fn a_long_poll_and_single_bytes_arrive_when_they_are_sent() {
    let scene = Scene::new(|talk, seen| {
        let mut rest = Vec::new();
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Each byte of the client is answered at once, while its body goes on.
        for _ in 0..20 {
            if talk.take(b"1\r\nx\r\n".len(), &mut rest).is_none() || !talk.say("1\r\ny\r\n") {
                return false;
            }
        }
        talk.say("0\r\n\r\n") && seen.body.is_empty()
    });
    let mut raw = Raw::connect(scene.gateway.addr());
    raw.send(scene.head("POST /talk", "Transfer-Encoding: chunked\r\n"));
    let mut head = Vec::new();
    while find(&head, b"\r\n\r\n").is_none() {
        head.extend(raw.bytes(1));
    }
    for number in 0..20 {
        raw.send("1\r\nx\r\n");
        assert!(raw.bytes(6).starts_with(b"1\r\ny\r\n"), "{number}");
    }
}

#[test]
fn a_client_that_waits_to_be_asked_is_asked_where_the_service_speaks_http2() {
    let service = Service::start(Speaks::h2c());
    let gateway = Setup::new()
        .section(&service.config_toml("app", "http2 = true"))
        .route("path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
        .start();
    let mut raw = gateway.raw();
    for _ in 0..2 {
        raw.send("POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(raw.response().status, 100);
        assert_eq!(raw.send("hello").response().text(), "hello", "and the connection goes on");
    }
    assert!(
        service.requests().iter().all(|told| told.body == b"hello" && !told.headers.contains_key("expect"))
    );
}
