//! The same service behind nginx and behind Portcullis, byte for byte: nothing may differ but the checks.
//!
//! Each conversation is held twice. What the client heard and what the service saw are written down line by line; lines
//! that stand on one side only must be among the differences that the conversation names, each with its reason, and a
//! named difference that does not show fails the test as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clients_common::{
    CHUNKS, Difference, OK, Scene,
    Step::{Again, Finish, Hear, HearAll, HearOfHead, Let, Send, Served},
    answers, last,
};
use crate::support::eventually;
use crate::support::origin::Seen;
use crate::support::scripted::Talk;

#[test]
fn methods_bodies_and_statuses_pass_alike() {
    let scene = Scene::new();
    let methods = "GET POST PUT DELETE PATCH OPTIONS PROPFIND MKCOL REPORT QUERY X-ODD";
    for method in methods.split(' ') {
        for (fields, body) in [("", ""), ("Content-Length: 0\r\n", ""), ("Content-Length: 5\r\n", "hello")] {
            let request = scene.request(&format!("{method} /x"), fields, body.as_bytes());
            scene.compare(method, answers(OK), &[Send(&request), Hear, Again], &[]);
        }
    }
    let head = scene.request("HEAD /x", "", b"");
    scene.compare(
        "HEAD with a length",
        answers("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n"),
        &[Send(&head), HearOfHead, Again],
        &[],
    );
    let get = scene.request(
        "GET /x",
        "If-None-Match: W/\"a\"\r\nIf-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\n",
        b"",
    );
    for answer in [
        "HTTP/1.1 204 No Content\r\nETag: \"a\"\r\nX-A: b\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: W/\"a\"\r\nCache-Control: max-age=1\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://a.test/else?x=1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 418 Teapot\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n",
    ] {
        scene.compare(answer, answers(answer), &[Send(&get), Hear, Again], &[]);
    }
    for (answer, name) in [
        ("HTTP/1.1 200 OK\r\n\r\nto the end", "a body that the close ends"),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", "and one of HTTP/1.0"),
    ] {
        scene.compare(name, last(answer), &[Send(&get), Hear, Again], &[]);
    }
}

