//! Headers: nobody but the gateway says who the user is.

use jsonwebtoken::Algorithm;

use crate::attacks_common::Scene;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Origin, Seen};
use crate::support::raw::Response;
use crate::support::service::{Service, Speaks};

const IDENTITY: &str =
    "[identity]\nheaders = { \"x-user-id\" = \"{sub}\", \"x-user-roles\" = \"{roles}\" }\n";

fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    Scene::with(|setup| {
        let routes = setup
            .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
            .route("name = \"public\"\npath = \"/public/{*rest}\"\nupstream = \"app\"\nauth = \"public\"")
            .route(
                "name = \"optional\"\npath = \"/optional/{*rest}\"\nupstream = \"app\"\nauth = \"optional\"",
            );
        change(routes.section(IDENTITY))
    })
}

impl Scene {
    /// These lines (each with its own end) between Host and Authorization.
    fn guarded(&self, lines: &[u8]) -> Response {
        let rest = self.bearer() + "Connection: close\r\n\r\n";
        let head = [b"GET /x HTTP/1.1\r\nHost: a.test\r\n", lines, rest.as_bytes()].concat();
        self.gateway.raw().send(head).response()
    }

    /// The same without a token.
    fn anonymous(&self, path: &str, lines: &[u8]) -> Response {
        let line = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n");
        self.gateway.raw().send([line.as_bytes(), lines, b"Connection: close\r\n\r\n"].concat()).response()
    }

    fn seen(&self) -> Seen {
        let seen = self.origin.only();
        self.origin.forget();
        seen
    }
}

/// Spellings a service may read as `x-user-id`: WSGI, CGI, PHP and others fold what is not alphanumeric.
const SPELLINGS: &[(&str, &str)] = &[
    ("x-user-id", "CVE-2025-64484"),
    ("X-User-Id", "CVE-2025-64484: another case"),
    ("X_User_Id", "CVE-2025-64484: underscores"),
    ("x_user-id", "CVE-2026-54763: mixed"),
    ("X.User.Id", "CVE-2026-88011: dots"),
    ("x~user~id", "CVE-2026-88011: any token character"),
    ("x!user|id", "CVE-2026-88011"),
    ("x-user_roles", "CVE-2026-44087: a claim that the token lacks"),
];

#[test]
fn no_spelling_of_an_identity_header_reaches_the_origin_from_a_client() {
    let scene = scene(|it| it);
    for (name, why) in SPELLINGS {
        let lines = format!("{name}: mallory\r\n{name}: mallory2\r\n");
        assert_eq!(scene.guarded(lines.as_bytes()).status, 200, "{name}");
        let seen = scene.seen();
        assert!(!seen.text().contains("mallory"), "{why}: {}", seen.text());
        assert_eq!(seen.values("x-user-id"), ["alice"], "{why}");
        let folded = seen.folded_names().into_iter().filter(|it| it == "x-user-id").count();
        assert_eq!(folded, 1, "{why}: {}", seen.text());
    }
}

#[test]
fn on_public_and_anonymous_requests_identity_headers_are_removed_too() {
    let scene = scene(|it| it);
    for path in ["/public/x", "/optional/x"] {
        for (name, why) in SPELLINGS {
            let lines = format!("{name}: mallory\r\n");
            assert_eq!(scene.anonymous(path, lines.as_bytes()).status, 200, "{path} {name}");
            let seen = scene.seen();
            assert!(!seen.text().contains("mallory"), "CVE-2026-30851, {why}: {}", seen.text());
            assert!(seen.values("x-user-id").is_empty(), "{}", seen.text());
        }
    }
}

#[test]
fn identity_headers_in_trailers_are_removed_or_refused() {
    let scene = scene(|it| it);
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-user-id\r\nConnection: close\r\n\r\n",
        scene.token
    );
    let mut raw = scene.gateway.raw();
    let response =
        raw.send(head + "2\r\nhi\r\n0\r\nX-User-Id: mallory\r\nx_user_id: mallory\r\n\r\n").response();
    for seen in scene.origin.requests() {
        assert!(!String::from_utf8_lossy(&seen.body).contains("mallory"), "{response:?}: {seen:?}");
        assert!(!seen.text().contains("mallory"), "{}", seen.text());
    }
}

