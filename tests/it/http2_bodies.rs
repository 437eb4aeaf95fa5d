//! HTTP/2: bodies in both directions, and answers of every shape.

use std::io::{Read, Write};

use http::Request;

use crate::http2::Scene;
use crate::support::http2;
use crate::support::origin::Answer;

#[test]
fn answers_of_every_shape_are_whole_and_hold_nothing_of_http1() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let authorized = [("authorization", &*bearer)];
    let long = vec![b'x'; 300_000];
    let hop = |answer: Answer| {
        answer.header("Connection", "x-hop").header("X-Hop", "1").header("Keep-Alive", "timeout=5")
    };
    let body = long.clone();
    scene.origin.answer(move |_| hop(Answer::new(200, &body).chunked()).header("X-Kept", "1"));
    let answer = client.get("a.test", "/x", &authorized).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, long.len()));
    assert_eq!(answer.header("x-kept"), Some("1"));
    for gone in ["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    scene.origin.answer(|_| Answer::new(204, "").header("X-Kept", "1"));
    assert_eq!(client.get("a.test", "/x", &authorized).unwrap().status, 204);
    scene.origin.answer(|_| Answer {
        raw: Some(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n".into()),
        ..Answer::ok()
    });
    let head = Request::head("https://a.test/x").header("authorization", &bearer).body(()).unwrap();
    let answer = client.request(head, b"").unwrap();
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("7"), 0));
    // Cut short by the service: the stream is reset, so that nobody takes the part for the whole.
    scene.origin.answer(|_| {
        Answer { raw: Some(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".into()), ..Answer::ok() }
            .closing()
    });
    assert!(client.get("a.test", "/x", &authorized).is_err_and(|error| error.is_reset()));
    scene.origin.answer(|_| Answer::ok());
    assert_eq!(client.get("a.test", "/x", &authorized).unwrap().status, 200);
}

#[test]
fn what_a_service_says_bit_by_bit_arrives_bit_by_bit() {
    let scene = Scene::new();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n").unwrap();
        wait.recv().unwrap();
        stream.write_all(b"data: two\n\n").unwrap();
    });
    let upstream = format!("[[upstreams]]\nname = \"events\"\nservers = [\"{address}\"]");
    let route = "path = \"/events\"\nupstream = \"events\"";
    let gateway = scene.setup().section(&upstream).route(route).start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let begun = client.begin(http2::get("a.test", "/events", &[("authorization", &bearer)]), true).unwrap();
    let rest = client.wait(async {
        let mut body = begun.response.await.unwrap().into_body();
        let first = body.data().await.unwrap().unwrap();
        assert_eq!(&first[..], b"data: one\n\n", "before the service has said the rest");
        go.send(()).unwrap();
        body.data().await.unwrap().unwrap()
    });
    assert_eq!(&rest[..], b"data: two\n\n");
    service.join().unwrap();
}

#[test]
fn bodies_go_through_byte_for_byte_and_no_further_than_is_allowed() {
    let scene = Scene::new();
    scene.origin.answer(|seen| Answer::new(200, &seen.body));
    let gateway = scene.setup().server("limits = { body_bytes = \"1MiB\" }").start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let body: Vec<u8> = (0..900_000_u32).map(|it| (it % 251) as u8).collect();
    let request = |length: usize| {
        let request = Request::post("https://a.test/x").header("authorization", &bearer);
        request.header("content-length", length).body(()).unwrap()
    };
    let echoed = client.request(request(body.len()), &body).unwrap();
    assert_eq!(echoed.status, 200);
    assert!(echoed.body == body, "{} bytes came back of {}", echoed.body.len(), body.len());
    scene.origin.forget();
    let refused = client.request(request(2 << 20), &vec![0; 2 << 20]).unwrap();
    assert_eq!((refused.status, refused.reason()), (413, "body_too_large".to_owned()));
    scene.origin.saw_nothing();
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 200);
}
