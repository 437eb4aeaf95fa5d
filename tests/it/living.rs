//! Starting, changing while running, and ending.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::support::gateway::{BINARY, Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::{self, Raw};
use crate::support::reloads::{APPLIED, REFUSED, counted, reload};
use crate::support::{eventually, leaks, unique};

#[test]
fn a_reload_brings_routes_upstreams_and_issuers_and_no_connection_is_lost() {
    let (one, two) = (Origin::start(), Origin::answering(|_| Answer::new(200, "two")));
    let (old, new) = (Issuer::new(Algorithm::ES256), Issuer::new(Algorithm::EdDSA));
    let gateway = Gateway::guarding(&old, &one).start();
    let (of_old, of_new) = (old.good("alice"), new.good("bob"));
    let mut kept = gateway.raw();
    let mut ask = |path: &str, token: &str| {
        kept.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"));
        let response = kept.response();
        (response.status, response.text())
    };
    assert_eq!(ask("/x", &of_old), (200, "ok".to_owned()));
    assert_eq!(ask("/x", &of_new).0, 401);
    gateway.ban("mallory");

    reload(
        &gateway,
        &Gateway::guarding(&new, &two)
            .route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"")
            .toml(),
    );
    assert_eq!(ask("/x", &of_new), (200, "two".to_owned()), "on the same connection");
    assert_eq!(ask("/x", &of_old).0, 401, "an issuer that is gone is believed no more, from no cache either");
    assert_eq!(ask("/open", ""), (200, "two".to_owned()));
    assert_eq!(gateway.get("/x", Some(&new.good("mallory"))).reason(), "user_banned", "the ledger stays");

    reload(&gateway, &Gateway::guarding(&old, &one).toml());
    assert_eq!(ask("/x", &of_old), (200, "ok".to_owned()));
    assert_eq!(gateway.get("/open", None).status, 401);
}

#[test]
fn the_control_token_can_be_changed_by_a_reload() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Gateway::guarding(&issuer, &origin);
    let gateway = setup.start();
    let next = unique("control-");
    leaks::secret(&next);
    std::fs::write(gateway.directory().join("next.token"), &next).unwrap();
    reload(&gateway, &setup.toml().replace("admin.token", "next.token"));
    assert_eq!(gateway.control("GET", "/v1/stats", &Value::Null).status, 401, "the old one");
    let bearer = format!("Authorization: Bearer {next}");
    assert_eq!(raw::request(gateway.admin_addr(), "GET", "/v1/stats", &[&bearer], b"").status, 200);
}

#[test]
fn a_reload_reads_keys_opens_the_ledger_and_the_audit_file_anew() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let next = Issuer::new(Algorithm::ES256);
    let keys = issuer.config_with(&format!("jwks_file = \"{}\"", issuer.jwks_file().display()));
    let setup =
        Setup::new().section(&keys).upstream("app", &origin).route("path = \"/{*rest}\"\nupstream = \"app\"");
    let gateway = setup.start();
    gateway.ban("mallory");
    let (of_old, of_new) = (
        issuer.good("alice"),
        next.sign(&serde_json::json!({ "alg": "ES256", "kid": next.kid }), &issuer.claims("alice")),
    );
    assert_eq!(gateway.get("/x", Some(&of_old)).status, 200);
    assert_eq!(gateway.get("/x", Some(&of_new)).status, 401);

    std::fs::rename(gateway.directory().join("audit.jsonl"), gateway.directory().join("audit.1")).unwrap();
    std::fs::write(issuer.jwks_file(), next.jwks().to_string()).unwrap();
    reload(&gateway, &setup.toml());
    assert_eq!(gateway.get("/x", Some(&of_old)).reason(), "token_signature", "its key is gone");
    assert_eq!(gateway.get("/x", Some(&of_new)).status, 200);
    gateway.logout("bob");
    assert_eq!(gateway.audit().lines().count(), 1, "the file was rotated");

    // Other settings of the ledger make it anew, over the same database.
    std::fs::write(issuer.jwks_file(), issuer.jwks().to_string()).unwrap();
    reload(&gateway, &setup.section("[ledger]\npresets = [\"native\", \"token-blacklist\"]").toml());
    assert_eq!(gateway.get("/x", Some(&issuer.good("mallory"))).reason(), "user_banned");
    assert_eq!(gateway.get("/x", Some(&of_old)).status, 200);
    gateway.activate("mallory");
    assert_eq!(gateway.get("/x", Some(&issuer.good("mallory"))).status, 200);
    assert_eq!(gateway.ready().0, 200);
}

