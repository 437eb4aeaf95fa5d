//! How each kind of stream ends: WebSockets by a frame where one can stand, HTTP/2 by the reset of that one stream, and all
//! of it over TLS too.

use http::Request;

use crate::streams_common::{
    FRAME, KINDS, Scene, close_frame, open, open_over, origin, request, service_is_left, streams_become,
};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::http2::{Http2, get};
use crate::support::https::Client;
use crate::support::origin::Answer;
use crate::support::pki::{Authority, Shelf};
use crate::support::raw::Raw;
use crate::support::service::{Service, Speaks};

#[test]
fn everything_ends_over_tls_as_it_does_without() {
    let (scene, authority, shelf) = (Scene::new(), Authority::new(), Shelf::new());
    shelf.put("a", &authority.server(&["a.test"]));
    let tls = shelf.listener(&[shelf.entry("a", &["a.test"])], "");
    let gateway = scene.setup(&[&tls]).start();
    let address = gateway.tls_addr();
    let connect = || {
        let client = Client::of(&authority);
        client.alpn(&[b"http/1.1"]).connect(address, "a.test").unwrap().raw()
    };
    let token = scene.issuer.good("alice");
    let opened = KINDS.map(|kind| open_over(connect, kind, Some(&token)));
    let mut other = open_over(connect, "ws", Some(&scene.issuer.good("bob")));
    gateway.ban("alice");
    opened.into_iter().for_each(|open| open.ends("user_banned"));
    other.is_alive();
}

/// Opens a tunnel whose service says this after the 101, and reads that.
fn tunnel(scene: &Scene, gateway: &Gateway, token: &str, said: &[u8]) -> Raw {
    let said_after: Vec<u8> = said.to_vec();
    scene.origin.answer(move |_| Answer {
        raw: Some(
            [b"HTTP/1.1 101 Go on\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", &*said_after]
                .concat(),
        ),
        ..Answer::switch_to_websocket()
    });
    let mut raw = gateway.raw();
    raw.send(request("ws", Some(token)));
    assert_eq!(raw.response().status, 101);
    // An echo behind what the service has said.
    raw.send(FRAME).bytes(said.len() + FRAME.len());
    raw
}

#[test]
fn no_frame_is_put_into_another_one() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    // The head of a frame of 100 000 bytes, of which some come.
    let begun = [&b"\x82\x7f\0\0\0\0\0\x01\x86\xa0"[..], &[b'x'; 500]].concat();
    let mut raw = tunnel(&scene, &gateway, &scene.issuer.good("alice"), &begun);
    gateway.ban("alice");
    assert_eq!(raw.rest_until_closed(), b"");
    service_is_left(&scene.origin);
}

#[test]
fn between_the_frames_of_one_message_there_may_be_a_last_one() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    let mut raw = tunnel(&scene, &gateway, &scene.issuer.good("alice"), b"\x01\x03one\x00\x03two");
    gateway.ban("alice");
    assert_eq!(raw.rest_until_closed(), close_frame(1008, "user_banned"));
}

#[test]
fn after_the_services_own_last_frame_there_is_no_other() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    let mut raw = tunnel(&scene, &gateway, &scene.issuer.good("alice"), b"\x88\x02\x03\xe8");
    gateway.ban("alice");
    assert_eq!(raw.rest_until_closed(), b"");
}

#[test]
fn a_client_that_talks_all_the_time_hears_why_too() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    for round in 0..5 {
        let user = format!("user-{round}");
        let mut open = open(gateway.addr(), "ws", &scene.issuer.good(&user));
        gateway.ban(&user);
        // Bytes that nobody reads any more would have the connection reset.
        while !open.raw.is_closed_now() {
            open.raw.send([FRAME; 50].concat());
        }
        let heard = open.raw.rest_until_closed();
        assert!(heard.ends_with(&close_frame(1008, "user_banned")), "{round}: {} bytes", heard.len());
    }
}

