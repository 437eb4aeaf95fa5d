//! The end, as load balancers and clients see it: not ready, then closed, and nothing lost in between.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::issuer::Issuer;
use crate::support::load::{Load, Target};
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};

fn not_ready(gateway: &Gateway) {
    eventually("readiness turns false", || match gateway.ready() {
        (503, said) if said.contains("not_ready") => Ok(()),
        other => Err(other),
    });
}

#[test]
fn sigterm_under_load_loses_no_request_of_clients_that_do_as_they_are_told() {
    let (origin, issuer, shelf) = (Origin::start(), Issuer::new(Algorithm::ES256), Shelf::new());
    shelf.put("a", &Authority::new().server(&["a.test"]));
    let tls = shelf.listener(&[shelf.entry("a", &["a.test"])], "");
    for delay in ["0s", "700ms"] {
        let setup = Gateway::guarding(&issuer, &origin)
            .server(&format!("shutdown_delay = \"{delay}\""))
            .section(&tls);
        let mut gateway = setup.start();
        let load = Load::on(&Target {
            plain: gateway.addr(),
            tls: Some((gateway.tls_addr(), "a.test")),
            token: issuer.good("alice"),
            ends: true,
        });
        load.goes_on(60);
        gateway.signal("TERM");
        assert_eq!(gateway.wait_exit().code(), Some(0));
        let (answered, told) = load.end();
        assert!(
            answered > 60 && told == 3,
            "{delay}: {answered} answers, {told} kept connections were told to go"
        );
        assert!(gateway.log_lines().iter().any(|line| line["message"] == "Drained"), "{}", gateway.log());
    }
}

#[test]
fn readiness_turns_false_before_anything_closes() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).server("shutdown_delay = \"3s\"").start();
    let token = issuer.good("alice");
    let mut kept = gateway.raw();
    let mut ask = || {
        kept.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"))
            .response()
    };
    assert_eq!(ask().status, 200);
    let told = Instant::now();
    gateway.signal("TERM");
    not_ready(&gateway);
    let (new, kept) = (gateway.get("/x", Some(&token)), ask());
    let health = crate::support::raw::get(gateway.admin_addr(), "/healthz", None).status;
    if told.elapsed() < Duration::from_millis(2500) {
        assert_eq!((new.status, kept.status, health), (200, 200, 200));
        assert_ne!(kept.header("connection"), Some("close"));
    }
    eventually("new connections are refused", || match TcpStream::connect(gateway.addr()) {
        Err(_) => Ok(()),
        Ok(_) => Err("accepted"),
    });
    assert!(told.elapsed() >= Duration::from_secs(3));
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn told_twice_a_gateway_that_only_waits_for_load_balancers_ends_at_once() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).server("shutdown_delay = \"1h\"").start();
    gateway.signal("TERM");
    not_ready(&gateway);
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(gateway.log().contains("Told again"), "{}", gateway.log());
}

#[test]
fn a_connection_that_was_waited_on_since_before_hears_with_its_next_answer_that_it_ends() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).start();
    let token = issuer.good("alice");
    let request = format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut kept = gateway.raw();
    assert_eq!(kept.send(&request).response().status, 200);
    // Keeps the gateway from ending before the question is asked.
    origin.answer(|seen| match seen.target().as_str() {
        "/slow" => Answer::ok().delayed(Duration::from_secs(3)),
        _ => Answer::ok(),
    });
    let mut slow = gateway.raw();
    slow.send(request.replace("/x", "/slow"));
    eventually("the request has reached the service", || match origin.requests().len() {
        2 => Ok(()),
        count => Err(count),
    });
    gateway.signal("TERM");
    not_ready(&gateway);
    eventually("new connections are refused", || match TcpStream::connect(gateway.addr()) {
        Err(_) => Ok(()),
        Ok(_) => Err("accepted"),
    });
    // Idle ones are closed after a second; a machine that is slower than that shows nothing here.
    if let Ok(response) = kept.send(&request).try_response() {
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    }
    kept.wait_closed();
    assert_eq!(slow.response().status, 200);
    assert_eq!(gateway.wait_exit().code(), Some(0));
}