#[test]
fn no_request_is_lost_while_configurations_come_and_go() {
    let (one, two) = (Origin::start(), Origin::start());
    let issuer = Issuer::new(Algorithm::ES256);
    let gateway = Gateway::guarding(&issuer, &one).start();
    let tomls = [Gateway::guarding(&issuer, &two).toml(), Gateway::guarding(&issuer, &one).toml()];
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..3 {
            let (gateway, done, served) = (&gateway, &done, &served);
            let token = issuer.good("alice");
            scope.spawn(move || {
                let mut kept = gateway.raw();
                while !done.load(Ordering::SeqCst) {
                    // One keeps its connection, the others take a new one each time.
                    if client == 0 {
                        kept.send(format!(
                            "GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"
                        ));
                        assert_eq!(kept.response().status, 200);
                    } else {
                        assert_eq!(gateway.get("/x", Some(&token)).status, 200);
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..6 {
            let before = served.load(Ordering::SeqCst);
            reload(&gateway, &tomls[round % 2]);
            eventually("requests go on", || match served.load(Ordering::SeqCst) - before {
                more if more > 20 => Ok(()),
                few => Err(few),
            });
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(!one.requests().is_empty() && !two.requests().is_empty());
    assert_eq!(one.requests().len() + two.requests().len(), served.load(Ordering::SeqCst));
}

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_the_old_one_serves_on() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Gateway::guarding(&issuer, &origin);
    let gateway = setup.start();
    let good = setup.toml();
    let line = good.lines().count() + 1;
    for (number, bad) in ["[[[", "[serverr]", "[redis]\nurl = 7"].iter().enumerate() {
        gateway.rewrite_config(&format!("{good}{bad}\n"));
        gateway.signal("HUP");
        counted(&gateway, REFUSED, number as f64 + 1.0);
        assert_eq!(gateway.get("/x", Some(&issuer.good("alice"))).status, 200, "{bad}");
    }
    let log = gateway.log();
    assert!(log.contains(&format!("gateway.toml:{line}:")) && log.contains("did you mean"), "{log}");
    assert_eq!(gateway.metric(APPLIED), Some(0.0));
    assert_eq!(gateway.ready().0, 200);
    std::fs::remove_file(gateway.directory().join("gateway.toml")).unwrap();
    gateway.signal("HUP");
    counted(&gateway, REFUSED, 4.0);
    reload(&gateway, &good);
}

#[test]
fn a_changed_file_is_noticed_without_a_signal() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Gateway::guarding(&issuer, &origin);
    let gateway = setup.start();
    assert_eq!(gateway.get("/open", None).status, 401);
    gateway.rewrite_config(&setup.route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"").toml());
    counted(&gateway, APPLIED, 1.0);
    assert_eq!(gateway.get("/open", None).status, 200);
}

#[test]
fn sigterm_lets_running_requests_end_and_takes_no_new_ones() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).start();
    origin.answer(|_| Answer::new(200, "in the end").delayed(Duration::from_secs(3)));
    let mut idle = gateway.raw();
    let mut running = gateway.raw();
    running.send(format!(
        "POST /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\n\r\nhi",
        issuer.good("alice")
    ));
    eventually("the request has reached the service", || match origin.requests().len() {
        1 => Ok(()),
        count => Err(count),
    });
    gateway.signal("TERM");
    eventually("the gateway says that it drains", || match gateway.ready() {
        (503, said) if said.contains("not_ready") => Ok(()),
        other => Err(other),
    });
    eventually("new connections are refused", || match TcpStream::connect(gateway.addr()) {
        Err(_) => Ok(()),
        Ok(_) => Err("accepted"),
    });
    let response = running.response();
    assert_eq!((response.status, response.text().as_str()), (200, "in the end"));
    running.assert_closed();
    idle.assert_closed();
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let log = gateway.log_lines();
    assert!(log.iter().any(|line| line["target"] == "access" && line["status"] == 200), "{}", gateway.log());
    assert!(log.iter().any(|line| line["message"] == "Drained"), "{}", gateway.log());
}

#[test]
fn what_outlasts_the_drain_is_cut_at_its_deadline() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).server("drain = \"300ms\"").start();
    origin.answer(|_| Answer::switch_to_websocket());
    let mut stream = gateway.raw();
    stream.send(format!(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        issuer.good("alice")
    ));
    assert_eq!(stream.response().status, 101);
    let begun = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let took = begun.elapsed();
    assert!(
        Duration::from_millis(300) <= took && took < Duration::from_secs(25),
        "of 30 s by default: {took:?}"
    );
    stream.rest_until_closed();
    assert!(gateway.log().contains("Deadline passed"), "{}", gateway.log());
}