#[test]
fn chunks_and_encodings_pass_alike() {
    let scene = Scene::new();
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (name, body) in
        [("none", "0\r\n\r\n"), ("two, with an extension", "3\r\nabc\r\n4;x=1\r\ndefg\r\n0\r\n\r\n")]
    {
        let request = scene.request("POST /x", chunked, body.as_bytes());
        scene.compare(name, answers(OK), &[Send(&request), Hear, Again], &CHUNKS);
    }
    let trailed = scene.request(
        "POST /x",
        &format!("{chunked}Trailer: X-Sum\r\n"),
        b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let [length, coding] = CHUNKS;
    let announced = ("service: Trailer", "nginx announces to the service what it drops, as Portcullis does");
    scene.compare("trailers up", answers(OK), &[Send(&trailed), Hear, Again], &[length, coding, announced]);
    let trailed = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
    let get = scene.request("GET /x", "TE: trailers\r\nConnection: TE\r\n", b"");
    scene.compare("trailers down", answers(trailed), &[Send(&get), Hear, Again], &[]);
    // The first piece is on its way before the last is there.
    let request = scene.request("POST /x", chunked, b"3\r\nabc\r\n");
    let rest = b"2\r\nde\r\n0\r\n\r\n";
    scene.compare("in pieces", answers(OK), &[Send(&request), Served, Send(rest), Hear, Again], &[]);
    let get = scene.request("GET /x", "Accept-Encoding: gzip, br\r\n", b"");
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    scene.compare("an answer in chunks", answers(chunks), &[Send(&get), Hear, Again], &[]);
    let zipped = [&b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nContent-Length: 5\r\n\r\n"[..], b"\x1f\x8b\x00\xff\r"].concat();
    scene.compare("gzip down", answers(zipped), &[Send(&get), Hear, Again], &[]);
    let up = scene.request("POST /x", "Content-Encoding: gzip\r\nContent-Length: 4\r\n", b"\x1f\x8b\x00\xff");
    scene.compare("gzip up", answers(OK), &[Send(&up), Hear, Again], &[]);
}

#[test]
fn fields_and_targets_pass_alike() {
    let scene = Scene::new();
    let fields = "Cookie: a=1; b=\"2\"; c=x%20y==\r\nX-b: 1\r\nX-A: 1\r\nx-B: 2\r\nX-Empty:\r\nX-Spaces:   a  b  \r\n\
                  Accept: text/html;q=0.9, */*\r\nUser-Agent: u/1 (x; y)\r\nX-Bytes: \u{fc}\r\n";
    let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/; HttpOnly\r\nX-M: 1\r\nSet-Cookie: b=2\r\nset-cookie: a=3\r\n\
                  Vary: a\r\nvary: b\r\nX-Bytes: \u{fc}\r\nLink: </a>; rel=preload\r\nContent-Length: 0\r\n\r\n";
    let get = scene.request("GET /x", fields, b"");
    scene.compare("fields", answers(answer), &[Send(&get), Hear, Again], &[]);

    let targets = [
        "/x?a=%2F&&b&c=+&d=%C3%BC&e=;&f=[]{}|^`&g='()*!~,@:$/?",
        "/a%20b/%C3%BC/%E2%82%AC+~!$&'()*,=:@-._",
        "/x?",
        "/x?=&=",
        "/x/",
        "http://a.test/absolute?form",
    ];
    let long = format!("/x?{}", "q".repeat(15_000));
    for target in targets.into_iter().chain([long.as_str()]) {
        let get = scene.request(&format!("GET {target}"), "", b"");
        scene.compare(target, answers(OK), &[Send(&get), Hear, Again], &[]);
    }

    let node =
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n";
    let get = scene.request("GET /x", "Connection: keep-alive\r\nKeep-Alive: 5\r\n", b"");
    scene.compare("what is said of one hop", answers(node), &[Send(&get), Hear, Again], &[]);
}

#[test]
fn ranges_pass_alike() {
    let scene = Scene::new();
    let parts = "--B\r\nContent-Range: bytes 0-1/10\r\n\r\nab\r\n--B\r\nContent-Range: bytes 4-5/10\r\n\r\nef\r\n--B--\r\n";
    let several = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=B\r\nContent-Length: {}\r\n\r\n{parts}",
        parts.len()
    );
    for (fields, answer) in [
        (
            "Range: bytes=0-1\r\nIf-Range: \"x\"\r\n",
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/10\r\nAccept-Ranges: bytes\r\nContent-Length: 2\r\n\r\nab",
        ),
        ("Range: bytes=0-1,4-5\r\n", several.as_str()),
        ("Range: bytes=-1\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall"),
        (
            "Range: bytes=90-\r\n",
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        let get = scene.request("GET /x", fields, b"");
        scene.compare(fields, answers(answer), &[Send(&get), Hear, Again], &[]);
    }
}

#[test]
fn connections_are_kept_and_ended_alike() {
    let scene = Scene::new();
    let get = |target: &str, fields: &str| scene.request(&format!("GET {target}"), fields, b"");
    scene.compare("close", answers(OK), &[Send(&get("/x", "Connection: close\r\n")), Hear, Again], &[]);

    let old =
        |fields: &str| String::from_utf8(get("/x", fields)).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
    scene.compare("HTTP/1.0", answers(OK), &[Send(old("").as_bytes()), Hear, Again], &[]);
    scene.compare(
        "HTTP/1.0, kept",
        answers(OK),
        &[Send(old("Connection: keep-alive\r\n").as_bytes()), Hear, Again],
        &[],
    );
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    scene.compare("HTTP/1.0 and chunks", answers(chunks), &[Send(old("").as_bytes()), Hear, Again], &[]);

    let post = scene.request("POST /2", "Content-Length: 3\r\n", b"abc");
    let chunked = scene.request("POST /3", "Transfer-Encoding: chunked\r\n", b"3\r\ndef\r\n0\r\n\r\n");
    let pipeline = [get("/1", ""), post, chunked, get("/4", "")].concat();
    let each = |talk: &mut Talk, seen: &Seen| {
        let body = talk.body(seen).unwrap();
        let target = seen.target();
        talk.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()))
            && body.len() < 4
    };
    scene.compare("a pipeline", each, &[Send(&pipeline), Hear, Hear, Hear, Hear, Again], &CHUNKS[1..]);

    // The second request comes while the first is being served.
    let (first, second) = (get("/1", ""), get("/2", ""));
    let go = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&go);
    let each = move |talk: &mut Talk, seen: &Seen| {
        if seen.target() == "/1" {
            eventually("the second was sent", || {
                if waits.swap(false, Ordering::SeqCst) { Ok(()) } else { Err(()) }
            });
        }
        talk.say(OK)
    };
    let steps = [Send(&first), Served, Send(&second), Let(&go), Hear, Hear, Again];
    scene.compare("a request on another's heels", each, &steps, &[]);

    // Both take a client that ends its side for one that has gone: HTTP/1.1 has no better sign.
    let never = |talk: &mut Talk, _: &Seen| {
        talk.closed();
        false
    };
    scene.compare("half closed", never, &[Send(&first), Served, Finish, HearAll], &[]);
}