#[test]
fn a_header_named_by_connection_cannot_take_ours_away() {
    let scene = scene(|it| it);
    for (connection, why) in [
        ("x-user-id", "CVE-2024-45410"),
        ("close, X-User-Id", "CVE-2026-29054"),
        ("keep-alive, x-user-id, x-user-roles", "CVE-2026-105299"),
        ("authorization", "the token's own header"),
        ("host", "the host"),
        ("x_user_id", "another spelling"),
    ] {
        let response = scene.guarded(format!("Connection: {connection}\r\n").as_bytes());
        // Refusing so odd a request is as good as seeing through it.
        if response.status == 200 {
            let seen = scene.seen();
            assert_eq!(seen.values("x-user-id"), ["alice"], "{why}: {}", seen.text());
            assert_eq!(seen.values("host").len(), 1, "{why}");
            let ours = seen.values("connection").join(",").to_lowercase();
            assert!(!ours.contains("user") && !ours.contains("auth"), "{why}: {}", seen.text());
        } else {
            assert_eq!(response.status, 400, "{why}: {response:?}");
            scene.origin.saw_nothing();
        }
    }
}

#[test]
fn hop_by_hop_headers_end_here() {
    let scene = scene(|it| it);
    let lines =
        b"Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                  Proxy-Authorization: Basic eDp5\r\nTE: trailers\r\n";
    assert_eq!(scene.guarded(lines).status, 200);
    let seen = scene.seen();
    for name in ["x-private", "keep-alive", "proxy-connection", "proxy-authorization", "te"] {
        assert!(seen.values(name).is_empty(), "RFC 9110 7.6.1: {name}: {}", seen.text());
    }
}

