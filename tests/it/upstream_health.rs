//! Servers that are not well: found by asking them, or by what they do to requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Answer, Origin};
use crate::support::{eventually, free_port};

const ROUTE: &str = "path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"";

fn gateway(servers: &[String], lines: &str) -> Gateway {
    let servers = servers.iter().map(|server| format!("\"{server}\"")).collect::<Vec<_>>().join(", ");
    let upstream = format!("[[upstreams]]\nname = \"app\"\nservers = [{servers}]\n{lines}\n");
    Setup::new().section(&upstream).route(ROUTE).start()
}

fn of(family: &str, server: &str) -> String {
    format!("portcullis_upstream_{family}{{server=\"{server}\",upstream=\"app\"}}")
}

fn becomes(gateway: &Gateway, series: &str, wanted: f64) {
    eventually(&format!("{series} becomes {wanted}"), || match gateway.metric(series) {
        Some(value) if value == wanted => Ok(()),
        other => Err(other),
    });
}

/// A server whose `/healthz` answers with a status that can be changed.
struct Patient {
    origin: Origin,
    health: Arc<AtomicU16>,
}

impl Patient {
    fn new() -> Self {
        let health = Arc::new(AtomicU16::new(204));
        let answer = health.clone();
        let origin = Origin::answering(move |seen| match seen.target().as_str() {
            "/healthz?deep=1" => Answer::new(answer.load(Ordering::SeqCst), ""),
            _ => Answer::ok(),
        });
        Self { origin, health }
    }

    fn addr(&self) -> String {
        self.origin.addr().to_string()
    }

    fn is(&self, status: u16) {
        self.health.store(status, Ordering::SeqCst);
    }

    fn requests(&self) -> usize {
        self.origin.requests().iter().filter(|seen| seen.target() == "/x").count()
    }
}

const HEALTH: &str = "health = { path = \"/healthz?deep=1\", interval = \"100ms\", unhealthy_after = 2, healthy_after = 2, host = \"app.test\" }";

