//! HTTP/2: judged as HTTP/1.1 is, forwarded as HTTP/1.1 would be, and no cheaper to attack.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Request;
use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::{self, Http2};
use crate::support::https::Client;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};

pub struct Scene {
    pub authority: Authority,
    shelf: Shelf,
    pub origin: Origin,
    issuer: Issuer,
}

impl Scene {
    pub fn new() -> Self {
        let (authority, shelf) = (Authority::new(), Shelf::new());
        shelf.put("a", &authority.server(&["a.test", "b.test"]));
        Self { authority, shelf, origin: Origin::start(), issuer: Issuer::new(Algorithm::ES256) }
    }

    pub fn setup(&self) -> Setup {
        let listener = self.shelf.listener(&[self.shelf.entry("a", &["a.test", "b.test"])], "");
        Gateway::guarding(&self.issuer, &self.origin).section(&listener)
    }

    pub fn connect(&self, gateway: &Gateway) -> Http2 {
        Http2::tls(&Client::of(&self.authority), gateway.tls_addr(), "a.test")
    }

    /// Whether a head of these very bytes is answered with a refusal, or not at all.
    fn refuses(&self, gateway: &Gateway, fields: &[(&str, &str)]) -> bool {
        let client = Client::of(&self.authority).alpn(&[b"h2"]);
        let mut raw = client.connect(gateway.tls_addr(), "a.test").unwrap().raw();
        raw.send(http2::raw_request(fields));
        loop {
            let Ok(frame) = raw.frame() else { return true };
            match frame.kind {
                http2::HEADERS => return !matches!(frame.payload.first(), Some(&http2::STATUS_200)),
                http2::RST_STREAM | http2::GOAWAY => return true,
                _ => {}
            }
        }
    }

    pub fn bearer(&self, user: &str) -> String {
        format!("Bearer {}", self.issuer.good(user))
    }
}

#[test]
fn a_request_is_judged_and_forwarded_as_one_of_http1() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);

    let refused = client.get("a.test", "/x", &[]).unwrap();
    assert_eq!((refused.status, refused.reason()), (401, "token_missing".to_owned()));
    let challenge = refused.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer"));
    gateway.ban("mallory");
    let banned = client.get("a.test", "/x", &[("authorization", &scene.bearer("mallory"))]).unwrap();
    assert_eq!((banned.status, banned.reason()), (403, "user_banned".to_owned()));
    scene.origin.saw_nothing();

    let alice = scene.bearer("alice");
    let fields = [
        ("authorization", &*alice),
        ("x-user-id", "admin"),
        ("x_user_id", "admin"),
        ("x-forwarded-proto", "http"),
    ];
    let passed = client.get("a.test", "/x?y=1", &fields).unwrap();
    assert_eq!((passed.status, passed.text()), (200, "ok".to_owned()));
    let seen = scene.origin.only();
    assert_eq!(seen.line(), "GET /x?y=1 HTTP/1.1");
    assert_eq!(seen.values("host"), ["a.test"]);
    assert_eq!(seen.values("x-user-id"), ["alice"]);
    assert_eq!(seen.folded_names().iter().filter(|name| *name == "x-user-id").count(), 1);
    assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
}

#[test]
fn crumbs_of_a_cookie_are_one_cookie_to_judge_and_to_service() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let token = scene.issuer.good("alice");
    let crumbs = [("cookie", "theme=dark"), ("cookie", &format!("access_token={token}")), ("cookie", "b=2")];
    assert_eq!(client.get("a.test", "/x", &crumbs).unwrap().status, 200);
    let whole = format!("theme=dark; access_token={token}; b=2");
    assert_eq!(scene.origin.only().values("cookie"), [whole]);
    scene.origin.forget();
    let other = scene.issuer.good("bob");
    let two = [("cookie", &*format!("access_token={token}")), ("cookie", &*format!("access_token={other}"))];
    assert_eq!(client.get("a.test", "/x", &two).unwrap().reason(), "request_ambiguous");
    scene.origin.saw_nothing();
}

