//! Where a refresh route finds its token, what it refuses to read, and that the service gets what the client sent.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::refresh::{BODY, JSON, refresh_token, said, scene, setup};
use crate::support::gateway::Setup;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::pause;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

#[test]
fn the_token_is_found_in_json_forms_cookies_and_headers_and_the_body_goes_on_as_it_came() {
    let everywhere = "token_from = [\"body:refreshToken\", \"body:/data/refresh_token\", \"cookie:rt\", \"header:x-refresh\"]";
    let scene = scene(everywhere, &[]);
    let token = scene.token("alice");
    let spaced = format!("{{ \"x\" : [1, 2.50],\n \"refreshToken\"\t: \"{token}\" }}");
    let nested = json!({ "data": { "refresh_token": token } }).to_string();
    let form = format!("grant_type=refresh_token&refreshToken={token}&x=%20+");
    let (cookie, header) = (format!("Cookie: a=1; rt={token}"), format!("X-Refresh: {token}"));
    let ways: [(&[&str], &str); 6] = [
        (&[JSON], &spaced),
        (&["Content-Type: application/json; charset=utf-8"], &nested),
        (&[FORM], &form),
        (&[&cookie], ""),
        (&[&header], ""),
        (&[JSON, &cookie, &header], &spaced),
    ];
    for (headers, body) in ways {
        assert_eq!(scene.post(headers, body).status, 200, "{headers:?}");
        let seen = scene.origin.only();
        assert_eq!(String::from_utf8_lossy(&seen.body), body);
        assert_eq!(seen.values("x-user-id"), ["alice"], "{headers:?}");
        scene.origin.forget();
    }
}

#[test]
fn a_body_in_chunks_and_in_drips_is_read_and_goes_on_whole() {
    let scene = scene(BODY, &[]);
    let body = json!({ "refreshToken": scene.token("alice"), "pad": "x".repeat(5_000) }).to_string();
    let mut raw = scene.gateway.raw();
    for framing in ["Transfer-Encoding: chunked".to_owned(), format!("Content-Length: {}", body.len())] {
        raw.send(format!("POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\n{framing}\r\n\r\n"));
        for part in body.as_bytes().chunks(1_000) {
            match framing.starts_with('T') {
                true => raw.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n"),
                false => raw.send(part),
            };
            pause(Duration::from_millis(2));
        }
        if framing.starts_with('T') {
            raw.send("0\r\n\r\n");
        }
        assert_eq!(raw.response().status, 200, "{framing}");
        let seen = scene.origin.only();
        let (head, wire) = (seen.text(), String::from_utf8_lossy(&seen.body).into_owned());
        // The frame may be another, the bytes within are the same.
        let unframed = if head.to_lowercase().contains("chunked") { unchunked(&wire) } else { wire };
        assert_eq!(unframed, body);
        scene.origin.forget();
    }
}

fn unchunked(mut wire: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = wire.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&rest[..size]);
        wire = rest[size..].strip_prefix("\r\n").unwrap();
    }
    body
}

