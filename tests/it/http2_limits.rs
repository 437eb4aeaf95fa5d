//! What one HTTP/2 connection may cost: streams, heads, resets, and time; and how it ends with the gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Request;

use crate::http2::Scene;
use crate::support::http2;
use crate::support::https::Client;
use crate::support::origin::Answer;
use crate::support::{DEADLINE, eventually};

#[test]
fn heads_are_bounded_however_well_they_compress() {
    let scene = Scene::new();
    let gateway = scene.setup().server("limits = { header_bytes = \"8KiB\", headers = 20 }").start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let long = "x".repeat(9000);
    let too_long = client.get("a.test", "/x", &[("authorization", &bearer), ("x-long", &long)]).unwrap();
    assert_eq!(too_long.status, 431);
    // One entry of the table, named again and again: a byte each on the wire.
    let many: Vec<_> = std::iter::repeat_n(("x-same", "y"), 40).collect();
    assert_eq!(client.get("a.test", "/x", &many).unwrap().reason(), "headers_too_large");
    let again = "y".repeat(1000);
    let bomb: Vec<_> = std::iter::repeat_n(("x-same", &*again), 15).collect();
    assert_eq!(client.get("a.test", "/x", &bomb).unwrap().status, 431);
    scene.origin.saw_nothing();
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 200);
}

#[test]
fn one_connection_has_no_more_requests_at_a_time_than_is_allowed() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::ok().delayed(Duration::from_millis(300)));
    let gateway = scene.setup().server("limits = { streams = 4 }").start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 200);
    assert_eq!(client.streams(), 4);
    let begun: Vec<_> = (0..4)
        .map(|_| {
            client.begin(http2::get("a.test", "/x", &[("authorization", &bearer)]), true).unwrap().response
        })
        .collect();
    for pending in begun {
        assert_eq!(client.answer(pending).unwrap().status, 200);
    }
}

#[test]
fn who_takes_requests_back_at_once_is_cut_off() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let cut = (0..5000).find(|_| {
        let begun = client.begin(http2::get("a.test", "/x", &[("authorization", &bearer)]), false);
        let Ok(mut begun) = begun else { return true };
        begun.body.send_reset(Reason::CANCEL);
        !client.is_open()
    });
    assert!(cut.is_some(), "5000 requests were taken back without a consequence");
}

/// Slow enough that each request is begun, and asked of the service; so it is not about what waits to be accepted.
#[test]
fn who_has_everything_begun_and_takes_it_back_is_cut_off_and_counted() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::ok().delayed(Duration::from_millis(300)));
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    // Many at a time: however slow this machine is, it is faster than what is allowed.
    let cut = (0..100).find(|_| {
        let before = scene.origin.requests().len();
        let begun: Vec<_> = (0..60)
            .map_while(|_| client.begin(http2::get("a.test", "/x", &[("authorization", &bearer)]), true).ok())
            .collect();
        eventually("the service is asked", || {
            let asked = scene.origin.requests().len() - before;
            if asked >= begun.len() || !client.is_open() { Ok(()) } else { Err(asked) }
        });
        for mut begun in begun {
            begun.body.send_reset(Reason::CANCEL);
        }
        !client.is_open()
    });
    assert!(cut.is_some_and(|cut| cut >= 2), "{cut:?}");
    eventually("it is counted", || match gateway.metric("portcullis_http2_floods_total") {
        Some(1.0) => Ok(()),
        seen => Err(seen),
    });
    // Nobody else is touched.
    assert_eq!(
        scene.connect(&gateway).get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status,
        200
    );
}

#[test]
fn a_connection_that_asks_nothing_is_not_kept() {
    let scene = Scene::new();
    let gateway = scene.setup().server("limits = { header_timeout = \"1s\", idle_timeout = \"3s\" }").start();
    // Neither preface nor settings.
    let silent = Client::of(&scene.authority).alpn(&[b"h2"]).connect(gateway.tls_addr(), "a.test").unwrap();
    silent.raw().rest_until_closed();
    // The preface, and no request.
    let _ = scene.connect(&gateway).ended();
    assert_eq!(gateway.metric("portcullis_slow_heads_total"), Some(2.0));
    // One request, and then nothing.
    let mut idle = scene.connect(&gateway);
    assert_eq!(idle.get("a.test", "/x", &[]).unwrap().status, 401);
    let _ = idle.ended();
    assert_eq!(gateway.metric("portcullis_slow_heads_total"), Some(2.0), "idle is not slow");
}

