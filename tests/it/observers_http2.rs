//! What answers tell, and tokens in bodies, where client or service speak HTTP/2.

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::ledger_common::{becomes, document, patient_redis, verdict};
use crate::observers::setup;
use crate::refresh::{BODY, refresh_token};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Response;
use crate::support::redis::Redis;
use crate::support::service::{Service, Speaks};

const PRESETS: &str = "[ledger]\npresets = [\"native\", \"token-blacklist\"]\n";

/// A login whose answer is held back until its tokens are kept.
fn login(upstream: &str) -> String {
    format!(
        "name = \"login\"\npath = \"/login\"\nupstream = \"{upstream}\"\nauth = \"public\"\n\
         on_response = [{{ track = \"session\", token_at = \"/accessToken\", refresh_at = \"/refreshToken\", max_bytes = \"4KiB\" }}]"
    )
}

fn opened(issuer: &Issuer, subject: &str) -> (Value, String) {
    let refresh = refresh_token(issuer, subject);
    (json!({ "accessToken": issuer.good(subject), "refreshToken": refresh }), refresh)
}

/// A POST whose head says nothing more than this, not even how long its body is.
fn post(client: &mut Http2, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let request = Request::post(format!("https://a.test{path}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    client.request(request.body(()).unwrap(), body.as_bytes()).unwrap()
}

fn is_kept(redis: &Redis, refresh: &str) {
    assert_eq!(document(redis, &format!("refresh_token:{refresh}"))["isRevoked"], json!(false));
}

#[test]
fn a_logout_and_a_login_are_heard_where_the_client_speaks_http2() {
    let redis = Redis::start();
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let setup = setup(&issuer, &origin).server("h2c = true");
    let gateway = setup.route(&login("app")).section(&patient_redis(&redis)).section(PRESETS).start();
    let mut client = Http2::plain(gateway.addr());

    let token = issuer.good("alice");
    let bearer = format!("Bearer {token}");
    let out = post(&mut client, "/token", &[("authorization", &bearer)], "");
    assert_eq!((out.status, out.text()), (200, "ok".to_owned()));
    assert_eq!(verdict(&gateway, &token), "401 token_revoked", "the very next request");

    for chunked in [false, true] {
        let (body, refresh) = opened(&issuer, "7");
        let mut answer = Answer::new(200, body.to_string()).header("Content-Type", "application/json");
        answer.chunked = chunked;
        origin.answer(move |_| answer.clone());
        let logged_in = post(&mut client, "/login", &[], "");
        is_kept(&redis, &refresh);
        assert_eq!((logged_in.status, logged_in.text()), (200, body.to_string()), "chunked: {chunked}");
        assert_eq!(logged_in.header("content-type"), Some("application/json"));
    }
    // What becomes too long is let go, head first; what has no body is not waited for.
    for body in ["x".repeat(100_000), String::new()] {
        let answer = Answer::new(200, &body).header("Content-Type", "application/json").chunked();
        origin.answer(move |_| answer.clone());
        let passed = post(&mut client, "/login", &[], "");
        assert_eq!(passed.status, 200);
        assert!(passed.text() == body, "{} bytes", passed.body.len());
    }
    assert!(client.is_open(), "an answer that was held back does not cost the connection");
}

#[test]
fn a_client_that_resets_its_stream_does_not_undo_a_logout() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let gateway = setup(&issuer, &origin).server("h2c = true").start();
    let mut client = Http2::plain(gateway.addr());
    let body = Bytes::from_static(b"{}");
    for (path, with_body) in [("/token", false), ("/token", true), ("/x", false)] {
        let token = issuer.good("alice");
        origin.forget();
        origin.answer(|_| Answer::ok().delayed(Duration::from_millis(300)));
        let request = Request::post(format!("https://a.test{path}"));
        let request = request.header("authorization", format!("Bearer {token}")).body(()).unwrap();
        let mut pending = client.begin(request, !with_body).unwrap();
        if with_body {
            pending.body.send_data(body.clone(), true).unwrap();
        }
        eventually("the service has the request", || match origin.requests().len() {
            1 => Ok(()),
            other => Err(other),
        });
        pending.body.send_reset(h2::Reason::CANCEL);
        drop(pending);
        origin.answer(|_| Answer::ok());
        let expected = if path == "/token" { "401 token_revoked" } else { "200" };
        becomes(&gateway, &token, expected);
    }
    // The connection goes on, and so does what is answered on it.
    let token = issuer.good("alice");
    let answer = Answer::new(200, "x".repeat(300_000)).chunked();
    origin.answer(move |_| answer.clone());
    let out = post(&mut client, "/token", &[("authorization", &format!("Bearer {token}"))], "{}");
    assert_eq!((out.status, out.body.len()), (200, 300_000));
    origin.answer(|_| Answer::new(304, ""));
    let token = issuer.good("alice");
    let fields =
        [("authorization", &*format!("Bearer {token}")), ("if-none-match", "\"a\""), ("range", "bytes=0-1")];
    assert_eq!(post(&mut client, "/token", &fields, "").status, 304);
    let seen = origin.requests().pop().unwrap();
    assert_eq!(
        (seen.values("if-none-match"), seen.values("range")),
        (vec!["\"a\"".into()], vec!["bytes=0-1".into()])
    );
    assert_eq!(
        client.get("a.test", "/token", &[("authorization", &format!("Bearer {token}"))]).unwrap().status,
        304
    );
}

#[test]
fn a_reset_does_not_undo_a_logout_of_a_service_that_speaks_http2() {
    let issuer = Issuer::new(Algorithm::HS256);
    let service = Service::start(Speaks::h2c());
    let gateway = Setup::new()
        .server("h2c = true")
        .issuer(&issuer)
        .section(&service.config_toml("app", "http2 = true"))
        .route("name = \"out\"\npath = \"/hold\"\nupstream = \"app\"\non_response = [{ revoke = \"token\" }]")
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
        .start();
    let mut client = Http2::plain(gateway.addr());
    for (count, with_body) in [(1, false), (2, true)] {
        let token = issuer.good("alice");
        let request = Request::post("https://a.test/hold").header("authorization", format!("Bearer {token}"));
        let mut pending = client.begin(request.body(()).unwrap(), !with_body).unwrap();
        if with_body {
            pending.body.send_data(Bytes::from_static(b"{}"), true).unwrap();
        }
        eventually("the service has the request", || match service.requests_to("/hold") {
            it if it == count => Ok(()),
            other => Err(other),
        });
        pending.body.send_reset(h2::Reason::CANCEL);
        drop(pending);
        // Answered on the same connection, in order: the gateway has seen the reset.
        let other = format!("Bearer {}", issuer.good("bob"));
        assert_eq!(client.get("a.test", "/x", &[("authorization", &other)]).unwrap().status, 200);
        service.go_on();
        becomes(&gateway, &token, "401 token_revoked");
    }
}

#[test]
fn a_login_is_heard_where_the_service_speaks_http2_and_ends_with_trailers() {
    let redis = Redis::start();
    let issuer = Issuer::new(Algorithm::HS256);
    let service = Service::start(Speaks::h2c());
    let gateway = Setup::new()
        .server("h2c = true")
        .issuer(&issuer)
        .section(&patient_redis(&redis))
        .section(PRESETS)
        .section(&service.config_toml("app", "http2 = true"))
        .route(&login("app"))
        .start();
    let mut two = Http2::plain(gateway.addr());
    let mut one = gateway.raw();
    for long in [false, true] {
        for client in ["HTTP/1.1", "HTTP/1.0", "HTTP/2"] {
            let (mut body, refresh) = opened(&issuer, "7");
            if long {
                body["pad"] = json!("x".repeat(20_000));
            }
            let text = body.to_string();
            let length = text.len();
            let fields = "Host: a.test\r\nContent-Type: application/json";
            let answer = match client {
                "HTTP/2" => post(&mut two, "/login", &[("content-type", "application/json")], &text),
                "HTTP/1.1" => one
                    .send(format!(
                        "POST /login HTTP/1.1\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{text}"
                    ))
                    .response(),
                _ => gateway
                    .raw()
                    .send(format!(
                        "POST /login HTTP/1.0\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{text}"
                    ))
                    .response(),
            };
            assert_eq!(answer.status, 200, "{client}");
            assert!(answer.text() == text, "{client}: {} bytes of {length}", answer.body.len());
            if !long {
                is_kept(&redis, &refresh);
            }
        }
    }
}

#[test]
fn a_body_that_was_read_for_its_token_reaches_the_server_that_is_asked_next_whole() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    // Nobody listens there any more.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Setup::new()
        .server("h2c = true")
        .issuer(&issuer)
        .section(&format!(
            "[[upstreams]]\nname = \"app\"\nservers = [\"{dead}\", \"{}\"]\neject = {{ failures = 0 }}\n",
            origin.addr()
        ))
        .route(&format!(
            "name = \"refresh\"\npath = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n{BODY}"
        ))
        .start();
    let token = refresh_token(&issuer, "alice");
    let body = json!({ "pad": "x".repeat(30_000), "refreshToken": token }).to_string();
    let mut client = Http2::plain(gateway.addr());
    for http2 in [false, true, false, true] {
        let answer = match http2 {
            true => {
                let length = body.len().to_string();
                let fields = [("content-type", "application/json"), ("content-length", &*length)];
                post(&mut client, "/refresh", &fields, &body)
            }
            false => {
                gateway.request("POST", "/refresh", &["Content-Type: application/json"], body.as_bytes())
            }
        };
        assert_eq!(answer.status, 200, "HTTP/2: {http2}: {}", answer.text());
        let seen = origin.only();
        assert!(seen.body == body.as_bytes(), "HTTP/2: {http2}: {} bytes", seen.body.len());
        origin.forget();
    }
    assert!(retries(&gateway) >= 1.0, "the other server was asked first");
}