#[test]
fn a_signal_in_the_first_moment_is_an_order_too() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Gateway::guarding(&issuer, &origin);
    for signal in ["TERM", "INT"] {
        let mut gateway = Gateway::start_unready(&setup.toml());
        gateway.signal("HUP");
        gateway.signal(signal);
        assert_eq!(gateway.wait_exit().code(), Some(0), "{signal}");
    }
}

#[test]
fn told_twice_a_gateway_ends_at_once() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).server("drain = \"1h\"").start();
    origin.answer(|_| Answer::ok().delayed(Duration::from_secs(3)));
    let mut running = gateway.raw();
    running.send(format!(
        "GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\n\r\n",
        issuer.good("alice")
    ));
    eventually("the request has reached the service", || match origin.requests().len() {
        1 => Ok(()),
        count => Err(count),
    });
    gateway.signal("TERM");
    eventually("it drains", || if gateway.ready().0 == 503 { Ok(()) } else { Err("ready") });
    gateway.signal("INT");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(gateway.log().contains("Told again"), "{}", gateway.log());
    running.assert_closed();
}

#[test]
fn an_address_that_is_taken_is_one_clear_line_and_2() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let origin = Origin::start();
    let toml = Setup::new()
        .upstream("app", &origin)
        .route("path = \"/\"\nupstream = \"app\"\nauth = \"public\"")
        .toml();
    for (key, listen) in
        [("server.listen", "listen = [\"127.0.0.1:0\"]"), ("admin.listen", "listen = \"127.0.0.1:0\"")]
    {
        let output =
            Gateway::fails(&toml.replace(listen, &listen.replace("127.0.0.1:0", &address.to_string())));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&address.to_string()) && said.contains(key), "{said}");
    }
}

#[test]
fn a_bad_configuration_starts_nothing_and_ends_with_1_and_an_unreadable_one_with_2() {
    let origin = Origin::start();
    let toml = Setup::new().upstream("app", &origin).toml();
    let output = Gateway::fails(&toml.replace(Setup::threads(), "threads = -2\nnonsense = 1"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["gateway.toml:3:11: ", "gateway.toml:4:1: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = Gateway::fails(&toml.replace("admin.token", "none.token"));
    assert_eq!(output.status.code(), Some(1), "a secret that cannot be read is a problem with its place");
    let directory = tempfile::tempdir().unwrap();
    for file in ["none.toml", "."] {
        let output =
            std::process::Command::new(BINARY).args(["-c", file]).current_dir(&directory).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("cannot be read"));
    }
    std::fs::write(directory.path().join("bytes.toml"), [0xff, 0xfe, 0]).unwrap();
    let output = std::process::Command::new(BINARY)
        .args(["-c", "bytes.toml"])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
}

#[test]
fn a_control_call_that_runs_while_the_gateway_ends_is_answered() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let mut gateway = Gateway::guarding(&issuer, &origin).start();
    let bearer = format!("Authorization: Bearer {}", gateway.admin_token());
    let mut call = Raw::connect(gateway.admin_addr());
    call.send(format!(
        "POST /v1/users/alice/logout HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\nContent-Length: 2\r\n"
    ));
    gateway.signal("TERM");
    call.send("Content-Type: application/json\r\n\r\n{}");
    if let Ok(response) = call.try_response() {
        assert_eq!(response.status, 200);
        assert!(gateway.audit().contains("user.logout"));
    }
    assert_eq!(gateway.wait_exit().code(), Some(0));
}
