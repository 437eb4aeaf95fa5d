//! The same service behind nginx and behind Portcullis, byte for byte: nothing may differ but the checks.
//!
//! Each conversation is held twice. What the client heard and what the service saw are written down line by line; lines
//! that stand on one side only must be among the differences that the conversation names, each with its reason, and a
//! named difference that does not show fails the test as well.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::origin::Seen;
use crate::support::raw::{Raw, Response};
use crate::support::scripted::{Scripted, Talk};

struct Scene {
    service: Scripted,
    nginx: Nginx,
    gateway: Gateway,
    token: String,
    /// What differed so far: one run tells of all of it.
    differed: Mutex<Vec<String>>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let differed = self.differed.lock().unwrap();
        assert!(differed.is_empty() || std::thread::panicking(), "{}", differed.join("\n"));
    }
}

/// What a client does.
enum Step<'a> {
    Send(&'a [u8]),
    /// Hears one answer, interim ones included.
    Hear,
    HearOfHead,
    /// Hears everything up to the close.
    HearAll,
    /// Ends its own side.
    Finish,
    /// Asks for something else on the same connection.
    Again,
    /// Waits until the service has been asked.
    Served,
    /// Lets a service go on that waits for this.
    Let(&'a AtomicBool),
}
use Step::{Again, Finish, Hear, HearAll, HearOfHead, Let, Send, Served};

/// A line that may stand on one side only.
type Difference = (&'static str, &'static str);

impl Scene {
    fn new() -> Self {
        let issuer = Issuer::new(Algorithm::ES256);
        let service = Scripted::start(|_, _| false);
        let nginx = Nginx::before(service.addr(), None);
        let gateway = Setup::new()
            .issuer(&issuer)
            .section(&service.config_toml("app", ""))
            .route("path = \"/{*rest}\"\nupstream = \"app\"")
            .start();
        Self { service, nginx, gateway, token: issuer.good("alice"), differed: Mutex::default() }
    }

    /// A request of this client.
    fn request(&self, line: &str, fields: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\n{fields}\r\n",
            self.token
        );
        [head.as_bytes(), body].concat()
    }

    /// Holds the conversation with both, and compares.
    fn compare(
        &self,
        name: &str,
        part: impl Fn(&mut Talk, &Seen) -> bool + std::marker::Send + Sync + Clone + 'static,
        steps: &[Step<'_>],
        differences: &[Difference],
    ) {
        let hold = |address| {
            let part = part.clone();
            // What is asked on the same connection again is answered, whatever the service's part is.
            self.service.play(move |talk, seen| match seen.target().as_str() {
                "/again" => talk.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"),
                _ => part(talk, seen),
            });
            self.service.take_seen();
            let heard = self.converse(&mut Raw::connect(address), steps);
            let mut lines = heard;
            lines.extend(self.service.take_seen().iter().flat_map(described));
            lines
        };
        let [theirs, ours] = [hold(self.nginx.addr()), hold(self.gateway.addr())];
        let mut unseen: Vec<_> = differences.iter().collect();
        let (left, right): (BTreeSet<_>, BTreeSet<_>) = (theirs.iter().collect(), ours.iter().collect());
        let mut strange = Vec::new();
        for line in left.symmetric_difference(&right) {
            match differences.iter().find(|(start, _)| line.starts_with(start)) {
                Some(known) => unseen.retain(|it| *it != known),
                None => strange.push(line),
            }
        }
        // The same lines in another order, or one more often.
        let shuffled = differences.is_empty() && strange.is_empty() && theirs != ours;
        if !strange.is_empty() || !unseen.is_empty() || shuffled {
            let text = format!(
                "{name}: {strange:#?}; no longer different: {unseen:?}\n nginx: {theirs:#?}\n Portcullis: {ours:#?}"
            );
            self.differed.lock().unwrap().push(text);
        }
    }

    fn converse(&self, raw: &mut Raw, steps: &[Step<'_>]) -> Vec<String> {
        let mut lines = Vec::new();
        for step in steps {
            match step {
                Send(bytes) => drop(raw.send(bytes)),
                Hear => lines.extend(heard(raw.try_response())),
                HearOfHead => lines.extend(heard(Ok(raw.response_to_head()))),
                HearAll => lines.push(format!("client: rest {:?}", without_own(&raw.rest_until_closed()))),
                Finish => raw.finish(),
                Served => eventually("the service has been asked", || match self.service.asked() {
                    0 => Err(()),
                    _ => Ok(()),
                }),
                Let(go) => go.store(true, Ordering::SeqCst),
                Again => {
                    raw.send(self.request("GET /again", "", b""));
                    let kept = raw.try_response().is_ok_and(|it| it.text() == "again");
                    lines.push(format!("client: connection {}", if kept { "kept" } else { "ended" }));
                }
            }
        }
        lines
    }
}

/// What the client heard, names as sent, values of one name in their order.
fn heard(response: std::io::Result<Response>) -> Vec<String> {
    let Ok(response) = response else { return vec!["client: nothing".to_owned()] };
    let mut fields: Vec<_> =
        response.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
    fields.sort_by_key(|(name, _)| name.to_lowercase());
    let mut lines = vec![format!("client: {}", response.status)];
    lines.extend(fields.iter().map(|(name, value)| format!("client: {name}: {value}")));
    lines.push(format!("client: body {:?}", String::from_utf8_lossy(&response.body)));
    lines
}

/// A rest without the lines that every server writes of itself.
fn without_own(rest: &[u8]) -> String {
    let text = String::from_utf8_lossy(rest).into_owned();
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !["Date:", "Connection:"].iter().any(|own| line.starts_with(own))).collect()
}

/// What the service saw, less what a proxy adds of its own.
fn described(seen: &Seen) -> Vec<String> {
    const OWN: [&str; 5] = ["authorization", "x-forwarded-", "x-request-id", "x-user-", "x-session-id"];
    let text = seen.text();
    let mut fields: Vec<&str> = text.trim_end().split("\r\n").skip(1).collect();
    fields.retain(|field| !OWN.iter().any(|own| field.to_lowercase().starts_with(own)));
    fields.sort_by_key(|field| field.split(':').next().unwrap_or_default().to_lowercase());
    let mut lines = vec![format!("service: {}", seen.line())];
    lines.extend(fields.iter().map(|field| format!("service: {field}")));
    lines.push(format!("service: body {:?}", String::from_utf8_lossy(&seen.body)));
    lines
}

/// Reads the request to its end, and says this.
fn answers(
    bytes: impl AsRef<[u8]>,
) -> impl Fn(&mut Talk, &Seen) -> bool + std::marker::Send + Sync + Clone + 'static {
    let bytes = bytes.as_ref().to_vec();
    move |talk, seen| talk.body(seen).is_some() && talk.say(&bytes)
}

/// As [`answers`], and closes.
fn last(
    bytes: &'static str,
) -> impl Fn(&mut Talk, &Seen) -> bool + std::marker::Send + Sync + Clone + 'static {
    move |talk, seen| talk.body(seen).is_some() && talk.say_last(bytes)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: mine\r\n\r\nok";

const CHUNKS: [Difference; 2] = [
    ("service: Content-Length", "nginx sends a body that has already come with its length"),
    ("service: Transfer-Encoding", "and Portcullis as it came"),
];

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
