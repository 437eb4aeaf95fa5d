//! How many connections there may be: in all, of one address, and as far as file descriptors go. Whoever is let in is served,
//! and the control listener always answers.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use jsonwebtoken::Algorithm;
use tokio::net::TcpSocket;

use crate::http2::Scene;
use crate::ledger_common::metric;
use crate::support::gateway::{Gateway, Setup};
use crate::support::https::Client;
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{DEADLINE, eventually};

const FULL: &str = "portcullis_connections_refused_total{reason=\"connections\"}";
const OF_ADDRESS: &str = "portcullis_connections_refused_total{reason=\"address\"}";
const DESCRIPTORS: &str = "portcullis_connections_refused_total{reason=\"descriptors\"}";

fn public(origin: &Origin) -> Setup {
    Setup::new()
        .upstream("app", origin)
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
}

/// A request on a kept connection; `None` where the connection was closed instead.
fn served(raw: &mut Raw) -> Option<u16> {
    raw.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    raw.try_response().ok().map(|response| response.status)
}

/// A connection from another address of this machine.
fn from(local: &str, to: SocketAddr) -> Raw {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(local.parse().unwrap(), 0)).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    Raw::over(Box::new(stream))
}

#[test]
fn one_too_many_is_closed_at_once_and_a_place_that_falls_free_is_given_away() {
    let origin = Origin::start();
    let gateway = public(&origin).server("limits = { connections = 8 }").start();
    let mut kept: Vec<_> = (0..8).map(|_| gateway.raw()).collect();
    assert!(kept.iter_mut().all(|raw| served(raw) == Some(200)));
    for _ in 0..5 {
        let mut refused = TcpStream::connect(gateway.addr()).unwrap();
        refused.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(refused.read(&mut [0; 16]).unwrap_or(0), 0, "not a byte is said");
    }
    assert_eq!(metric(&gateway, FULL), 5.0, "and the control listener has places of its own");
    assert_eq!(gateway.ready().0, 200);
    assert!(kept.iter_mut().all(|raw| served(raw) == Some(200)), "who was let in is served");
    drop(kept.pop());
    eventually("the place is given away", || served(&mut gateway.raw()).ok_or("refused"));
}

#[test]
fn one_address_has_no_more_than_its_share() {
    let origin = Origin::start();
    let gateway = public(&origin).server("limits = { connections_per_address = 3 }").start();
    let mut kept: Vec<_> = (0..3).map(|_| gateway.raw()).collect();
    assert!(kept.iter_mut().all(|raw| served(raw) == Some(200)));
    assert!((0..20).all(|_| served(&mut gateway.raw()).is_none()));
    assert_eq!(metric(&gateway, OF_ADDRESS), 20.0);
    let mut other = from("127.0.0.2", gateway.addr());
    assert_eq!(served(&mut other), Some(200), "another address has its own");
    drop(kept.pop());
    eventually("a place that fell free is its own again", || served(&mut gateway.raw()).ok_or("refused"));
    assert_eq!(metric(&gateway, FULL), 0.0);
}

#[test]
fn a_trusted_proxy_speaks_for_many_and_a_reload_changes_the_share() {
    let origin = Origin::start();
    let limits = "limits = { connections_per_address = 2 }";
    let setup = public(&origin).server(limits).server("trusted_proxies = [\"127.0.0.1\"]");
    let gateway = setup.start();
    let mut kept: Vec<_> = (0..10).map(|_| gateway.raw()).collect();
    assert!(kept.iter_mut().all(|raw| served(raw) == Some(200)));
    let mut others: Vec<_> = (0..2).map(|_| from("127.0.0.2", gateway.addr())).collect();
    assert!(others.iter_mut().all(|raw| served(raw) == Some(200)));
    assert_eq!(served(&mut from("127.0.0.2", gateway.addr())), None);
    gateway.rewrite_config(&setup.toml().replace("per_address = 2", "per_address = 3"));
    eventually("one more is let in", || served(&mut from("127.0.0.2", gateway.addr())).ok_or("refused"));
}

/// One counts from its first byte: a handshake that never ends has a place, too.
#[test]
fn what_has_not_shaken_hands_counts() {
    let scene = Scene::new();
    let gateway = scene.setup().server("limits = { connections_per_address = 2 }").start();
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(gateway.tls_addr()).unwrap()).collect();
    eventually("a third is refused", || {
        let mut third = TcpStream::connect(gateway.tls_addr()).unwrap();
        third.set_read_timeout(Some(DEADLINE)).unwrap();
        match third.read(&mut [0; 1]) {
            Ok(0) | Err(_) if metric(&gateway, OF_ADDRESS) > 0.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    drop(silent);
    eventually("its places are free again", || {
        let secured = Client::of(&scene.authority).alpn(&[b"http/1.1"]).connect(gateway.tls_addr(), "a.test");
        let mut raw = secured.map_err(|error| error.to_string())?.raw();
        raw.send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
        raw.try_response().map(|response| assert_eq!(response.status, 401)).map_err(|error| error.to_string())
    });
}

#[test]
fn descriptors_that_run_out_lock_nobody_out_of_control() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let toml = Gateway::guarding(&issuer, &origin).toml();
    let gateway = Gateway::start_with_descriptors(&toml, 160);
    eventually("the gateway is ready", || match gateway.ready() {
        (200, _) => Ok(()),
        other => Err(other),
    });
    let token = issuer.good("alice");
    let mut kept: Vec<_> = (0..300).map(|_| TcpStream::connect(gateway.addr()).unwrap()).collect();
    eventually("there is no room", || match metric(&gateway, DESCRIPTORS) {
        0.0 => Err(()),
        _ => Ok(()),
    });
    // Connections of its own, to the control listener and to the database.
    gateway.ban("mallory");
    assert!(!gateway.log().contains("Connections cannot be accepted"), "{}", gateway.log());
    kept.truncate(20);
    eventually("who comes now is served", || {
        match gateway.raw().send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").try_response() {
            Ok(response) if response.status == 401 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(gateway.get("/x", Some(&token)).status, 200, "and there are some left for the service");
}
