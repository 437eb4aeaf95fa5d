//! Slow clients: whoever sends or reads a byte now and then does not hold a place for it. Conversations may pause.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Request;

use crate::http2::Scene;
use crate::ledger_common::metric;
use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Raw;
use crate::support::service::{Service, Speaks};
use crate::support::{DEADLINE, eventually, pause};

const SLOW: &str = "portcullis_slow_bodies_total";
/// A body may pause for a second, and has another one until it must come at a thousand bytes a second.
const LIMITS: &str = "limits = { header_timeout = \"1s\", idle_timeout = \"1s\", body_min_rate = \"1000B\" }";
/// For clients that go on: on a busy machine they pause themselves.
const PAUSE: &str = "idle_timeout = \"1s\"";
const LONGER: &str = "idle_timeout = \"2s\"";

fn public(origin: &Origin) -> Setup {
    Setup::new()
        .upstream("app", origin)
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
        .server(LIMITS)
}

/// Sends a piece again and again until the gateway has had enough, and returns what it said.
fn trickle(raw: &mut Raw, piece: &str) -> Vec<u8> {
    let began = Instant::now();
    while !raw.is_closed_now() {
        raw.send(piece);
        // The client's own pace.
        pause(Duration::from_millis(100));
        assert!(began.elapsed() < DEADLINE, "it is waited for without end");
    }
    raw.rest_until_closed()
}

#[test]
fn a_body_that_drips_is_given_up_and_the_client_told() {
    let origin = Origin::start();
    let gateway = public(&origin).start();
    let mut raw = gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    let said = String::from_utf8(trickle(&mut raw, "x")).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("\"body_timeout\""), "{said}");
    eventually("it is counted", || match metric(&gateway, SLOW) {
        1.0 => Ok(()),
        seen => Err(seen),
    });
    let status = "portcullis_requests_total{method=\"POST\",route=\"all\",status=\"4xx\"}";
    assert_eq!(metric(&gateway, status), 1.0);
    // Bytes that belong to no body are bytes, too: the size of a chunk that never begins.
    let mut raw = gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;");
    trickle(&mut raw, "x");
    assert_eq!(metric(&gateway, SLOW), 2.0);
    assert!(origin.requests().iter().all(|seen| seen.body.len() < 1000));
}

#[test]
fn a_body_that_stalls_is_given_up_and_the_client_told() {
    let origin = Origin::start();
    let gateway = public(&origin).start();
    let mut raw = gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    let said = raw.response();
    assert_eq!((said.status, said.reason()), (408, "body_timeout".to_owned()));
    raw.assert_closed();
    eventually("it is counted", || match metric(&gateway, SLOW) {
        1.0 => Ok(()),
        seen => Err(seen),
    });
}

#[test]
fn a_slow_body_that_comes_fast_enough_arrives_whole() {
    let origin = Origin::start();
    let gateway = Gateway::start(&public(&origin).toml().replace(PAUSE, LONGER));
    let mut raw = gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 40000\r\n\r\n");
    // Four seconds long.
    for _ in 0..40 {
        raw.send([b'x'; 1000]);
        pause(Duration::from_millis(100));
    }
    assert_eq!(raw.response().status, 200);
    assert_eq!(origin.only().body.len(), 40_000);
    assert_eq!(metric(&gateway, SLOW), 0.0);
}

#[test]
fn no_rate_is_asked_for_where_none_is_wanted() {
    let origin = Origin::start();
    let gateway = public(&origin).toml().replace("\"1000B\"", "0").replace(PAUSE, LONGER);
    let gateway = Gateway::start(&gateway);
    let mut raw = gateway.raw();
    raw.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\n");
    for _ in 0..30 {
        raw.send("x");
        pause(Duration::from_millis(100));
    }
    assert_eq!(raw.response().status, 200);
}

