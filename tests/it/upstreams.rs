//! Which server a request goes to, which one is asked next, and how long is waited.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Raw;
use crate::support::reloads::reload;
use crate::support::{eventually, free_port, pause};

const ROUTE: &str = "path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"";

/// `[[upstreams]]` of these servers, each a string or a table, with more lines.
fn upstream(servers: &[String], lines: &str) -> String {
    format!("[[upstreams]]\nname = \"app\"\nservers = [{}]\n{lines}\n", servers.join(", "))
}

fn plain(origin: &Origin) -> String {
    format!("\"{}\"", origin.addr())
}

fn gateway(origins: &[&Origin], lines: &str) -> Gateway {
    let servers: Vec<_> = origins.iter().map(|origin| plain(origin)).collect();
    Setup::new().section(&upstream(&servers, lines)).route(ROUTE).start()
}

/// Answers every request by its name.
fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| Answer::new(200, name))
}

/// How often each name answers to so many requests on one connection.
fn shares(gateway: &Gateway, requests: usize, header: impl Fn(usize) -> String) -> BTreeMap<String, usize> {
    let mut raw = gateway.raw();
    let mut shares = BTreeMap::new();
    for number in 0..requests {
        raw.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", header(number)));
        *shares.entry(raw.response().text()).or_default() += 1;
    }
    shares
}

#[test]
fn servers_get_requests_by_their_weight() {
    let (light, heavy) = (named("light"), named("heavy"));
    let servers = [plain(&light), format!("{{ address = \"{}\", weight = 3 }}", heavy.addr())];
    let setup = |lines: &str| Setup::new().section(&upstream(&servers, lines)).route(ROUTE).start();
    let turns = shares(&setup(""), 80, |_| String::new());
    assert_eq!((turns["light"], turns["heavy"]), (20, 60));
    let random = shares(&setup("balance = \"random\""), 400, |_| String::new());
    assert!((60..140).contains(&random["light"]), "{random:?}");
    let spread = shares(&setup("balance = \"hash:header:x-tenant\""), 400, |number| {
        format!("X-Tenant: t{number}\r\n")
    });
    assert!((60..140).contains(&spread["light"]), "{spread:?}");
}

#[test]
fn a_key_stays_with_its_server_and_only_those_of_a_dead_server_move() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let gateway = gateway(&[&a, &b, &c], "balance = \"hash:header:x-tenant\"");
    let homes = || -> Vec<String> {
        let of =
            |number| shares(&gateway, 1, |_| format!("X-Tenant: t{number}\r\n")).into_keys().next().unwrap();
        (0..60).map(of).collect()
    };
    let before = homes();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "{before:?}");
    assert_eq!(homes(), before);
    drop(c);
    let after = homes();
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(before == after || before == "c" && after != "c", "t{number}: {before} to {after}");
    }
    assert_eq!(homes(), after);
}

#[test]
fn a_user_stays_with_a_server_whatever_the_token_and_nobody_goes_by_address() {
    let (a, b, issuer) = (named("a"), named("b"), Issuer::new(Algorithm::ES256));
    let route = "path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"optional\"";
    let servers = upstream(&[plain(&a), plain(&b)], "balance = \"hash:{sub}\"");
    // A database that is late would answer for the servers.
    let database = "[database]\nurl = \"sqlite://ledger.db\"\ntimeout = \"10s\"\n";
    let setup = Setup::new().issuer(&issuer).section(database).section(&servers).route(route);
    let gateway = setup.start();
    let home = |user: &str| gateway.get("/", Some(&issuer.good(user))).text();
    let homes: Vec<_> = (0..20).map(|number| home(&format!("user-{number}"))).collect();
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 2, "{homes:?}");
    let again: Vec<_> = (0..20).map(|number| home(&format!("user-{number}"))).collect();
    assert_eq!(again, homes);
    let anonymous: BTreeSet<_> = (0..10).map(|_| gateway.get("/", None).text()).collect();
    assert_eq!(anonymous.len(), 1, "all of them are of one address");
}

