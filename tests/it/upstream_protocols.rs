//! TLS and HTTP/2 to services: who is believed, what is spoken, and that nothing is lost on the way.

use std::fs;

use bytes::Bytes;
use http::Request;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};
use crate::support::service::{Service, Speaks};

const ROUTE: &str = "path = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"";

fn gateway(service: &Service, lines: &str) -> Gateway {
    Setup::new().server("h2c = true").section(&service.config_toml("app", lines)).route(ROUTE).start()
}

/// An authority, whose certificate lies in the file `ca.pem`.
struct Scene {
    authority: Authority,
    shelf: Shelf,
}

impl Scene {
    fn new() -> Self {
        let (authority, shelf) = (Authority::new(), Shelf::new());
        shelf.put_authority("ca.pem", &authority);
        Self { authority, shelf }
    }

    fn ca(&self) -> String {
        format!("ca = \"{}\"", self.shelf.path().join("ca.pem").display())
    }
}

#[test]
fn a_service_is_believed_by_its_authority_and_its_name() {
    let scene = Scene::new();
    let service = Service::start(Speaks::tls(&scene.authority.server(&["app.internal"]), false, None));
    let named = gateway(&service, &format!("tls = {{ sni = \"app.internal\", {} }}", scene.ca()));
    let response = named.request("POST", "/x", &[], b"hello");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    let told = service.only();
    assert_eq!((told.server_name.as_deref(), told.certified), (Some("app.internal"), false));

    // Without `sni` it is the server's own host that the certificate must be for.
    let own = Service::start(Speaks::tls(&scene.authority.server(&["127.0.0.1"]), false, None));
    assert_eq!(gateway(&own, &format!("tls = {{ {} }}", scene.ca())).get("/x", None).status, 200);
}

#[test]
fn a_service_that_is_not_believed_gets_nothing_and_the_log_says_why() {
    let scene = Scene::new();
    let good = Service::start(Speaks::tls(&scene.authority.server(&["app.internal"]), false, None));
    let expired = Service::start(Speaks::tls(&scene.authority.expired(&["app.internal"]), false, None));
    let stranger = Scene::new();
    let name = "sni = \"app.internal\"";
    let refused = [
        (&good, format!("tls = {{ sni = \"other.internal\", {} }}", scene.ca()), "NotValidForName"),
        (&good, format!("tls = {{ {name}, {} }}", stranger.ca()), "UnknownIssuer"),
        (&good, format!("tls = {{ {name} }}"), "UnknownIssuer"),
        (&good, format!("tls = {{ {} }}", scene.ca()), "NotValidForName"),
        (&expired, format!("tls = {{ {name}, {} }}", scene.ca()), "Expired"),
    ];
    for (service, lines, why) in refused {
        let gateway = gateway(service, &lines);
        let response = gateway.request("POST", "/x", &[], b"secret");
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_unavailable"), "{lines}");
        let line = eventually("the log says why", || {
            gateway.log_lines().into_iter().find(|line| line["message"] == "Upstream failed").ok_or(())
        });
        let cause = line["cause"].as_str().unwrap_or_default();
        assert!(
            cause.to_lowercase().contains(&why.to_lowercase()) || words(cause).contains(&words(why)),
            "{lines}: {line}"
        );
    }
    assert!(good.requests().is_empty() && expired.requests().is_empty());
}

/// `NotValidForName` as `not valid for name`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn verification_is_never_off_without_a_warning() {
    let scene = Scene::new();
    let service = Service::start(Speaks::tls(&scene.authority.expired(&["other.internal"]), false, None));
    let gateway = gateway(&service, "tls = { verify = false }");
    assert_eq!(gateway.get("/x", None).status, 200);
    assert!(gateway.log().contains("nobody checks who answers"), "{}", gateway.log());
}