fn begin(client: &mut Http2, path: &str, token: &str) -> crate::support::http2::Pending {
    let headers = [("authorization", format!("Bearer {token}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    client.begin(get("a.test", path, &headers), true).unwrap()
}

/// What ends a stream that is being read.
fn ended(client: &Http2, mut body: h2::RecvStream) -> h2::Reason {
    client.wait(async move {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason().expect("a reset"),
                None => panic!("it ended as if that were all"),
            }
        }
    })
}

fn one_stream_ends(scene: &Scene, gateway: &Gateway, client: &mut Http2) {
    let [alice, bob] = ["alice", "bob"].map(|user| scene.issuer.good(user));
    let [events, others] = [&alice, &bob].map(|token| begin(client, "/events", token));
    let poll = begin(client, "/poll", &alice);
    let mut upload = client
        .begin(
            Request::post("https://a.test/upload")
                .header("authorization", format!("Bearer {alice}"))
                .version(http::Version::HTTP_2)
                .body(())
                .unwrap(),
            false,
        )
        .unwrap();
    upload.body.send_data(bytes::Bytes::from_static(b"some of it"), false).unwrap();
    let [events, mut others] =
        [events, others].map(|pending| client.wait(pending.response).unwrap().into_body());
    eventually("all have reached the service", || match scene.origin.open() {
        4 => Ok(()),
        open => Err(open),
    });
    gateway.ban("alice");
    assert_eq!(ended(client, events), h2::Reason::CANCEL);
    for pending in [poll, upload] {
        let error = client.wait(pending.response).expect_err("a reset");
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
    }
    // The other user's stream is there still, and so is the connection.
    let first = client.wait(async { others.data().await }).unwrap().unwrap();
    assert_eq!(&*first, b"data: 1\n\n");
    let bearer = format!("Bearer {bob}");
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 200);
    let bearer = format!("Bearer {alice}");
    assert_eq!(client.get("a.test", "/x", &[("authorization", &bearer)]).unwrap().status, 403);
    eventually("the service sees the others end", || match scene.origin.requests().len() {
        _ if scene.origin.open() <= 2 => Ok(()),
        seen => Err(seen),
    });
    streams_become(gateway, 1);
}

#[test]
fn of_a_connection_of_http2_only_that_users_streams_end() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).server("h2c = true").start();
    let mut client = Http2::plain(gateway.addr());
    one_stream_ends(&scene, &gateway, &mut client);
}

#[test]
fn of_a_connection_of_http2_over_tls_only_that_users_streams_end() {
    let (scene, authority, shelf) = (Scene::new(), Authority::new(), Shelf::new());
    shelf.put("a", &authority.server(&["a.test"]));
    let tls = shelf.listener(&[shelf.entry("a", &["a.test"])], "");
    let gateway = scene.setup(&[&tls]).start();
    let mut client = Http2::tls(&Client::of(&authority), gateway.tls_addr(), "a.test");
    one_stream_ends(&scene, &gateway, &mut client);
}

#[test]
fn a_grpc_call_ends_at_the_client_and_at_the_service() {
    let scene = Scene::new();
    let service = Service::start(Speaks::h2c());
    let gateway = crate::support::gateway::Setup::new()
        .server("h2c = true")
        .issuer(&scene.issuer)
        .section(&service.config_toml("app", "http2 = true"))
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
        .start();
    let mut client = Http2::plain(gateway.addr());
    let call = |client: &mut Http2, user: &str| {
        let token = scene.issuer.good(user);
        let request = Request::post("https://a.test/pause")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/grpc")
            .version(http::Version::HTTP_2);
        let mut pending = client.begin(request.body(()).unwrap(), false).unwrap();
        pending.body.send_data(bytes::Bytes::from_static(b"question"), true).unwrap();
        client.wait(pending.response).unwrap().into_body()
    };
    let (alice, mut bob) = (call(&mut client, "alice"), call(&mut client, "bob"));
    assert_eq!(gateway.metric("portcullis_streams{kind=\"grpc\"}"), Some(2.0));
    gateway.ban("alice");
    assert_eq!(ended(&client, alice), h2::Reason::CANCEL);
    streams_become(&gateway, 1);
    // One of the two waits for nobody any more; the other one goes on.
    service.go_on();
    service.go_on();
    let rest = client.wait(async {
        let mut all = Vec::new();
        while let Some(piece) = bob.data().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    });
    assert_eq!(rest, b"question and on");
}

#[test]
fn what_outlasts_the_drain_is_told_that_the_gateway_goes() {
    let scene = Scene { origin: origin(), ..Scene::new() };
    let route = "name = \"open\"\npath = \"/ws\"\nupstream = \"app\"\nauth = \"optional\"";
    let setup = scene.setup(&[]).server("drain = \"500ms\"").route(route);
    let mut gateway = setup.start();
    let token = scene.issuer.good("alice");
    let opened = [Some(token.as_str()), None].map(|token| open_over(|| gateway.raw(), "ws", token));
    gateway.signal("TERM");
    for mut open in opened {
        assert_eq!(open.raw.rest_until_closed(), close_frame(1001, "going_away"));
    }
    assert_eq!(gateway.wait_exit().code(), Some(0));
}