#[test]
fn part_of_a_preface_is_not_waited_for_without_end() {
    let scene = Scene::new();
    let gateway = scene.setup().server("h2c = true\nlimits = { header_timeout = \"1s\" }").start();
    let mut stream = TcpStream::connect(gateway.addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"PRI * HT").unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
    assert_eq!(gateway.metric("portcullis_slow_heads_total"), Some(1.0));
}

#[test]
fn an_upload_that_is_given_up_half_way_costs_its_stream_alone() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let request = Request::post("https://a.test/up").header("authorization", &bearer).body(()).unwrap();
    let mut begun = client.begin(request, false).unwrap();
    client.wait(async { begun.body.send_data(Bytes::from_static(b"half"), false) }).unwrap();
    eventually("it has reached the service", || match scene.origin.open() {
        0 => Err("no connection"),
        _ => Ok(()),
    });
    begun.body.send_reset(Reason::CANCEL);
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 200);
}

#[test]
fn a_body_without_a_length_is_cut_where_it_grows_too_long() {
    let scene = Scene::new();
    let gateway = scene.setup().server("limits = { body_bytes = \"64KiB\" }").start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let request = || Request::post("https://a.test/x").header("authorization", &bearer).body(()).unwrap();
    let refused = client.request(request(), &vec![b'x'; 200_000]);
    assert!(refused.is_err() || refused.is_ok_and(|it| it.status == 413));
    assert!(scene.origin.requests().iter().all(|seen| seen.body.len() < 80_000));
    assert_eq!(client.request(request(), &vec![b'x'; 60_000]).unwrap().status, 200);
}

#[test]
fn a_body_that_stalls_costs_its_stream_and_an_answer_nobody_reads_too() {
    let scene = Scene::new();
    let long = vec![b'x'; 2_000_000];
    scene
        .origin
        .answer(move |seen| if seen.target() == "/long" { Answer::new(200, &long) } else { Answer::ok() });
    let gateway = scene.setup().server("limits = { idle_timeout = \"1s\", header_timeout = \"1s\" }").start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let began = Instant::now();
    let mut half = |kind: &str| {
        let request = Request::post("https://a.test/up").header("authorization", &bearer);
        let mut begun = client.begin(request.header("content-type", kind).body(()).unwrap(), false).unwrap();
        begun.body.send_data(Bytes::from_static(b"half"), false).unwrap();
        begun
    };
    // The service speaks no HTTP/2, and so no gRPC.
    let (stalled, misnamed) = (half("text/plain"), half("application/grpc"));
    let unread = client.begin(http2::get("a.test", "/long", &[("authorization", &bearer)]), true).unwrap();
    let unread = client.wait(unread.response).unwrap().into_body();
    assert!(client.answer(stalled.response).is_err_and(|error| error.is_reset()));
    assert!(client.answer(misnamed.response).is_err_and(|error| error.is_reset()));
    // As long as anything at all is read, it goes on; here nothing is.
    eventually("the service is left alone", || match scene.origin.open() {
        0 => Ok(()),
        open => Err(open),
    });
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    drop(unread);
    assert_eq!(
        client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status,
        200,
        "the rest goes on"
    );
}

/// gRPC and the like: once the service has begun to answer, either side may be silent.
#[test]
fn a_conversation_may_pause_after_the_answer_has_begun() {
    let scene = Scene::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = [0; 4096];
        assert!(stream.read(&mut seen).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\none").unwrap();
        let mut rest = Vec::new();
        // The gateway forwards the second half, and the end of it.
        while !rest.ends_with(b"0\r\n\r\n") {
            let count = stream.read(&mut seen).unwrap();
            assert!(count > 0, "{rest:?}");
            rest.extend(&seen[..count]);
        }
        stream.write_all(b"two").unwrap();
    });
    let upstream = format!("[[upstreams]]\nname = \"talk\"\nservers = [\"{address}\"]");
    let limits = "limits = { idle_timeout = \"1s\", header_timeout = \"1s\" }";
    let setup =
        scene.setup().server(limits).section(&upstream).route("path = \"/talk\"\nupstream = \"talk\"");
    let gateway = setup.start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let request = Request::post("https://a.test/talk").header("authorization", &bearer).body(()).unwrap();
    let mut begun = client.begin(request, false).unwrap();
    begun.body.send_data(Bytes::from_static(b"first"), false).unwrap();
    let mut answer = client.wait(begun.response).unwrap().into_body();
    client.wait(async {
        assert_eq!(&answer.data().await.unwrap().unwrap()[..], b"one");
        let silence = tokio::time::timeout(Duration::from_millis(2500), answer.data()).await;
        assert!(silence.is_err(), "{silence:?}");
        begun.body.send_data(Bytes::from_static(b"second"), true).unwrap();
        assert_eq!(&answer.data().await.unwrap().unwrap()[..], b"two");
    });
    service.join().unwrap();
}