#[test]
fn a_client_that_expects_to_be_asked_for_its_body_is_asked_once() {
    let scene = scene(BODY, &[]);
    let body = json!({ "refreshToken": scene.token("alice") }).to_string();
    let mut raw = scene.gateway.raw();
    let head = format!(
        "POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw.send(head);
    assert_eq!(raw.response().status, 100);
    raw.send(&body);
    assert_eq!(raw.response().status, 200);
    let seen = scene.origin.only();
    assert!(seen.values("expect").is_empty(), "it has been met");
    assert_eq!(String::from_utf8_lossy(&seen.body), body);
}

/// What `Connection` names does not reach the service, which would have to guess what the body is.
#[test]
fn connection_cannot_take_away_what_the_body_was_read_as() {
    let scene = scene(BODY, &[]);
    let body = json!({ "refreshToken": scene.token("alice"), "x": "&refreshToken=other&" }).to_string();
    for name in ["content-type", "Content-Type", "close, content-encoding"] {
        let response = scene.post(&[JSON, &format!("Connection: {name}")], &body);
        assert_eq!((response.status, response.reason().as_str()), (400, "request_ambiguous"), "{name}");
        scene.origin.saw_nothing();
    }
    assert_eq!(scene.post(&[JSON, "Connection: close"], &body).status, 200);
}

#[test]
fn what_two_readers_could_read_differently_is_refused_and_reaches_nobody() {
    let scene = scene("token_from = [\"body:refreshToken\", \"cookie:rt\"]", &[]);
    let (one, two) = (scene.token("alice"), scene.token("mallory"));
    let cookie = format!("Cookie: rt={two}");
    let bodies = [
        format!("{{\"refreshToken\":\"{one}\",\"refreshToken\":\"{two}\"}}"),
        format!("{{\"refreshToken\":\"{one}\",\"refresh\\u0054oken\":\"{two}\"}}"),
        format!("{{\"refreshToken\":\"{one}\",\"REFRESHTOKEN\":\"{two}\"}}"),
        format!("{{\"refreshToken\":[\"{one}\"]}}"),
        format!("[{{\"refreshToken\":\"{one}\"}}]"),
        format!("{{\"refreshToken\":\"{one}\"}} trailing"),
    ];
    for body in &bodies {
        assert_eq!(said(&scene.post(&[JSON], body)), "400 request_ambiguous", "{}", body.len());
    }
    for body in [
        format!("refreshToken={one}&refreshToken={two}"),
        format!("refreshToken={one}&refresh.token=1&RefreshToken[]={two}"),
        format!("a=1;refreshToken={two}&refreshToken={one}"),
    ] {
        assert_eq!(said(&scene.post(&[FORM], body)), "400 request_ambiguous");
    }
    let hidden = json!({ "refreshToken": two }).to_string();
    assert_eq!(said(&scene.post(&[FORM, &format!("Cookie: rt={one}")], hidden)), "400 request_ambiguous");
    let query = format!("/refresh?RefreshToken={two}");
    let cookie_of_one = format!("Cookie: rt={one}");
    let beside = scene.gateway.request("POST", &query, &[&cookie_of_one], b"");
    assert_eq!(said(&beside), "400 request_ambiguous");
    let both = json!({ "refreshToken": one }).to_string();
    assert_eq!(said(&scene.post(&[JSON, &cookie], &both)), "400 request_ambiguous");
    let twice = [JSON, "Content-Type: text/plain"];
    assert_eq!(said(&scene.post(&twice, &both)), "400 request_ambiguous");
    scene.origin.saw_nothing();
}

#[test]
fn a_body_that_cannot_be_read_as_the_service_reads_it_is_a_415_even_beside_a_good_cookie() {
    let scene = scene("token_from = [\"body:refreshToken\", \"cookie:rt\"]", &[]);
    let token = scene.token("alice");
    let (cookie, body) = (format!("Cookie: rt={token}"), json!({ "refreshToken": token }).to_string());
    let unread = [
        vec!["Content-Type: text/plain"],
        vec!["Content-Type: multipart/form-data; boundary=x"],
        vec!["Content-Type: application/json; charset=utf-16"],
        vec![JSON, "Content-Encoding: gzip"],
        vec![],
    ];
    for mut headers in unread {
        headers.push(&cookie);
        let response = scene.post(&headers, &body);
        assert_eq!(said(&response), "415 body_unreadable", "{headers:?}");
        assert_eq!(response.header("accept-encoding"), Some("identity"));
    }
    scene.origin.saw_nothing();
    assert_eq!(scene.post(&[&cookie], "").status, 200, "no body, nothing to read");
}

#[test]
fn a_body_over_the_bound_is_a_413_whether_it_says_so_or_not() {
    let scene = scene(BODY, &["[token]\nbody_bytes = \"1KiB\""]);
    let body = json!({ "refreshToken": scene.token("alice"), "pad": "x".repeat(1_000) }).to_string();
    assert_eq!(said(&scene.post(&[JSON], &body)), "413 body_too_large");
    let mut raw = scene.gateway.raw();
    raw.send(format!(
        "POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    raw.send(format!("{:x}\r\n{body}\r\n", body.len()));
    assert_eq!(raw.response().reason(), "body_too_large");
    raw.assert_closed();
    scene.origin.saw_nothing();
    // Elsewhere the ordinary limit holds.
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    assert_eq!(scene.gateway.request("POST", "/x", &[&bearer], body.as_bytes()).status, 200);
}

#[test]
fn a_client_that_never_finishes_its_body_is_not_waited_for() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    let gateway = setup(&issuer, &origin, BODY).server("limits = { header_timeout = \"1s\" }").start();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut raw = gateway.raw();
        raw.send(format!("POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\n{framing}\r\n\r\n"));
        // A byte now and then does not buy more time.
        raw.send(if framing.starts_with('T') { "1\r\n{\r\n" } else { "{" });
        let response = raw.response();
        assert_eq!(said(&response), "408 body_timeout", "{framing}");
        raw.assert_closed();
    }
    // Nor is one that hangs up in the middle.
    let mut raw = gateway.raw();
    raw.send(format!("POST /refresh HTTP/1.1\r\nHost: a.test\r\n{JSON}\r\nContent-Length: 100\r\n\r\n{{"));
    raw.finish();
    assert!(raw.try_response().is_ok_and(|it| it.status == 400) || raw.is_closed());
    origin.saw_nothing();
}

#[test]
fn another_server_gets_the_same_body_where_the_first_does_not_answer() {
    let (issuer, origin) = (Issuer::new(Algorithm::HS256), Origin::start());
    origin.answer(|_| Answer::ok());
    let upstream = format!(
        "[[upstreams]]\nname = \"app\"\nservers = [\"127.0.0.1:{}\", \"{}\"]\nretries = 1\n",
        crate::support::free_port(),
        origin.addr()
    );
    let gateway = Setup::new()
        .issuer(&issuer)
        .section(&upstream)
        .route(&format!("path = \"/refresh\"\nupstream = \"app\"\nauth = \"refresh\"\n{BODY}"))
        .start();
    let body = json!({ "refreshToken": refresh_token(&issuer, "alice") }).to_string();
    for _ in 0..4 {
        assert_eq!(gateway.request("POST", "/refresh", &[JSON], body.as_bytes()).status, 200);
    }
    assert!(origin.requests().iter().all(|seen| seen.body == body.as_bytes()));
}

#[test]
fn the_services_refresh_token_is_not_taken_out_and_lookalikes_are() {
    let from = "token_from = [\"header:x-refresh\", \"cookie:rt\"]";
    let scene = scene(
        from,
        &["[identity]\nforward_token = false", "[token]\nfrom = [\"header:authorization\", \"cookie:rt\"]"],
    );
    let token = scene.token("alice");
    let (header, cookie) = (format!("X-Refresh: {token}"), format!("Cookie: rt={token}"));
    let lookalike = format!("X_Refresh: {}", scene.token("mallory"));
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("alice"));
    assert_eq!(scene.post(&[&header, &cookie, &lookalike, &bearer], "").status, 200);
    let seen = scene.origin.only();
    assert_eq!(
        (seen.values("x-refresh"), seen.values("cookie")),
        (vec![token.clone()], vec![format!("rt={token}")])
    );
    assert!(seen.values("x_refresh").is_empty() && seen.values("authorization").is_empty());
}