#[test]
fn the_less_busy_server_is_chosen() {
    let slow_or = |name| {
        Origin::answering(move |seen| match seen.target().as_str() {
            "/slow" => Answer::new(200, name).delayed(Duration::from_secs(2)),
            _ => Answer::new(200, name),
        })
    };
    let (a, b) = (slow_or("a"), slow_or("b"));
    let gateway = gateway(&[&a, &b], "balance = \"least_request\"");
    let mut slow = gateway.raw();
    slow.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let busy = eventually("one of them is busy", || match (a.requests().len(), b.requests().len()) {
        (1, 0) => Ok("a"),
        (0, 1) => Ok("b"),
        other => Err(other),
    });
    let others = shares(&gateway, 20, |_| String::new());
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(!others.contains_key(busy), "{others:?}");
    assert_eq!(slow.response().text(), busy);
    let both = shares(&gateway, 60, |_| String::new());
    assert_eq!(both.len(), 2, "it is not held against it afterwards: {both:?}");
}

/// A service that reads each request to its end and closes without a word; it says what it read.
fn silent() -> (Origin, String) {
    let origin = Origin::answering(|_| Answer { raw: Some(Vec::new()), ..Answer::ok().closing() });
    let server = plain(&origin);
    (origin, server)
}

#[test]
fn what_is_not_idempotent_is_never_sent_twice() {
    let (first, one) = silent();
    let (second, two) = silent();
    let setup = Setup::new().section(&upstream(&[one, two], "retries = 3")).route(ROUTE);
    let gateway = setup.start();
    let seen = || first.requests().len() + second.requests().len();
    for (number, method) in ["POST", "PATCH", "POST"].into_iter().enumerate() {
        let response = gateway.request(method, "/x", &[], b"body");
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_unavailable"));
        assert_eq!(seen(), number + 1);
    }
    let retries = "portcullis_upstream_retries_total{upstream=\"app\"}";
    assert_eq!(gateway.metric(retries), Some(0.0));
    // The other one is asked, and no third time.
    assert_eq!(gateway.get("/x", None).status, 502);
    assert_eq!(seen(), 5);
    assert_eq!(gateway.metric(retries), Some(1.0));
}

#[test]
fn what_is_idempotent_is_sent_to_another_server_byte_for_byte() {
    let (dying, one) = silent();
    let good = Origin::start();
    let setup =
        Setup::new().section(&upstream(&[one, plain(&good)], "eject = { failures = 0 }")).route(ROUTE);
    let gateway = setup.start();
    let body = vec![b'x'; 20_000];
    for _ in 0..4 {
        assert_eq!(gateway.request("PUT", "/x", &[], &body).status, 200);
    }
    assert_eq!((dying.requests().len(), good.requests().len()), (2, 4));
    assert!(good.requests().iter().all(|seen| seen.body == body));
    // What cannot be held is not repeated.
    let long = vec![b'x'; 300_000];
    let statuses: Vec<_> = (0..4).map(|_| gateway.request("PUT", "/x", &[], &long).status).collect();
    assert_eq!(
        (good.requests().len(), statuses.iter().filter(|it| **it == 200).count()),
        (6, 2),
        "{statuses:?}"
    );
}

#[test]
fn a_body_that_is_sent_again_counts_once_towards_the_limit() {
    let (_dying, one) = silent();
    let good = Origin::start();
    let setup = Setup::new()
        .server("limits = { body_bytes = \"30KiB\" }")
        .section(&upstream(&[one, plain(&good)], "eject = { failures = 0 }"))
        .route(ROUTE);
    let gateway = setup.start();
    for _ in 0..4 {
        assert_eq!(gateway.request("PUT", "/x", &[], &[b'x'; 25_000]).status, 200);
    }
}