#[test]
fn what_two_servers_could_read_differently_is_refused() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    let authorized = ("authorization", &*bearer);
    let twice = [authorized, authorized];
    let expect = |headers: &[(&str, &str)], path: &str, status: u16| {
        // Each on a connection of its own: a refusal may cost it.
        let mut client = scene.connect(&gateway);
        match client.get("a.test", path, headers) {
            Ok(response) => assert_eq!(response.status, status, "{path} {headers:?}"),
            Err(error) => assert!(error.is_reset() || error.is_go_away(), "{path} {headers:?}: {error}"),
        }
    };
    expect(&twice, "/x", 400);
    for path in ["/a/../b", "/a//b", "/a/%2e%2e/b", "/a%2fb", "/a/b;c=d", "/%00", "/a%5cb"] {
        expect(&[authorized], path, 400);
    }
    expect(&[authorized, ("host", "b.test")], "/x", 400);
    scene.origin.saw_nothing();
    for method in ["TRACE", "TRACK", "CONNECT"] {
        let request =
            Request::builder().method(method).uri("https://a.test/x").header("authorization", &bearer);
        let refused = scene.connect(&gateway).request(request.body(()).unwrap(), b"");
        assert!(refused.is_err() || refused.is_ok_and(|it| it.status == 405), "{method}");
    }
    scene.origin.saw_nothing();
}

/// The parser of HTTP/2 takes a fragment off before anybody can see it: what is judged, and what the service gets, is
/// what stands before it.
#[test]
fn a_fragment_is_neither_judged_nor_forwarded() {
    let scene = Scene::new();
    let gateway = scene.setup().route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"").start();
    for path in ["/open#/../x", "/open?a=b#/x"] {
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", path)];
        assert!(!scene.refuses(&gateway, &fields), "{path}");
    }
    let seen: Vec<_> = scene.origin.requests().iter().map(|it| it.target()).collect();
    assert_eq!(seen, ["/open", "/open?a=b"]);
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x#/open")];
    assert!(scene.refuses(&gateway, &fields), "the path before it needs a token");
}

/// RFC 9113 section 8.2.2: what belongs to one connection has no place in HTTP/2, and names are in lower case.
#[test]
fn fields_of_http1_and_malformed_ones_are_refused() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let bearer = scene.bearer("alice");
    let wrong = [
        ("transfer-encoding", "chunked"),
        ("connection", "x-user-id"),
        ("upgrade", "websocket"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("X-Upper", "case"),
        ("x-line", "a\r\nx-user-id: admin"),
        ("x-nul", "a\0b"),
        ("x space", "a"),
        ("content-length", "5"),
        (":path", "/again"),
        (":authority", "b.test"),
        (":unknown", "x"),
        (":protocol", "websocket"),
        (":status", "200"),
        ("", "x"),
        ("x-user-id ", "admin"),
        ("x-user-id:", "admin"),
        ("authorization\u{80}", "x"),
        ("cookie", "access_token=\u{1}"),
    ];
    for (name, value) in wrong {
        let head = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x")];
        let mut fields = head.to_vec();
        fields.extend([("authorization", &*bearer), (name, value)]);
        assert!(scene.refuses(&gateway, &fields), "{name}: {value:?}");
    }
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", "/x"),
        ("authorization", &*bearer),
        ("sec-websocket-version", "13"),
    ];
    assert!(scene.refuses(&gateway, &connect), "RFC 8441 is not offered");
    assert!(scene.refuses(&gateway, &[connect[0], connect[3], connect[5]]), "CONNECT");
    let lengths = [("content-length", "0"), ("content-length", "5")];
    let twice = [(":method", "POST"), connect[2], connect[3], connect[4], connect[5], lengths[0], lengths[1]];
    assert!(scene.refuses(&gateway, &twice), "two lengths");
    for missing in [":method", ":path", ":scheme"] {
        let head = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x")];
        let mut fields: Vec<_> = head.into_iter().filter(|(name, _)| *name != missing).collect();
        fields.push(("authorization", &*bearer));
        assert!(scene.refuses(&gateway, &fields), "without {missing}");
    }
    for path in ["x", "?q", "https://b.test/x", "*", "/a b", "/a\u{7f}"] {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", path),
            ("authorization", &*bearer),
        ];
        assert!(scene.refuses(&gateway, &fields), ":path {path}");
    }
    for authority in ["a.test@b.test", "a.test:x", "a.test/x", "b..test", ""] {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", authority),
            (":path", "/x"),
            ("authorization", &*bearer),
        ];
        assert!(scene.refuses(&gateway, &fields), ":authority {authority}");
    }
    scene.origin.saw_nothing();
}