fn retries(gateway: &Gateway) -> f64 {
    gateway.metric("portcullis_upstream_retries_total{upstream=\"app\"}").unwrap_or_default()
}

#[test]
fn a_token_in_a_body_of_http2_counts_however_its_end_is_told() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let gateway = Gateway::guarding(&issuer, &origin)
        .server("h2c = true")
        .route(
            "name = \"refresh\"\npath = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n\
             token_from = [\"cookie:refresh\", \"body:refreshToken\"]",
        )
        .start();
    let (good, banned) = (refresh_token(&issuer, "alice"), refresh_token(&issuer, "mallory"));
    gateway.ban("mallory");
    let mut client = Http2::plain(gateway.addr());
    let cookie = format!("refresh={good}");
    let json = ("content-type", "application/json");
    // The body is looked into although its length is not told, and a good cookie does not hide it.
    let body = json!({ "refreshToken": banned }).to_string();
    assert_eq!(post(&mut client, "/refresh", &[json], &body).reason(), "user_banned");
    let both = post(&mut client, "/refresh", &[json, ("cookie", &cookie)], &body);
    assert_eq!(both.reason(), "request_ambiguous");
    origin.saw_nothing();
    // A body that is told of, and then is none.
    let request = Request::post("https://a.test/refresh").header("cookie", &cookie).body(()).unwrap();
    let mut pending = client.begin(request, false).unwrap();
    pending.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(client.answer(pending.response).unwrap().status, 200);
}