#[test]
fn a_server_that_is_not_well_gets_no_requests_until_it_is_again() {
    let (a, b) = (Patient::new(), Patient::new());
    let gateway = gateway(&[a.addr(), b.addr()], HEALTH);
    let healthy = of("healthy", &a.addr());
    assert_eq!(gateway.metric(&healthy), Some(1.0));
    a.is(503);
    becomes(&gateway, &healthy, 0.0);
    let before = a.requests();
    for _ in 0..10 {
        assert_eq!(gateway.get("/x", None).status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (before, 10));
    assert!(gateway.log().contains("Server is not well") && gateway.log().contains("answered 503"));
    a.is(302);
    becomes(&gateway, &healthy, 1.0);
    for _ in 0..10 {
        assert_eq!(gateway.get("/x", None).status, 200);
    }
    assert_eq!(a.requests(), before + 5);
    let probe = a.origin.requests().into_iter().find(|seen| seen.target() == "/healthz?deep=1").unwrap();
    assert_eq!(
        (probe.line().as_str(), probe.values("host")),
        ("GET /healthz?deep=1 HTTP/1.1", vec!["app.test".to_owned()])
    );
}

#[test]
fn where_no_server_is_well_the_answer_is_502_and_none_is_asked() {
    let (a, b) = (Patient::new(), Patient::new());
    let gateway = gateway(&[a.addr(), b.addr()], HEALTH);
    for patient in [&a, &b] {
        patient.is(500);
    }
    for patient in [&a, &b] {
        becomes(&gateway, &of("healthy", &patient.addr()), 0.0);
    }
    let response = gateway.request("POST", "/x", &[], b"body");
    assert_eq!((response.status, response.reason().as_str()), (502, "upstream_unavailable"));
    assert_eq!(a.requests() + b.requests(), 0);
    assert!(gateway.log().contains("no server is well"));
    b.is(200);
    becomes(&gateway, &of("healthy", &b.addr()), 1.0);
    assert_eq!(gateway.get("/x", None).status, 200);
}

#[test]
fn what_is_expected_of_a_probe_can_be_said_and_a_late_answer_is_none() {
    let (a, b) = (Patient::new(), Patient::new());
    let health = "health = { path = \"/healthz?deep=1\", interval = \"100ms\", expect = [\"204\", \"4xx\"], timeout = \"1s\" }";
    b.is(200);
    let gateway = gateway(&[a.addr(), b.addr()], health);
    becomes(&gateway, &of("healthy", &b.addr()), 0.0);
    a.is(404);
    b.is(400);
    becomes(&gateway, &of("healthy", &b.addr()), 1.0);
    assert_eq!(gateway.metric(&of("healthy", &a.addr())), Some(1.0));
    a.origin.answer(|_| Answer::ok().delayed(Duration::from_secs(2)));
    becomes(&gateway, &of("healthy", &a.addr()), 0.0);
    assert!(gateway.log().contains("no answer in time"));
}

#[test]
fn a_connection_can_be_enough() {
    let (a, b) = (Origin::start(), Origin::start());
    let health = "health = { tcp = true, interval = \"100ms\", unhealthy_after = 1 }";
    let dead = format!("127.0.0.1:{}", free_port());
    let gateway = gateway(&[a.addr().to_string(), b.addr().to_string(), dead.clone()], health);
    becomes(&gateway, &of("healthy", &dead), 0.0);
    let gone = of("healthy", &b.addr().to_string());
    assert_eq!(gateway.metric(&gone), Some(1.0));
    drop(b);
    becomes(&gateway, &gone, 0.0);
    assert!(a.requests().is_empty(), "a probe that only connects says nothing");
    assert_eq!(gateway.get("/x", None).status, 200);
}

/// Reads requests and closes without a word.
fn silent() -> Answer {
    Answer { raw: Some(Vec::new()), ..Answer::ok().closing() }
}

#[test]
fn a_server_that_fails_request_after_request_is_left_alone_for_a_while_and_comes_back() {
    let (good, bad) = (Origin::start(), Origin::answering(|_| silent()));
    let servers = [good.addr().to_string(), bad.addr().to_string()];
    let gateway = gateway(&servers, "eject = { failures = 3, time = \"2s\" }");
    let statuses: Vec<u16> = (0..6).map(|_| gateway.request("POST", "/x", &[], b"b").status).collect();
    assert_eq!(statuses.iter().filter(|it| **it == 502).count(), 3, "{statuses:?}");
    let out = |family: &str| gateway.metric(&of(family, &servers[1]));
    assert_eq!(
        (out("ejections_total"), out("failures_total"), out("healthy")),
        (Some(1.0), Some(3.0), Some(0.0))
    );
    bad.answer(|_| Answer::ok());
    for _ in 0..6 {
        assert_eq!(gateway.request("POST", "/x", &[], b"b").status, 200);
    }
    becomes(&gateway, &of("healthy", &servers[1]), 1.0);
    let before = bad.requests().len();
    for _ in 0..4 {
        assert_eq!(gateway.request("POST", "/x", &[], b"b").status, 200);
    }
    assert_eq!(bad.requests().len(), before + 2);
    assert!(
        gateway.log().contains("Server ejected") && gateway.log().contains("Ejected server is used again")
    );
}

#[test]
fn a_dead_server_is_ejected_without_a_client_hearing_of_it_and_the_last_one_never_is() {
    let (good, dead) = (Origin::start(), format!("127.0.0.1:{}", free_port()));
    let servers = [good.addr().to_string(), dead.clone()];
    let gateway =
        gateway(&servers, "eject = { failures = 2, time = \"1h\", max_time = \"1h\", max_share = 1.0 }");
    for _ in 0..10 {
        assert_eq!(gateway.request("POST", "/x", &[], b"b").status, 200);
    }
    assert_eq!(gateway.metric("portcullis_upstream_retries_total{upstream=\"app\"}"), Some(2.0));
    good.answer(|_| silent());
    let statuses: Vec<u16> = (0..4).map(|_| gateway.request("POST", "/x", &[], b"b").status).collect();
    assert_eq!(statuses, [502; 4]);
    assert_eq!(gateway.metric(&of("ejections_total", &servers[0])), Some(0.0));
    good.answer(|_| Answer::ok());
    assert_eq!(gateway.request("POST", "/x", &[], b"b").status, 200);
}

#[test]
fn an_answer_is_no_failure_whatever_it_says_unless_it_is_listed() {
    let (a, b) = (Origin::answering(|_| Answer::new(503, "")), Origin::start());
    let servers = [a.addr().to_string(), b.addr().to_string()];
    let forgiving = gateway(&servers, "eject = { failures = 2 }");
    let strict = gateway(&servers, "eject = { failures = 2, statuses = [503] }");
    for gateway in [&forgiving, &strict] {
        (0..8).for_each(|_| drop(gateway.get("/x", None)));
    }
    let ejections = |gateway: &Gateway| gateway.metric(&of("ejections_total", &servers[0]));
    assert_eq!((ejections(&forgiving), ejections(&strict)), (Some(0.0), Some(1.0)));
}