#[test]
fn over_http2_a_body_that_drips_costs_its_stream_alone() {
    let scene = Scene::new();
    let gateway = scene.setup().server(LIMITS).start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let request = Request::post("https://a.test/up").header("authorization", &bearer).body(()).unwrap();
    let mut begun = client.begin(request, false).unwrap();
    let began = Instant::now();
    while begun.body.send_data(Bytes::from_static(b"x"), false).is_ok() {
        pause(Duration::from_millis(50));
        let ended = client.wait(async {
            std::future::poll_fn(|cx| std::task::Poll::Ready(begun.body.poll_reset(cx))).await
        });
        if ended.is_ready() {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "it is waited for without end");
    }
    match client.answer(begun.response) {
        Ok(answer) => assert_eq!(answer.status, 408),
        Err(error) => assert!(error.is_reset(), "{error:?}"),
    }
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 200);
}

/// gRPC pauses and trickles by its nature, before its service says anything.
#[test]
fn a_grpc_call_may_take_its_time() {
    let service = Service::start(Speaks::h2c());
    let gateway = Setup::new()
        .section(&service.config_toml("app", "http2 = true"))
        .route("path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
        .server(&format!("h2c = true\n{LIMITS}"))
        .start();
    let mut client = Http2::plain(gateway.addr());
    let call = |kind: &str| {
        let request = Request::post("http://a.test/up").header("content-type", kind);
        request.version(http::Version::HTTP_2).body(()).unwrap()
    };
    let mut patient = client.begin(call("application/grpc+proto"), false).unwrap();
    let mut other = client.begin(call("application/grpc-web"), false).unwrap();
    for body in [&mut patient.body, &mut other.body] {
        body.send_data(Bytes::from_static(b"first"), false).unwrap();
    }
    // The one that is a body like any other is gone by then.
    match client.answer(other.response) {
        Ok(answer) => assert_eq!(answer.status, 408),
        Err(error) => assert_eq!(error.reason(), Some(Reason::CANCEL), "{error:?}"),
    }
    pause(Duration::from_secs(1));
    patient.body.send_data(Bytes::from_static(b"last"), true).unwrap();
    assert_eq!(client.answer(patient.response).unwrap().status, 200);
    assert!(service.requests().iter().any(|told| told.body == b"firstlast"));
}

#[test]
fn a_websocket_may_be_silent_before_and_after_it_is_one() {
    let origin = Origin::start();
    origin.answer(|_| Answer::switch_to_websocket().delayed(Duration::from_millis(2500)));
    let gateway = public(&origin).start();
    let mut raw = gateway.raw();
    raw.send(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(raw.response().status, 101);
    pause(Duration::from_millis(2500));
    raw.send("hello");
    assert_eq!(raw.bytes(5), b"hello");
    assert_eq!(metric(&gateway, SLOW), 0.0);
}

#[test]
fn events_may_be_far_between() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").unwrap();
        pause(Duration::from_millis(2500));
        stream.write_all(b"data: 2\n\n").unwrap();
        let _ = stream.shutdown(Shutdown::Both);
    });
    let gateway = Setup::new()
        .section(&format!("[[upstreams]]\nname = \"app\"\nservers = [\"{address}\"]\n"))
        .route("path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
        .server(LIMITS)
        .start();
    let mut raw = gateway.raw();
    raw.send("GET /events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(raw.response().text(), "data: 1\n\ndata: 2\n\n");
    service.join().unwrap();
}

/// Neither who reads nothing nor who reads a little now and then holds the service up for it.
#[test]
fn an_answer_that_is_not_read_is_given_up() {
    let origin = Origin::answering(|_| Answer::new(200, vec![b'x'; 30_000_000]));
    let gateway = public(&origin).start();
    let mut silent = TcpStream::connect(gateway.addr()).unwrap();
    let mut sipping = TcpStream::connect(gateway.addr()).unwrap();
    sipping.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let request = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    silent.write_all(request.as_bytes()).unwrap();
    sipping.write_all(request.as_bytes()).unwrap();
    eventually("the service is left alone", || {
        // Some hundred bytes a second.
        let _ = sipping.read(&mut [0; 1]);
        match origin.open() {
            0 => Ok(()),
            open => Err(open),
        }
    });
    drop(silent);
    assert_eq!(gateway.raw().send("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n").response_to_head().status, 200);
}
