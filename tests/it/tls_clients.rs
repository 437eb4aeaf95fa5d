//! Clients that have to show who they are (mutual TLS).

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::https::Https;
use crate::support::issuer::Issuer;
use crate::support::origin::Answer;
use crate::support::pki::Authority;
use crate::support::reloads::{self, APPLIED};
use crate::tls::{Scene, counted};

#[test]
fn clients_without_a_good_certificate_are_refused_where_one_is_required() {
    let (scene, clients) = (Scene::new(), Authority::new());
    scene.shelf.put_authority("clients.pem", &clients);
    let ca = format!("client_ca = \"{}\"", scene.shelf.path().join("clients.pem").display());
    let gateway = scene.with(&ca).start();
    let address = gateway.tls_addr();
    let (good, foreign) = (clients.client(), Authority::new().client());

    assert_eq!(scene.client().showing(&good).get(address, "a.test", "/", &[]).unwrap().status, 200);
    scene.origin.forget();
    assert!(scene.client().get(address, "a.test", "/", &[]).is_err());
    assert!(scene.client().showing(&foreign).get(address, "a.test", "/", &[]).is_err());
    assert!(scene.client().tls12().get(address, "a.test", "/", &[]).is_err());
    counted(&gateway, "client_certificate", 3.0);
    scene.origin.saw_nothing();

    // A connection that was made for one host serves no other.
    let mut connection = scene.client().showing(&good).connect(address, "a.test").unwrap().raw();
    connection.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n");
    let response = connection.response();
    assert_eq!((response.status, response.reason()), (421, "misdirected_request".to_owned()));
    scene.origin.saw_nothing();
    assert_eq!(connection.send("GET / HTTP/1.1\r\nHost: A.test.:443\r\n\r\n").response().status, 200);
}

#[test]
fn an_authority_that_is_believed_no_more_lets_nobody_in_by_an_old_session() {
    let (scene, before, after) = (Scene::new(), Authority::new(), Authority::new());
    scene.shelf.put_authority("clients.pem", &before);
    let ca = format!("client_ca = \"{}\"", scene.shelf.path().join("clients.pem").display());
    let gateway = scene.with(&ca).start();
    let identity = before.client();
    let config = Arc::new(scene.client().showing(&identity).config());
    let connect = || Https::connect(config.clone(), gateway.tls_addr(), "a.test");
    let ask = |connection: std::io::Result<Https>| {
        let mut raw = connection?.raw();
        raw.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").try_response()
    };
    assert_eq!(ask(connect()).unwrap().status, 200);
    let second = connect().unwrap();
    assert!(second.resumed(), "or this test says nothing");
    assert_eq!(ask(Ok(second)).unwrap().status, 200);

    scene.shelf.put_authority("clients.pem", &after);
    gateway.signal("HUP");
    reloads::counted(&gateway, APPLIED, 1.0);
    assert!(ask(connect()).is_err());
    let newer = after.client();
    assert_eq!(
        scene.client().showing(&newer).get(gateway.tls_addr(), "a.test", "/", &[]).unwrap().status,
        200
    );
}

#[test]
fn a_connection_that_is_kept_has_no_more_rights_than_a_new_one() {
    let (scene, before, after) = (Scene::new(), Authority::new(), Authority::new());
    let issuer = Issuer::new(Algorithm::ES256);
    scene.shelf.put_authority("clients.pem", &before);
    scene.origin.answer(|seen| match seen.target().as_str() {
        "/guarded/events" => Answer {
            raw: Some(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n".to_vec()),
            ..Answer::ok()
        },
        _ => Answer::ok(),
    });
    let path = scene.shelf.path().join("clients.pem");
    let ca = format!("client_ca = \"{}\"\nclient_auth = \"optional\"", path.display());
    let guarded = "name = \"guarded\"\npath = \"/guarded/{*rest}\"\nupstream = \"app\"\nclient_certificate = \"required\"";
    let gateway = scene.with(&ca).issuer(&issuer).route(guarded).start();
    let (address, identity, bearer) = (gateway.tls_addr(), before.client(), issuer.good("alice"));
    let ask = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {bearer}\r\nAccept: text/event-stream\r\n\r\n"
        )
    };
    let connect = || scene.client().showing(&identity).connect(address, "a.test").unwrap().raw();
    let (mut kept, mut stream) = (connect(), connect());
    let mut anonymous = scene.client().connect(address, "a.test").unwrap().raw();
    assert_eq!(kept.send(ask("/guarded/x")).response().status, 200);
    assert_eq!(anonymous.send(ask("/outer")).response().status, 200);
    stream.send(ask("/guarded/events")).bytes(100);

    scene.shelf.put_authority("clients.pem", &after);
    gateway.signal("HUP");
    eventually("the other authority is in force", || match gateway.metric(APPLIED) {
        Some(1.0) => Ok(()),
        seen => Err(seen),
    });
    stream.wait_closed();
    scene.origin.forget();
    let refused = kept.send(ask("/guarded/x")).response();
    assert_eq!((refused.status, refused.reason()), (421, "misdirected_request".to_owned()));
    kept.wait_closed();
    scene.origin.saw_nothing();
    assert_eq!(
        anonymous.send(ask("/outer")).response().status,
        200,
        "it has shown nothing that was believed"
    );
}

#[test]
fn a_route_may_require_what_the_listener_only_asks_for() {
    let (scene, clients) = (Scene::new(), Authority::new());
    let issuer = Issuer::new(Algorithm::ES256);
    scene.shelf.put_authority("clients.pem", &clients);
    let path = scene.shelf.path().join("clients.pem");
    let ca = format!("client_ca = \"{}\"\nclient_auth = \"optional\"", path.display());
    let inner = "name = \"inner\"\npath = \"/inner\"\nupstream = \"app\"\nclient_certificate = \"required\"";
    let gateway = scene.with(&ca).issuer(&issuer).route(inner).start();
    let (good, bearer) = (clients.client(), format!("Authorization: Bearer {}", issuer.good("alice")));
    let address = gateway.tls_addr();

    let refused = scene.client().get(address, "a.test", "/inner", &[&bearer]).unwrap();
    assert_eq!((refused.status, refused.reason()), (403, "client_certificate_missing".to_owned()));
    let plain = gateway.request("GET", "/inner", &[&bearer], b"");
    assert_eq!((plain.status, plain.reason()), (403, "client_certificate_missing".to_owned()));
    scene.origin.saw_nothing();
    let shown = scene.client().showing(&good);
    assert_eq!(
        shown.get(address, "a.test", "/inner", &[]).unwrap().reason(),
        "token_missing",
        "it is not a token"
    );
    assert_eq!(shown.get(address, "a.test", "/inner", &[&bearer]).unwrap().status, 200);
    assert_eq!(scene.client().get(address, "a.test", "/outer", &[]).unwrap().status, 200);
}