#[test]
fn other_requests_go_on_when_one_is_refused_or_taken_back() {
    let scene = Scene::new();
    scene.origin.answer(|seen| {
        let slow = seen.target() == "/slow";
        Answer::ok().delayed(if slow { Duration::from_millis(500) } else { Duration::ZERO })
    });
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let authorized = [("authorization", &*bearer)];
    let slow = client.begin(http2::get("a.test", "/slow", &authorized), true).unwrap().response;
    assert_eq!(client.get("a.test", "/x", &[]).unwrap().status, 401);
    assert_eq!(client.get("a.test", "/a//b", &authorized).unwrap().status, 400);
    let mut back = client.begin(http2::get("a.test", "/slow", &authorized), false).unwrap();
    back.body.send_reset(Reason::CANCEL);
    assert_eq!(
        client.get("b.test", "/x", &authorized).unwrap().status,
        200,
        "another host of the same certificate"
    );
    assert_eq!(client.answer(slow).unwrap().status, 200);
}

#[test]
fn prior_knowledge_is_understood_where_it_is_allowed_and_http1_beside_it() {
    let scene = Scene::new();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let gateway = scene.setup().start();
    let mut raw = gateway.raw();
    raw.send(preface);
    assert!(raw.try_response().is_ok_and(|it| it.status == 400), "off by default");

    let gateway = scene.setup().server("h2c = true").start();
    let bearer = scene.bearer("alice");
    let mut client = Http2::plain(gateway.addr());
    let request = |path: &str| {
        Request::get(format!("http://a.test{path}")).header("authorization", &bearer).body(()).unwrap()
    };
    assert_eq!(client.request(request("/x"), b"").unwrap().status, 200);
    assert_eq!(client.get("a.test", "/y", &[]).unwrap().status, 401);
    let seen = scene.origin.only();
    assert_eq!(
        (seen.values("host"), seen.values("x-forwarded-proto")),
        (vec!["a.test".into()], vec!["http".into()])
    );

    assert_eq!(gateway.get("/x", Some(&scene.issuer.good("alice"))).status, 200, "HTTP/1.1 on the same port");
    let mut short = gateway.raw();
    assert_eq!(short.send("GET / HTTP/1.0\r\n\r\n").response().status, 401, "shorter than the preface");
    let mut nearly = gateway.raw();
    nearly.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert!(nearly.try_response().is_ok_and(|it| it.status == 400));
}

#[test]
fn trailers_of_a_request_carry_no_identity_and_reach_nobody_as_fields() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let mut client = scene.connect(&gateway);
    let bearer = scene.bearer("alice");
    let request =
        Request::post("https://a.test/up").header("authorization", &bearer).header("te", "trailers");
    let mut begun = client.begin(request.body(()).unwrap(), false).unwrap();
    client.wait(async {
        begun.body.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        for name in ["x-user-id", "x_user_id", "authorization", "x-forwarded-for"] {
            trailers.insert(name, http::HeaderValue::from_static("admin"));
        }
        begun.body.send_trailers(trailers).unwrap();
    });
    assert_eq!(client.answer(begun.response).unwrap().status, 200);
    let seen = scene.origin.only();
    assert!(!String::from_utf8_lossy(&seen.body).contains("admin"), "{seen:?}");
    assert!(!seen.text().contains("admin"), "{}", seen.text());
}