#[test]
fn a_server_that_takes_too_long_is_not_followed_by_another() {
    let slow = || Origin::answering(|_| Answer::ok().delayed(Duration::from_secs(1)));
    let (a, b) = (slow(), slow());
    let gateway = gateway(&[&a, &b], "timeouts = { read = \"100ms\" }\nretries = 3");
    let response = gateway.get("/", None);
    assert_eq!((response.status, response.reason().as_str()), (504, "upstream_timeout"));
    // A busy machine may let the service read later than the client is answered.
    let asked = || a.requests().len() + b.requests().len();
    eventually("one was asked", || if asked() == 0 { Err(()) } else { Ok(()) });
    assert_eq!(asked(), 1);
}

#[test]
fn a_connection_that_was_closed_while_it_was_kept_is_replaced_whatever_the_retries() {
    let origin = Origin::start();
    let gateway = gateway(&[&origin], "retries = 0");
    let mut raw = gateway.raw();
    for _ in 0..5 {
        raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(raw.response().status, 200);
        origin.answer(|_| Answer::ok().closing());
    }
    // Answers that say so are not the case: this one closes after the next request has been read.
    let count = Arc::new(AtomicUsize::new(0));
    origin.answer(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        1 => Answer { raw: Some(Vec::new()), ..Answer::ok().closing() },
        _ => Answer::ok(),
    });
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(raw.response().status, 200);
    }
}

/// A service that answers with this head and part of a body, and with another part when told so.
fn pausing(head: &str) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("\"{}\"", listener.local_addr().unwrap());
    let head = format!("HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    let go_on = Arc::new(AtomicBool::new(false));
    let told = go_on.clone();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (head, told) = (head.clone(), told.clone());
            std::thread::spawn(move || {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    match stream.read(&mut byte) {
                        Ok(1) => request.extend(byte),
                        _ => return,
                    }
                }
                stream.write_all(head.as_bytes()).unwrap_or_default();
                while !told.load(Ordering::SeqCst) {
                    pause(Duration::from_millis(5));
                }
                // The gateway may have gone.
                stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap_or_default();
            });
        }
    });
    (server, go_on)
}

