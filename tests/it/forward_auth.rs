//! Forward-auth, asked as proxies ask: what is believed of a question, and what is answered.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::raw::{self, Raw, Response};
use crate::support::{eventually, unique};

const ROUTES: &str = "[[routes]]\nname = \"app\"\npath = \"/{*rest}\"\n\
    [[routes]]\nname = \"public\"\npath = \"/public/{*rest}\"\nmethods = [\"GET\"]\nauth = \"public\"\n\
    [[routes]]\nname = \"shop\"\npath = \"/shop/{*rest}\"\nauth = \"optional\"\n\
    [[routes]]\nname = \"api\"\nhosts = [\"api.test\"]\npath = \"/who\"\nauth = \"public\"\n";

fn asked(style: &str, issuer: &Issuer, more: &str) -> Setup {
    let section = format!("[forward_auth]\nlisten = [\"127.0.0.1:0\"]\nstyle = \"{style}\"\n{more}\n");
    Setup::new().issuer(issuer).section(&section).section(ROUTES)
}

fn start(style: &str) -> (Gateway, Issuer) {
    let issuer = Issuer::new(Algorithm::ES256);
    (asked(style, &issuer, "").start(), issuer)
}

/// What nginx asks by the documented configuration; `more` as its client's headers.
fn nginx(gateway: &Gateway, method: &str, uri: &str, more: &[&str]) -> Response {
    let own = [format!("X-Original-Method: {method}"), format!("X-Original-URI: {uri}")];
    let fixed = ["X-Original-Host: api.test", "X-Forwarded-For: 192.0.2.7"];
    let all: Vec<&str> = own.iter().map(String::as_str).chain(fixed).chain(more.iter().copied()).collect();
    raw::request(gateway.asked_at(), "GET", "/_portcullis", &all, b"")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// The access lines of requests that a proxy has asked about.
fn lines(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("the access lines are written", || {
        let of_access = |line: &Value| line["target"] == "access";
        let lines: Vec<_> = gateway.log_lines().into_iter().filter(of_access).collect();
        if lines.len() >= count { Ok(lines) } else { Err(lines) }
    })
}

#[test]
fn a_pass_is_200_with_what_the_service_is_to_be_told() {
    let (gateway, issuer) = start("nginx");
    let token = issuer.good("alice");
    let passed = nginx(&gateway, "POST", "/x?secret=1", &[&bearer(&token)]);
    assert_eq!((passed.status, passed.header("x-user-id")), (200, Some("alice")));
    assert!(passed.header("x-session-id").is_some() && passed.header("x-user-roles").is_none());
    assert_eq!(
        (passed.header("content-length"), passed.header("cache-control")),
        (Some("0"), Some("no-store"))
    );
    assert_eq!(passed.header("x-envoy-auth-headers-to-remove"), None);

    let line = lines(&gateway, 1).remove(0);
    assert_eq!(
        (&line["method"], &line["path"], &line["route"]),
        (&json!("POST"), &json!("/x"), &json!("app"))
    );
    assert_eq!((&line["asked_by"], &line["client"]), (&json!("nginx"), &json!("192.0.2.7")));
    assert_eq!((&line["request_id"], &line["sub"]), (&json!(passed.header("x-request-id")), &json!("alice")));
    let series = "portcullis_requests_total{method=\"POST\",route=\"app\",status=\"2xx\"}";
    assert_eq!(gateway.metric(series), Some(1.0));
    let series = "portcullis_verdicts_total{reason=\"none\",route=\"app\",verdict=\"allow\"}";
    assert_eq!(gateway.metric(series), Some(1.0));
}

#[test]
fn a_question_without_each_of_its_headers_once_is_refused_whoever_sent_them() {
    let (gateway, issuer) = start("nginx");
    let token = bearer(&issuer.good("alice"));
    let own = ["X-Original-Method: GET", "X-Original-URI: /public/a", "X-Original-Host: api.test"];
    let all = [&own[..], &["X-Forwarded-For: 192.0.2.7", &token]].concat();
    let ask = |headers: &[&str]| raw::request(gateway.asked_at(), "GET", "/public/a", headers, b"");
    assert_eq!(ask(&all).status, 200);
    for at in 0..4 {
        let mut without = all.clone();
        let left_out = without.remove(at);
        let refused = ask(&without);
        assert_eq!(refused.header("x-portcullis-status"), Some("400"), "without {left_out}");
    }
    for twice in own {
        let (name, _) = twice.split_once(':').unwrap();
        let refused = ask(&[&all[..], &[&format!("{name}: /public/b")]].concat());
        assert_eq!(refused.header("x-portcullis-status"), Some("400"), "{name} twice");
    }
    // Another style's are nobody's.
    let others = ["X-Forwarded-Method: GET", "X-Forwarded-Uri: /public/a", "X-Forwarded-Host: h"];
    let refused = ask(&[&others[..], &["X-Forwarded-For: 192.0.2.7"]].concat());
    assert_eq!(refused.header("x-portcullis-status"), Some("400"));
    assert_eq!(nginx(&gateway, "GET", "/x", &others).status, 401);
}

#[test]
fn a_method_is_the_originals_and_so_is_the_host() {
    let (gateway, _) = start("nginx");
    assert_eq!(nginx(&gateway, "GET", "/public/a", &[]).status, 200);
    assert_eq!(nginx(&gateway, "POST", "/public/a", &[]).status, 401, "the route is for GET");
    assert_eq!(nginx(&gateway, "GET", "/who", &[]).status, 200, "the route of the host");
    for refused in ["TRACE", "CONNECT", "track"] {
        assert_eq!(nginx(&gateway, refused, "/public/a", &[]).header("x-portcullis-status"), Some("405"));
    }
    let other = ["X-Original-Method: GET", "X-Original-URI: /who", "X-Original-Host: other.test"];
    let refused = [&other[..], &["X-Forwarded-For: 192.0.2.7"]].concat();
    assert_eq!(raw::request(gateway.asked_at(), "GET", "/", &refused, b"").status, 401);
}

#[test]
fn nginx_is_told_in_headers_what_it_cannot_hear() {
    let (gateway, issuer) = start("nginx");
    let missing = nginx(&gateway, "GET", "/x", &[]);
    assert_eq!((missing.status, missing.header("x-portcullis-status")), (401, Some("401")));
    assert_eq!(
        (missing.header("www-authenticate"), missing.header("x-portcullis-challenge")),
        (Some("Bearer"), None)
    );
    let body: Value = serde_json::from_str(missing.header("x-portcullis-body").unwrap()).unwrap();
    assert_eq!((&body["reason"], missing.text()), (&json!("token_missing"), String::new()));

    let token = issuer.good("alice");
    gateway.ban("alice");
    let banned = nginx(&gateway, "GET", "/x", &[&bearer(&token)]);
    assert_eq!((banned.status, banned.header("x-portcullis-status")), (403, Some("403")));
    assert!(banned.header("x-portcullis-challenge").unwrap().contains("The user is banned"));
    let ambiguous = nginx(&gateway, "GET", "/public/../x", &[]);
    assert_eq!((ambiguous.status, ambiguous.header("x-portcullis-status")), (403, Some("400")));

    // What is counted is what the client will hear.
    let mut statuses: Vec<_> = lines(&gateway, 3).iter().map(|line| line["status"].as_u64()).collect();
    statuses.sort();
    assert_eq!(statuses, [400, 401, 403].map(Some));
    let series = "portcullis_verdicts_total{reason=\"request_ambiguous\",route=\"(none)\",verdict=\"deny\"}";
    assert_eq!(gateway.metric(series), Some(1.0));
}

#[test]
fn envoys_question_is_the_request_itself_and_it_is_told_what_to_remove() {
    let (gateway, issuer) = start("envoy");
    let token = bearer(&issuer.good("alice"));
    let ask = |method: &str, path: &str, headers: &[&str]| {
        let headers = [headers, &["X-Forwarded-For: 192.0.2.7", "Content-Length: 0"]].concat();
        raw::request(gateway.asked_at(), method, path, &headers, b"")
    };
    let passed = ask("POST", "/x", &[&token]);
    assert_eq!((passed.status, passed.header("x-user-id")), (200, Some("alice")));
    assert_eq!(passed.header("x-envoy-auth-headers-to-remove"), Some("x-user-roles"));
    let anonymous = ask("GET", "/shop/1", &["X-User-Id: mallory"]);
    assert_eq!(
        (anonymous.status, anonymous.header("x-envoy-auth-headers-to-remove")),
        (200, Some("x-session-id,x-user-id,x-user-roles"))
    );
    assert_eq!((ask("HEAD", "/x", &[]).status, ask("HEAD", "/x", &[&token]).status), (401, 200));
    let spoofed = ["X-Original-URI: /public/a", "X-Forwarded-Uri: /public/a", "X-Forwarded-Host: h"];
    assert_eq!(ask("POST", "/x", &spoofed).reason(), "token_missing");
    // What another style's proxy would ask of a gateway that takes it for Envoy.
    for other in ["X-Original-Method: DELETE", "X-Forwarded-Method: DELETE"] {
        assert_eq!(ask("GET", "/public/a", &[other]).reason(), "request_ambiguous");
    }
    assert_eq!(ask("GET", "/%70ublic/a", &[]).reason(), "request_ambiguous");
    assert_eq!(ask("GET", "/public/a", &["X_User_Id: mallory"]).reason(), "request_ambiguous");
}

#[test]
fn a_token_in_a_disguise_is_refused_where_it_cannot_be_taken_out() {
    let issuer = Issuer::new(Algorithm::ES256);
    let setup = asked("caddy", &issuer, "").section("[token]\nfrom = [\"header:x-access-token\"]\n");
    let gateway = setup.start();
    let ask = |header: &str| {
        let own = ["X-Forwarded-Method: GET", "X-Forwarded-Uri: /shop/1", "X-Forwarded-Host: h"];
        let headers = [&own[..], &["X-Forwarded-For: 192.0.2.7", header]].concat();
        raw::request(gateway.asked_at(), "GET", "/", &headers, b"")
    };
    let token = issuer.good("alice");
    assert_eq!(ask(&format!("X-Access-Token: {token}")).header("x-user-id"), Some("alice"));
    assert_eq!(ask(&format!("X_Access_Token: {token}")).reason(), "request_ambiguous");
}

#[test]
fn only_who_is_allowed_may_ask_and_a_reload_decides_who() {
    let issuer = Issuer::new(Algorithm::ES256);
    let of = |allow: &str| asked("nginx", &issuer, &format!("allow = [\"{allow}\"]"));
    let gateway = of("192.0.2.0/24").start();
    let refused = nginx(&gateway, "GET", "/public/a", &[]);
    assert_eq!((refused.status, refused.header("x-portcullis-status")), (403, Some("403")));
    assert!(refused.header("x-portcullis-body").unwrap().contains("asker_refused"));

    let listen = gateway.asked_at();
    let toml = of("127.0.0.1").toml();
    gateway.rewrite_config(&toml);
    eventually("the new list counts", || match nginx(&gateway, "GET", "/public/a", &[]).status {
        200 => Ok(()),
        other => Err(other),
    });
    // Without the section nobody is listened to any more, and who is connected already may not ask.
    let mut kept = raw::Raw::connect(listen);
    let section = toml.find("[forward_auth]").unwrap();
    let routes = toml.find("[[routes]]").unwrap();
    let origin = Origin::start();
    let with_upstream = toml[routes..].replace("path = ", "upstream = \"app\"\npath = ");
    let without = format!("{}{}{}", &toml[..section], origin.config_toml("app"), with_upstream);
    gateway.rewrite_config(&without);
    eventually("the listener is gone", || match std::net::TcpStream::connect(listen) {
        Err(_) => Ok(()),
        Ok(_) => Err(gateway.log()),
    });
    let refused = kept.send("GET /public/a HTTP/1.1\r\nHost: a.test\r\n\r\n").response();
    assert!(refused.status == 403 && refused.text().contains("asker_refused"), "{refused:?}");
    origin.saw_nothing();
}

#[test]
fn a_route_without_an_upstream_is_none_for_requests_that_are_to_be_forwarded() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = asked("nginx", &issuer, "")
        .upstream("app", &origin)
        .route("name = \"both\"\npath = \"/public/both\"\nupstream = \"app\"\nauth = \"public\"\n");
    let gateway = setup.start();
    let token = issuer.good("alice");
    assert_eq!(gateway.get("/x", Some(&token)).reason(), "no_route");
    assert_eq!(gateway.get("/public/a", None).reason(), "no_route");
    origin.saw_nothing();
    assert_eq!(gateway.get("/public/both", None).status, 200);
    assert_eq!(nginx(&gateway, "GET", "/public/both", &[]).status, 200, "may be asked about, too");
    assert_eq!(nginx(&gateway, "GET", "/x", &[&bearer(&token)]).status, 200);
    assert_eq!(origin.requests().len(), 1, "who asks forwards by himself");
}