/// A head that never ends, each piece of it small (CVE-2024-27316).
#[test]
fn a_head_in_endless_pieces_is_not_collected() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut raw =
        Client::of(&scene.authority).alpn(&[b"h2"]).connect(gateway.tls_addr(), "a.test").unwrap().raw();
    let mut request = http2::raw_request(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", "/x"),
    ]);
    // The flags of HEADERS, behind preface, settings, and four bytes of its own head: END_STREAM without END_HEADERS.
    request[24 + 9 + 4] = 1;
    raw.send(&request);
    // `x-a: bbbb…` once more, in each CONTINUATION.
    let mut piece = vec![0x10, 3];
    piece.extend(b"x-a");
    piece.push(100);
    piece.extend([b'b'; 100]);
    let mut frame = vec![0, 0, u8::try_from(piece.len()).unwrap(), 9, 0, 0, 0, 0, 1];
    frame.extend(&piece);
    let block = frame.repeat(1000);
    // 50 MB in all, were it not refused.
    for _ in 0..500 {
        raw.send(&block);
        if raw.is_closed_now() {
            break;
        }
    }
    // With an error or without: nothing more is read.
    raw.wait_closed();
    scene.origin.saw_nothing();
}

#[test]
fn requests_on_their_way_are_answered_and_clients_told_to_go_before_the_gateway_ends() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::new(200, "late").delayed(Duration::from_millis(500)));
    let mut gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let begun = client.begin(http2::get("a.test", "/x", &[("authorization", &bearer)]), true).unwrap();
    eventually("it has reached the service", || match scene.origin.requests().len() {
        1 => Ok(()),
        seen => Err(seen),
    });
    gateway.signal("TERM");
    let answer = client.answer(begun.response).unwrap();
    assert_eq!((answer.status, answer.text()), (200, "late".to_owned()));
    // Whether it heard the last word or was too busy with its own is no matter.
    let end = client.ended();
    assert!(end.is_ok() || end.as_ref().is_err_and(h2::Error::is_io), "{end:?}");
    assert!(gateway.wait_exit().success());
}

#[test]
fn clients_are_told_to_go_before_the_last_answer_is_given() {
    let scene = Scene::new();
    scene.origin.answer(|_| Answer::ok().delayed(Duration::from_millis(500)));
    let mut gateway = scene.setup().start();
    let tls = Client::of(&scene.authority).alpn(&[b"h2"]);
    let mut raw = tls.connect(gateway.tls_addr(), "a.test").unwrap().raw();
    let bearer = scene.bearer("alice");
    let head = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x")];
    raw.send(http2::raw_request(&[&head[..], &[("authorization", &*bearer)]].concat()));
    eventually("it has reached the service", || match scene.origin.requests().len() {
        1 => Ok(()),
        seen => Err(seen),
    });
    gateway.signal("TERM");
    let mut kinds = Vec::new();
    while kinds.last() != Some(&http2::HEADERS) {
        let frame = raw.frame().unwrap();
        if frame.kind == http2::GOAWAY {
            assert_eq!(frame.payload[4..8], [0; 4], "NO_ERROR");
        }
        kinds.push(frame.kind);
    }
    assert!(kinds.contains(&http2::GOAWAY), "{kinds:?}");
    drop(raw);
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_client_that_does_not_hear_is_not_waited_for() {
    let scene = Scene::new();
    let mut gateway = scene.setup().start();
    let tls = Client::of(&scene.authority).alpn(&[b"h2"]);
    let mut asleep = tls.connect(gateway.tls_addr(), "a.test").unwrap().raw();
    let head = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x")];
    asleep.send(http2::raw_request(&head));
    while asleep.frame().unwrap().kind != http2::HEADERS {}
    gateway.signal("TERM");
    // Running requests would be waited for, half a minute long.
    assert!(gateway.wait_exit().success());
    assert!(!gateway.log().contains("open connections are cut"), "{}", gateway.log());
}
