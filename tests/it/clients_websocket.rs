//! WebSockets of a real library, directly, behind nginx and behind Portcullis; and the moment in which they open.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::python::{self, Script};
use crate::support::raw::Raw;
use crate::support::scripted::Scripted;

const WEBSOCKETS: &str = include_str!("support/websocket.py");

const HANDSHAKE: &str = "Host: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn gateway(issuer: &Issuer, service: SocketAddr) -> Gateway {
    Setup::new()
        .issuer(issuer)
        .section(&format!("[[upstreams]]\nname = \"app\"\nservers = [\"{service}\"]\n"))
        .route("path = \"/{*rest}\"\nupstream = \"app\"")
        .start()
}

#[test]
fn conversations_of_a_real_library_are_the_same_everywhere() {
    let issuer = Issuer::new(Algorithm::ES256);
    let service = Script::start(WEBSOCKETS, &["serve"]);
    let port = eventually("the service listens", || {
        let said = service.said();
        said.iter().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).ok_or(said)
    });
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (nginx, gateway) = (Nginx::before(address, None), gateway(&issuer, address));
    let token = issuer.good("alice");
    let mut known = 1;
    let mut talk = |address: SocketAddr| {
        let arguments = ["-c", WEBSOCKETS, "talk", &address.to_string(), &token];
        let output = Command::new(python::program()).args(arguments).output().unwrap();
        let heard = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{heard}{}", String::from_utf8_lossy(&output.stderr));
        // What the service saw: three conversations, each opened and closed.
        let seen = eventually("the service has seen all of it", || {
            let said = service.said();
            if said.len() == known + 6 {
                Ok(said[known..].iter().cloned().collect::<BTreeSet<_>>())
            } else {
                Err(said)
            }
        });
        known += 6;
        (heard, seen)
    };
    let directly = talk(address);
    assert!(directly.0.contains("closed by it 4001 as you wish"), "{}", directly.0);
    assert!(directly.0.contains("open chat.v2 ['permessage-deflate'] welcome"), "{}", directly.0);
    assert_eq!(talk(nginx.addr()), directly, "nginx");
    assert_eq!(talk(gateway.addr()), directly, "Portcullis");
}

#[test]
fn a_websocket_stays_open_whose_service_speaks_at_once() {
    let issuer = Issuer::new(Algorithm::ES256);
    let service = Scripted::start(|talk, _| {
        talk.say("HTTP/1.1 101 Go on\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        while let Some(piece) = talk.piece() {
            talk.say(piece);
        }
        false
    });
    let gateway = gateway(&issuer, service.addr());
    let handshake =
        format!("GET /ws HTTP/1.1\r\nAuthorization: Bearer {}\r\n{HANDSHAKE}", issuer.good("alice"));
    let calm = AtomicBool::new(false);
    thread::scope(|scope| {
        // Two threads that do nothing but work, so that others are interrupted where it hurts.
        for _ in 0..2 {
            scope.spawn(|| {
                while !calm.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for number in 0..500 {
                        let mut raw = Raw::connect(gateway.addr());
                        assert_eq!(raw.send(&handshake).response().status, 101);
                        raw.send("ping");
                        let heard = raw.try_bytes(9);
                        assert_eq!(heard.as_deref(), Ok(&b"helloping"[..]), "conversation {number}");
                    }
                })
            })
            .collect();
        let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
        calm.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "clients whose WebSocket was closed as it opened");
    });
}

#[test]
fn a_service_that_will_not_switch_answers_as_ever_and_the_connection_goes_on() {
    let issuer = Issuer::new(Algorithm::ES256);
    let service = Scripted::start(|talk, seen| {
        talk.body(seen);
        talk.say("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 3\r\n\r\nno!")
    });
    let gateway = gateway(&issuer, service.addr());
    let token = issuer.good("alice");
    let mut raw = gateway.raw();
    for _ in 0..3 {
        raw.send(format!("GET /ws HTTP/1.1\r\nAuthorization: Bearer {token}\r\n{HANDSHAKE}"));
        let refused = raw.response();
        assert_eq!((refused.status, refused.text().as_str()), (426, "no!"));
        raw.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"));
        assert_eq!(raw.response().status, 426);
    }
}