#[test]
fn a_proxys_connection_is_kept_whatever_it_asks_about() {
    let (gateway, issuer) = start("nginx");
    let token = issuer.good("alice");
    let mut raw = Raw::connect(gateway.asked_at());
    let questions = [
        ("/x", 200),
        ("/../x", 403),
        ("/public/a", 200),
        ("/a%2fb", 403),
        ("/x", 200),
        ("/a b", 403),
        ("/x", 200),
    ];
    for (uri, status) in questions {
        let token = if uri == "/x" { bearer(&token) + "\r\n" } else { String::new() };
        raw.send(format!(
            "GET / HTTP/1.1\r\nHost: p\r\nX-Original-Method: GET\r\nX-Original-URI: {uri}\r\n\
             X-Original-Host: h\r\nX-Forwarded-For: 192.0.2.7\r\n{token}\r\n"
        ));
        assert_eq!(raw.response().status, status, "{uri}");
    }
}

#[test]
fn a_websockets_page_is_asked_for_where_its_user_is_known_by_a_cookie() {
    let (gateway, issuer) = start("nginx");
    let cookie = format!("Cookie: access_token={}", issuer.good("alice"));
    let handshake = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", &cookie];
    let from = |origin: &str| {
        let origin = format!("Origin: {origin}");
        nginx(&gateway, "GET", "/x", &[&handshake[..], &[&origin]].concat())
    };
    assert_eq!(from("https://api.test").status, 200);
    let refused = from("https://evil.test");
    assert_eq!(refused.status, 403);
    assert!(refused.header("x-portcullis-body").unwrap().contains("origin_refused"));
    assert_eq!(nginx(&gateway, "GET", "/x", &handshake).status, 403, "no page at all");
    // Over HTTP/2 a handshake has no key (RFC 8441 section 5).
    let without_key = ["Sec-WebSocket-Version: 13", &cookie, "Origin: https://evil.test"];
    assert_eq!(nginx(&gateway, "GET", "/x", &without_key).status, 403);
    // The question's own host says nothing.
    let spoofed = [&handshake[..], &["Origin: https://evil.test", "X-Forwarded-Host: evil.test"]].concat();
    assert_eq!(nginx(&gateway, "GET", "/x", &spoofed).status, 403);
}

#[test]
fn a_query_token_is_found_where_the_proxy_tells_the_query_and_never_logged() {
    let (gateway, issuer) = start("nginx");
    let token = issuer.good("alice");
    let passed = nginx(&gateway, "GET", &format!("/x?access_token={token}"), &[]);
    assert_eq!(passed.header("x-user-id"), Some("alice"));
    let odd = nginx(&gateway, "GET", &format!("/x/{}//{token}", unique("")), &[]);
    assert_eq!(odd.status, 403);
    assert_eq!(lines(&gateway, 2).len(), 2);
    // What it said is searched for the token when it ends.
    gateway.finish();
}