#[test]
fn a_service_that_asks_for_a_certificate_is_shown_one_and_a_new_one_when_the_file_changes() {
    let (scene, clients) = (Scene::new(), Authority::new());
    let identity = scene.authority.server(&["app.internal"]);
    let service = Service::start(Speaks::tls(&identity, false, Some(&clients)));
    scene.shelf.put("gateway", &scene.authority.client());
    let tls = format!("sni = \"app.internal\", {}", scene.ca());
    let path = scene.shelf.path().join("gateway");
    let showing = format!("tls = {{ {tls}, cert = \"{0}.crt\", key = \"{0}.key\" }}", path.display());
    let stranger = gateway(&service, &showing);
    assert_eq!(gateway(&service, &format!("tls = {{ {tls} }}")).get("/x", None).status, 502);
    assert_eq!(stranger.get("/x", None).status, 502, "of an authority that the service does not know");
    assert!(service.requests().is_empty());
    scene.shelf.put("gateway", &clients.client());
    eventually("the new certificate is shown", || match stranger.get("/x", None).status {
        200 => Ok(()),
        status => Err(status),
    });
    assert!(service.only().certified);
}

#[test]
fn a_connection_made_under_one_trust_is_not_used_under_another() {
    let (scene, stranger) = (Scene::new(), Scene::new());
    let service = Service::start(Speaks::tls(&scene.authority.server(&["app.internal"]), false, None));
    let gateway = gateway(&service, &format!("tls = {{ sni = \"app.internal\", {} }}", scene.ca()));
    assert_eq!(gateway.get("/x", None).status, 200);
    fs::copy(stranger.shelf.path().join("ca.pem"), scene.shelf.path().join("ca.pem")).unwrap();
    gateway.signal("HUP");
    eventually("the authority is another one", || match gateway.get("/x", None).status {
        502 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn http2_is_spoken_where_the_service_agrees() {
    let scene = Scene::new();
    let identity = scene.authority.server(&["app.internal"]);
    let both = Service::start(Speaks::tls(&identity, true, None));
    let old = Service::start(Speaks::tls(&identity, false, None));
    let tls = format!("tls = {{ sni = \"app.internal\", {} }}\n", scene.ca());
    for (service, http2, version) in
        [(&both, true, "HTTP/2.0"), (&old, true, "HTTP/1.1"), (&both, false, "HTTP/1.1")]
    {
        let gateway = gateway(service, &format!("{tls}http2 = {http2}"));
        let body = vec![b'x'; 300_000];
        let response = gateway.request("POST", "/up", &["X-Mine: 1"], &body);
        assert!((response.status, response.body.len()) == (200, body.len()), "{version}: {response:?}");
        let told = service.requests().pop().unwrap();
        assert_eq!((told.version, told.headers["x-mine"].as_bytes()), (version, &b"1"[..]));
        assert!(told.body == body && told.headers.contains_key("x-request-id"), "{:?}", told.headers);
    }
}

#[test]
fn a_websocket_may_be_silent_and_goes_over_http1_even_where_the_service_is_spoken_to_in_http2() {
    let origin = Origin::answering(|_| Answer::switch_to_websocket());
    let lines = "http2 = true\ntimeouts = { read = \"100ms\" }\n";
    let upstream = format!("{}{lines}", origin.config_toml("app"));
    let gateway = Setup::new().section(&upstream).route(ROUTE).start();
    let mut raw = gateway.raw();
    raw.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(raw.response().status, 101);
    // Each look takes as long as `read` allows.
    assert!(!(0..5).any(|_| raw.is_closed()), "a conversation may be silent");
    raw.send("ping");
    assert_eq!(raw.bytes(4), b"ping");
}

#[test]
fn a_websocket_goes_over_tls() {
    let scene = Scene::new();
    let service = Service::start(Speaks::tls(&scene.authority.server(&["app.internal"]), false, None));
    let gateway = gateway(&service, &format!("tls = {{ sni = \"app.internal\", {} }}", scene.ca()));
    let mut raw = gateway.raw();
    raw.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(raw.response().status, 101);
    for size in [1, 10, 100_000] {
        // Nothing may stay behind in a buffer on the way.
        let message = vec![b'm'; size];
        raw.send(&message);
        assert!(raw.bytes(size) == message, "{size}");
    }
}

fn call(path: &str) -> Request<()> {
    let request = Request::post(format!("http://a.test{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// What a call came to: body and trailers.
async fn outcome(pending: crate::support::http2::Pending) -> (String, String) {
    let (head, mut body) = pending.response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        text.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap().expect("trailers");
    (String::from_utf8(text).unwrap(), trailers["grpc-status"].to_str().unwrap().to_owned())
}

#[test]
fn a_grpc_call_passes_with_its_trailers_in_the_open_and_by_tls() {
    let scene = Scene::new();
    let h2c = Service::start(Speaks::h2c());
    let tls = Service::start(Speaks::tls(&scene.authority.server(&["app.internal"]), true, None));
    let lines = format!("http2 = true\ntls = {{ sni = \"app.internal\", {} }}", scene.ca());
    for (service, lines) in [(&h2c, "http2 = true"), (&tls, lines.as_str())] {
        let gateway = gateway(service, lines);
        let mut client = Http2::plain(gateway.addr());
        let mut pending = client.begin(call("/echo.Echo/Say"), false).unwrap();
        pending.body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        assert_eq!(client.wait(outcome(pending)), ("hello".to_owned(), "0".to_owned()));
        let told = service.only();
        assert_eq!((told.version, told.path.as_str()), ("HTTP/2.0", "/echo.Echo/Say"));
        assert_eq!(told.headers["te"], "trailers");
    }
}

#[test]
fn a_grpc_call_may_be_silent_for_longer_than_an_answer_may() {
    let service = Service::start(Speaks::h2c());
    let gateway = gateway(&service, "http2 = true\ntimeouts = { read = \"100ms\" }");
    let mut client = Http2::plain(gateway.addr());
    let mut pending = client.begin(call("/pause"), false).unwrap();
    pending.body.send_data(Bytes::from_static(b"so"), true).unwrap();
    eventually("the call has begun", || if service.requests().is_empty() { Err(()) } else { Ok(()) });
    // Calls that are not gRPC are cut meanwhile: several times the time-out has passed.
    for _ in 0..3 {
        let plain = Request::get("http://a.test/pause").body(()).unwrap();
        assert!(client.request(plain, b"").is_err());
    }
    service.go_on();
    assert_eq!(client.wait(outcome(pending)).0, "so and on");
}

#[test]
fn calls_share_a_connection_and_one_that_the_service_has_ended_is_no_failure() {
    let service = Service::start(Speaks::h2c());
    let gateway = gateway(&service, "http2 = true\nretries = 0");
    let mut client = Http2::plain(gateway.addr());
    let mut say = |path: &str| {
        let mut pending = client.begin(call(path), false).unwrap();
        pending.body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        client.wait(outcome(pending)).0
    };
    for _ in 0..10 {
        assert_eq!(say("/many"), "hello");
    }
    assert!(service.requests().iter().all(|told| told.connection == 0), "{:?}", service.requests());
    assert_eq!(say("/bye"), "hello");
    for _ in 0..3 {
        assert_eq!(say("/again"), "hello");
    }
    assert_eq!(service.requests().pop().unwrap().connection, 1);
}

#[test]
fn a_call_that_was_not_looked_at_is_made_again() {
    let service = Service::start(Speaks::h2c());
    let gateway = gateway(&service, "http2 = true\nretries = 0");
    let mut client = Http2::plain(gateway.addr());
    let mut pending = client.begin(call("/refused"), false).unwrap();
    pending.body.send_data(Bytes::from_static(b"hello"), true).unwrap();
    assert_eq!(client.wait(outcome(pending)).0, "hello");
    assert_eq!(service.only().body, b"hello");
    assert_eq!(gateway.metric("portcullis_upstream_retries_total{upstream=\"app\"}"), Some(1.0));
}

#[test]
fn a_service_can_be_probed_over_what_it_speaks() {
    let scene = Scene::new();
    let service = Service::start(Speaks::tls(&scene.authority.server(&["app.internal"]), true, None));
    let health = "health = { path = \"/healthz\", interval = \"100ms\" }";
    let lines = format!("http2 = true\n{health}\ntls = {{ sni = \"app.internal\", {} }}", scene.ca());
    let gateway = gateway(&service, &lines);
    eventually("probes come, over HTTP/2", || {
        let told = service.requests();
        if told.iter().filter(|told| told.path == "/healthz" && told.version == "HTTP/2.0").count() > 2 {
            Ok(())
        } else {
            Err(told)
        }
    });
    assert_eq!(gateway.get("/x", None).status, 200);
    let stranger = Scene::new();
    let lines = format!("http2 = true\n{health}\ntls = {{ sni = \"app.internal\", {} }}", stranger.ca());
    let mistaken = self::gateway(&service, &lines);
    eventually("the wrong authority is found out", || {
        let log = mistaken.log();
        if log.contains("Server is not well") && log.contains("UnknownIssuer") { Ok(()) } else { Err(log) }
    });
}