#[test]
fn answers_that_break_off_are_seen_to_break_off_alike() {
    let scene = Scene::new();
    let get = scene.request("GET /x", "", b"");
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        scene.compare(answer, last(answer), &[Send(&get), HearAll], &[]);
    }
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
    scene.compare("more than was said", answers(long), &[Send(&get), Hear, Again], &[]);
}

#[test]
fn expectations_and_early_answers_pass_alike() {
    let scene = Scene::new();
    const FORWARDED: Difference =
        ("service: Expect: ", "nginx answers in the service's place; here the service is asked");
    let goes_on = |talk: &mut Talk, seen: &Seen| {
        if !seen.values("expect").is_empty() {
            talk.say("HTTP/1.1 100 Continue\r\n\r\n");
        }
        talk.body(seen).is_some() && talk.say(OK)
    };
    let lines = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    let head = scene.request("POST /x", lines, b"");
    scene.compare("go on", goes_on, &[Send(&head), Hear, Send(b"abc"), Hear, Again], &[FORWARDED]);
    let chunked = scene.request("PUT /x", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", b"");
    let body = b"3\r\nabc\r\n0\r\n\r\n";
    scene.compare("go on in chunks", goes_on, &[Send(&chunked), Hear, Send(body), Hear, Again], &[FORWARDED]);
    for status in ["401 Who", "413 Too much", "417 No"] {
        let refuses = move |talk: &mut Talk, _: &Seen| {
            talk.say_last(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"))
        };
        scene.compare(
            status,
            refuses,
            &[Send(&head), Hear, HearAll],
            &[FORWARDED, ("client: ", "the client of nginx was told to go on before the service was asked")],
        );
    }
}

/// What the distribution's nginx cannot show: it asks the service with the body at hand, and takes an interim answer for
/// the last one.
#[test]
fn interim_and_early_answers_come_when_the_service_gives_them() {
    let scene = Scene::new();
    let head = scene.request("POST /x", "Expect: 100-continue\r\nContent-Length: 3\r\n", b"");
    scene.service.play(|talk, _| talk.say("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno"));
    let mut raw = scene.gateway.raw();
    let refused = raw.send(&head).response();
    assert_eq!((refused.status, refused.text().as_str()), (417, "no"), "and no 100 before it");
    // The client will not send the body, and the connection is of no use any more.
    raw.assert_closed();

    // A service that knows nothing of expectations, and a client that does not wait.
    scene.service.play(|talk, seen| talk.body(seen).is_some() && talk.say(OK));
    let mut raw = scene.gateway.raw();
    raw.send([&head[..], b"abc"].concat());
    assert_eq!(raw.response().text(), "ok");

    const HINTS: &str =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n\r\n";
    let go = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&go);
    scene.service.play(move |talk, seen| {
        talk.say(HINTS.repeat(2));
        eventually("the client has heard", || if waits.load(Ordering::SeqCst) { Ok(()) } else { Err(()) });
        talk.body(seen).is_some() && talk.say(OK)
    });
    let get = scene.request("GET /x", "", b"");
    let post = scene.request("POST /x", "Content-Length: 3\r\n", b"");
    for (request, rest) in [(&get, ""), (&post, "abc")] {
        go.store(false, Ordering::SeqCst);
        raw.send(request);
        for _ in 0..2 {
            let hints = raw.response();
            let links: Vec<_> =
                hints.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            assert_eq!(
                (hints.status, links),
                (
                    103,
                    vec!["Link: </a.css>; rel=preload".to_owned(), "Link: </b.js>; rel=preload".to_owned()]
                )
            );
        }
        go.store(true, Ordering::SeqCst);
        // An interim answer does not cost the connection.
        let answer = raw.send(rest).response();
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("ok", Some("keep-alive")));
    }
    // RFC 9110 section 15.2: a client of HTTP/1.0 knows no interim answers.
    let old = String::from_utf8(get).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
    assert_eq!(scene.gateway.raw().send(old).response().status, 200);

    // The service does not want the rest; the client, which is still sending, hears so all the same.
    let flood = scene.request("POST /x", "Content-Length: 5000000\r\n", &vec![b'x'; 5_000_000]);
    for closes in [true, false] {
        scene.service.play(move |talk, seen| {
            talk.say("HTTP/1.1 413 Too much\r\nContent-Length: 6\r\n\r\nenough");
            // Or it reads what it does not want, as some do.
            !closes && talk.body(seen).is_some()
        });
        for _ in 0..5 {
            let mut raw = scene.gateway.raw();
            let enough = raw.send(&flood).response();
            assert_eq!((enough.status, enough.text().as_str()), (413, "enough"), "closes: {closes}");
        }
    }
}