#[test]
fn a_value_that_policy_reads_is_visible_ascii_or_the_request_is_refused() {
    let scene = scene(|it| it.section("[token]\nfrom = [\"header:authorization\", \"cookie:access_token\"]"));
    for (line, why) in [
        (&b"Authorization: Bearer \xff\xfe\r\n"[..], "CVE-2026-73552: never read as absent"),
        (b"Authorization: Bearer a\x80b\r\n", "CVE-2023-27488"),
        (b"Cookie: access_token=\xc3\xa9\r\n", "CVE-2023-27488: the cookie it might stand in"),
    ] {
        // `optional` would let an absent token pass: here it must not look absent.
        let response = scene.anonymous("/optional/x", line);
        assert!(matches!(response.status, 400 | 401), "{why}: {response:?}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn malformed_header_lines_are_refused() {
    let scene = scene(|it| it);
    for (line, why) in [
        (&b": value\r\n"[..], "CVE-2023-25725: empty name"),
        (b"X-A : value\r\n", "RFC 9112 5.1: space before the colon"),
        (b"X-A\t: value\r\n", "RFC 9112 5.1: tab before the colon"),
        (b"X-A: one\r\n two\r\n", "RFC 9112 5.2: folded line"),
        (b"X-A: one\r\n\ttwo\r\n", "RFC 9112 5.2: folded line"),
        (b" X-A: one\r\n", "RFC 9112 2.2: space before the first field"),
        (b"X-A: a\0b\r\n", "RFC 9110 5.5: NUL"),
        (b"X-A: a\rb\r\n", "RFC 9112 2.2: bare CR"),
        (b"X A: v\r\n", "RFC 9110 5.1: not a token"),
        (b"X-A\r\n", "no colon"),
        (b"X(A): v\r\n", "RFC 9110 5.1: not a token"),
        (b"X\xc3\xa9: v\r\n", "RFC 9110 5.1: not ASCII"),
    ] {
        let response = scene.guarded(line);
        assert_eq!(response.status, 400, "{why}: {response:?}");
        scene.origin.saw_nothing();
    }
}

/// What untrusted peers may not say: where they come from, what they asked "originally", which method they meant.
const FORWARDED: &[(&str, &str)] = &[
    ("X-Forwarded-For", "CVE-2026-34457"),
    ("X-Forwarded-Host", "CVE-2026-40575"),
    ("X-Forwarded-Proto", "CVE-2026-40575"),
    ("X-Forwarded-Port", "CVE-2026-40575"),
    ("X-Forwarded-Uri", "CVE-2026-76835"),
    ("X_Forwarded_For", "CVE-2026-76835: another spelling"),
    ("X-Forwarded-User", "CVE-2026-35051"),
    ("Forwarded", "CVE-2026-34457"),
    ("X-Real-IP", "CVE-2026-34457"),
    ("X-Original-URL", "CVE-2026-76835"),
    ("X-Original-Host", "CVE-2026-76835"),
    ("X-Rewrite-URL", "CVE-2026-76835"),
    ("X-HTTP-Method-Override", "CVE-2026-35051"),
    ("X-HTTP-Method", "CVE-2026-35051"),
    ("X-Method-Override", "CVE-2026-35051"),
    ("X-Host", "CVE-2026-40575"),
    ("X-Scheme", "CVE-2026-40575"),
    ("Front-End-Https", "CVE-2026-40575"),
    ("Proxy", "CVE-2016-5385"),
];

#[test]
fn what_only_a_trusted_proxy_may_say_is_dropped() {
    let scene = scene(|it| it);
    for (name, why) in FORWARDED {
        assert_eq!(scene.guarded(format!("{name}: mallory.test\r\n").as_bytes()).status, 200, "{name}");
        let seen = scene.seen();
        assert!(!seen.text().contains("mallory"), "{why}: {}", seen.text());
    }
}

#[test]
fn forwarded_headers_choose_no_rule() {
    let scene = scene(|it| it);
    for line in [
        "X-Original-URL: /public/x\r\n",
        "X-Rewrite-URL: /public/x\r\n",
        "X-Forwarded-Uri: /public/x\r\n",
        "X-Forwarded-Prefix: /public\r\n",
        "X-Forwarded-Host: public.test\r\n",
        "User-Agent: kube-probe/1.30\r\n",
        "User-Agent: GoogleHC/1.0\r\n",
        "X-HTTP-Method-Override: OPTIONS\r\n",
    ] {
        let response = scene.anonymous("/x", line.as_bytes());
        assert_eq!((response.status, response.reason().as_str()), (401, "token_missing"), "{line}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn a_trusted_proxy_is_believed() {
    let scene = scene(|it| it.server("trusted_proxies = [\"127.0.0.1/32\"]"));
    assert_eq!(scene.guarded(b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n").status, 200);
    let seen = scene.seen();
    assert!(seen.values("x-forwarded-for").concat().starts_with("192.0.2.7"), "{}", seen.text());
    assert_eq!(seen.values("x-forwarded-proto"), ["https"]);
}

#[test]
fn a_stranger_is_named_by_the_gateway_itself() {
    let scene = scene(|it| it);
    assert_eq!(scene.guarded(b"X-Forwarded-For: 192.0.2.7\r\n").status, 200);
    let seen = scene.seen();
    assert!(!seen.text().contains("192.0.2.7"), "{}", seen.text());
    let named = seen.values("x-forwarded-for");
    assert!(named.is_empty() || named == ["127.0.0.1"], "{named:?}");
}

/// The same request by HTTP/2: other code writes it.
#[test]
fn a_service_of_http2_hears_nobody_but_the_gateway_either() {
    let service = Service::start(Speaks::h2c());
    let issuer = Issuer::new(Algorithm::ES256);
    let upstream = service.config_toml("app", "http2 = true");
    let setup = Setup::new().issuer(&issuer).section(&upstream).section(IDENTITY);
    let gateway = setup.route("path = \"/{*rest}\"\nupstream = \"app\"").start();
    let mut lines = format!("Authorization: Bearer {}\r\n", issuer.good("alice"));
    for (name, _) in SPELLINGS.iter().chain(FORWARDED) {
        lines.push_str(&format!("{name}: mallory.test\r\n"));
    }
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: a.test\r\n{lines}Connection: close, x-user-id, x-private\r\nX-Private: mallory\r\n\
         TE: trailers\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let body = "2\r\nhi\r\n0\r\nX-User-Id: mallory\r\n\r\n";
    assert_eq!(gateway.raw().send(head + body).response().status, 200);
    let told = service.only();
    assert_eq!((told.version, &told.body[..]), ("HTTP/2.0", &b"hi"[..]));
    let ids: Vec<_> = told.headers.get_all("x-user-id").iter().collect();
    assert_eq!(ids, ["alice"]);
    for (name, value) in &told.headers {
        assert!(!value.as_bytes().starts_with(b"mallory"), "{name}: {told:?}");
    }
    for name in ["connection", "keep-alive", "transfer-encoding", "te", "x-private", "upgrade"] {
        assert!(!told.headers.contains_key(name), "{name}: {told:?}");
    }
}

#[test]
fn different_tokens_in_two_places_are_refused() {
    let origin = Origin::start();
    let issuer = Issuer::new(Algorithm::ES256);
    let gateway = Gateway::guarding(&issuer, &origin)
        .section(
            "[token]\nfrom = [\"header:authorization\", \"cookie:access_token\", \"query:access_token\"]",
        )
        .start();
    let (one, two) = (issuer.good("alice"), issuer.good("bob"));
    let send = |path: &str, lines: String| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{lines}Connection: close\r\n\r\n");
        gateway.raw().send(head).response().status
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(send("/x", bearer(&one) + &bearer(&two)), 400);
    assert_eq!(send("/x", bearer(&one) + &format!("Cookie: access_token={two}\r\n")), 400);
    assert_eq!(send("/x", format!("Cookie: access_token={one}; access_token={two}\r\n")), 400);
    assert_eq!(send(&format!("/x?access_token={two}"), bearer(&one)), 400);
    assert_eq!(send(&format!("/x?access_token={one}&access_token={two}"), String::new()), 400);
    origin.saw_nothing();
    assert_eq!(send("/x", format!("Cookie: access_token={one}\r\n")), 200);
    assert_eq!(send(&format!("/x?access_token={one}"), String::new()), 200);
}