/// Reads up to a text.
fn up_to(raw: &mut Raw, end: &str) -> Result<String, String> {
    let mut seen = String::new();
    while !seen.contains(end) {
        match raw.try_bytes(1) {
            Ok(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Err(rest) => return Err(seen + &String::from_utf8_lossy(&rest)),
        }
    }
    Ok(seen)
}

#[test]
fn events_may_pause_for_longer_than_an_answer_may() {
    let (server, go_on) = pausing("Content-Type: text/event-stream\r\n");
    let lines = "timeouts = { read = \"1s\" }";
    let gateway = Setup::new()
        .server("limits = { idle_timeout = \"1s\" }")
        .section(&upstream(&[server], lines))
        .route(ROUTE)
        .start();
    let ask = |accept: &str| {
        let mut raw = gateway.raw();
        raw.send(format!("GET /events HTTP/1.1\r\nHost: a.test\r\n{accept}\r\n"));
        up_to(&mut raw, "first").unwrap();
        raw
    };
    // Whoever does not say that he wants events is answered by the clock, and so is shown what the other's is not.
    let mut hasty = ask("");
    let mut patient = ask("Accept: text/html, Text/Event-Stream;q=0.9\r\n");
    assert!(up_to(&mut hasty, "second").is_err(), "it was cut");
    // Once more than the other one had, and longer than clients may be idle.
    assert!(!(0..15).any(|_| patient.is_closed()));
    go_on.store(true, Ordering::SeqCst);
    assert!(up_to(&mut patient, "0\r\n\r\n").unwrap().contains("second"));
}

#[test]
fn a_stream_has_a_time_out_of_its_own_and_a_route_may_be_more_patient_than_its_upstream() {
    let origin = Origin::answering(|seen| match seen.target().as_str() {
        "/ws" => Answer::switch_to_websocket(),
        _ => Answer::ok().delayed(Duration::from_millis(600)),
    });
    let lines = "timeouts = { read = \"100ms\", stream = \"1s\" }";
    let patient = "path = \"/patient\"\nupstream = \"app\"\nauth = \"public\"\ntimeouts = { read = \"10s\" }";
    let setup = Setup::new().section(&upstream(&[plain(&origin)], lines)).route(ROUTE).route(patient);
    let gateway = setup.start();
    assert_eq!(gateway.get("/x", None).status, 504);
    assert_eq!(gateway.get("/patient", None).status, 200);
    let mut socket = gateway.raw();
    socket.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(socket.response().status, 101);
    socket.rest_until_closed();
}

#[test]
fn a_name_is_looked_up_and_all_its_addresses_are_used() {
    let origin = Origin::start();
    let servers = [format!("\"localhost:{}\"", origin.addr().port())];
    let gateway = Setup::new().section(&upstream(&servers, "")).route(ROUTE).start();
    for _ in 0..6 {
        assert_eq!(gateway.get("/", None).status, 200);
    }
    let nowhere = ["\"nowhere.invalid:80\"".to_owned(), plain(&origin)];
    let half = Setup::new().section(&upstream(&nowhere, "")).route(ROUTE).start();
    for _ in 0..4 {
        assert_eq!(half.get("/", None).status, 200);
    }
    assert!(half.log().contains("Name not resolved"));
    let series = "portcullis_upstream_healthy{server=\"nowhere.invalid:80\",upstream=\"app\"}";
    assert_eq!(half.metric(series), Some(0.0));
    let none = Setup::new().section(&upstream(&nowhere[..1], "")).route(ROUTE).start();
    assert_eq!(none.get("/", None).reason(), "upstream_unavailable");
}

#[test]
fn a_reload_keeps_what_is_known_of_an_upstream_and_forgets_the_series_of_those_that_are_gone() {
    let good = Origin::start();
    let dead = format!("127.0.0.1:{}", free_port());
    let gone = format!("[[upstreams]]\nname = \"gone\"\nservers = [{}]\n", plain(&good));
    let lines = "eject = { failures = 2, time = \"1h\", max_time = \"1h\" }";
    let kept = upstream(&[plain(&good), format!("\"{dead}\"")], lines);
    let other = "path = \"/other\"\nupstream = \"gone\"\nauth = \"public\"";
    let setup = Setup::new().section(&kept).route(ROUTE);
    let gateway = setup.start();
    reload(&gateway, &Setup::new().section(&kept).section(&gone).route(ROUTE).route(other).toml());
    let of_gone = format!("portcullis_upstream_healthy{{server=\"{}\",upstream=\"gone\"}}", good.addr());
    eventually("the second upstream", || gateway.metric(&of_gone).ok_or(()));
    for _ in 0..8 {
        assert_eq!(gateway.get("/", None).status, 200);
    }
    let of_dead = format!("portcullis_upstream_healthy{{server=\"{dead}\",upstream=\"app\"}}");
    assert_eq!(gateway.metric(&of_dead), Some(0.0), "it was ejected");
    reload(&gateway, &setup.toml());
    eventually("the second upstream is gone", || match gateway.metric(&of_gone) {
        None => Ok(()),
        Some(value) => Err(value),
    });
    assert_eq!(gateway.metric(&of_dead), Some(0.0), "and still is");
}

#[test]
fn no_more_unused_connections_are_kept_than_allowed() {
    let origin = Origin::answering(|_| Answer::ok().delayed(Duration::from_millis(300)));
    let setup =
        Setup::new().server("limits = { idle_upstreams = 2 }").section(&upstream(&[plain(&origin)], ""));
    let gateway = setup.route(ROUTE).start();
    let mut clients: Vec<_> = (0..5).map(|_| gateway.raw()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(origin.connections(), 5);
    eventually("two are kept", || match origin.open() {
        2 => Ok(()),
        open => Err(open),
    });
}
