//! Chromium: pages, cookies, events and WebSockets through the gateway, over HTTP/1.1 and over TLS with HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::pki::{Authority, Shelf};
use crate::support::python::Script;
use crate::support::raw::find;
use crate::support::scripted::{Scripted, Talk};

const PAGE: &str = "<!doctype html><title>page</title>";

struct Scene {
    issuer: Issuer,
    gateway: Gateway,
    _service: Scripted,
    /// Events that the page has told it has got.
    heard: Arc<AtomicUsize>,
    _shelf: Shelf,
}

fn html(talk: &mut Talk, fields: &str, body: &str) -> bool {
    talk.say(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

impl Scene {
    fn new() -> Self {
        let issuer = Issuer::new(Algorithm::ES256);
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heard);
        let login = issuer.good("alice");
        let service = Scripted::start(move |talk, seen| {
            let target = seen.target();
            let path = target.split('?').next().unwrap_or_default();
            match path {
                "/login" => {
                    let cookie =
                        format!("Set-Cookie: access_token={login}; Path=/; HttpOnly; SameSite=Lax\r\n");
                    html(talk, &format!("{cookie}Set-Cookie: theme=dark; Path=/\r\n"), PAGE)
                }
                "/api/events" => events(talk, &counted),
                "/api/heard" => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    html(talk, "", "ok")
                }
                "/api/redirect" => talk.say(
                    "HTTP/1.1 303 See Other\r\nLocation: /api/who?from=redirect\r\nContent-Length: 0\r\n\r\n",
                ),
                "/api/who" => {
                    let who = json!({
                        "user": seen.values("x-user-id"),
                        "method": seen.line().split(' ').next(),
                        "target": target,
                        "cookies": seen.values("cookie").len(),
                        "theme": seen.values("cookie").iter().any(|it| it.contains("theme=dark")),
                    });
                    html(talk, "", &who.to_string())
                }
                "/api/echo" => match talk.body(seen) {
                    Some(body) => {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        talk.say(head) && talk.say(body)
                    }
                    None => false,
                },
                _ => html(talk, "", PAGE),
            }
        });
        let sockets = websocket_service();
        let (authority, shelf) = (Authority::new(), Shelf::new());
        shelf.put("local", &authority.server(&["localhost"]));
        let gateway = Setup::new()
            .server("limits = { body_bytes = \"100MiB\" }")
            .section(&shelf.listener(&[shelf.entry("local", &["localhost"])], ""))
            .issuer(&issuer)
            .section(&service.config_toml("app", ""))
            .section(&format!("[[upstreams]]\nname = \"sockets\"\nservers = [\"127.0.0.1:{sockets}\"]\n"))
            .route("path = \"/login\"\nupstream = \"app\"\nauth = \"public\"")
            .route("path = \"/page\"\nupstream = \"app\"\nauth = \"public\"")
            .route("path = \"/favicon.ico\"\nupstream = \"app\"\nauth = \"public\"")
            .route("path = \"/api/{*rest}\"\nupstream = \"app\"")
            .route("path = \"/ws\"\nupstream = \"sockets\"")
            .start();
        Self { issuer, gateway, _service: service, heard, _shelf: shelf }
    }

    fn plain(&self) -> String {
        format!("http://localhost:{}", self.gateway.addr().port())
    }

    fn secure(&self) -> String {
        format!("https://localhost:{}", self.gateway.tls_addr().port())
    }
}

/// The port of a WebSocket service by a real library; it runs as long as this process.
fn websocket_service() -> u16 {
    static SERVICE: std::sync::OnceLock<(Script, u16)> = std::sync::OnceLock::new();
    let (_, port) = SERVICE.get_or_init(|| {
        let script = Script::start(include_str!("support/websocket.py"), &["serve"]);
        let port = eventually("the WebSocket service listens", || {
            let said = script.said();
            said.iter().find_map(|line| line.strip_prefix("port ")?.parse().ok()).ok_or(said)
        });
        (script, port)
    });
    *port
}

/// Each event is sent when the page has told that it got the one before: nothing may wait for more on the way.
fn events(talk: &mut Talk, heard: &AtomicUsize) -> bool {
    let start = heard.load(Ordering::SeqCst);
    talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n");
    for number in 0..5 {
        eventually("the page has got the event", || match heard.load(Ordering::SeqCst) - start {
            so_far if so_far >= number => Ok(()),
            so_far => Err(so_far),
        });
        let event = format!("id: {number}\ndata: event {number}\n\n");
        if !talk.say(format!("{:x}\r\n{event}\r\n", event.len())) {
            return false;
        }
    }
    talk.closed();
    false
}

#[test]
fn pages_log_in_by_cookie_fetch_follow_and_are_banned() {
    let scene = Scene::new();
    let browser = Browser::borrow();
    for base in [scene.plain(), scene.secure()] {
        browser.open(&format!("{base}/page"));
        browser.forget_cookies();
        let fetch = "const answer = await fetch(given.path, given.options || {});
                     const text = await answer.text();
                     return { status: answer.status, type: answer.headers.get('content-type'),
                              challenge: answer.headers.get('www-authenticate'), url: answer.url, text };";
        let denied = browser.run(fetch, &json!({ "path": "/api/who" }));
        assert_eq!((&denied["status"], &denied["type"]), (&json!(401), &json!("application/problem+json")));
        assert_eq!(denied["challenge"], "Bearer");

        browser.open(&format!("{base}/login"));
        let seen = browser.run("return document.cookie", &Value::Null);
        assert_eq!(seen, "theme=dark", "the token's cookie is not for scripts");
        let who = |path: &str, options: Value| {
            let answer = browser.run(fetch, &json!({ "path": path, "options": options }));
            assert_eq!(answer["status"], 200, "{answer}");
            let who: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
            assert_eq!(who["user"], json!(["alice"]));
            assert_eq!((&who["cookies"], &who["theme"]), (&json!(1), &json!(true)));
            who
        };
        let path = "/api/who?a=%2F&&b=ü x+y&c=[1]";
        assert_eq!(who(path, json!({}))["target"], "/api/who?a=%2F&&b=%C3%BC%20x+y&c=[1]");
        for method in ["PUT", "PATCH", "DELETE", "PROPFIND"] {
            assert_eq!(who("/api/who", json!({ "method": method }))["method"], method);
        }
        assert_eq!(
            who("/api/redirect", json!({ "method": "POST", "body": "x" }))["target"],
            "/api/who?from=redirect"
        );
    }
    browser.open(&format!("{}/login", scene.plain()));
    scene.gateway.ban("alice");
    let banned = browser.run(
        "const answer = await fetch('/api/who'); return { status: answer.status, reason: (await answer.json()).reason };",
        &Value::Null,
    );
    assert_eq!(banned, json!({ "status": 403, "reason": "user_banned" }));
}

#[test]
fn bodies_pass_whole_in_both_directions_and_tls_means_http2() {
    let scene = Scene::new();
    let browser = Browser::borrow();
    for (base, protocol) in [(scene.plain(), "http/1.1"), (scene.secure(), "h2")] {
        browser.open(&format!("{base}/login"));
        let outcome = browser.run(
            "const sent = new Uint8Array(given.bytes);
             for (let at = 0; at < sent.length; at += 65536) {
                 crypto.getRandomValues(sent.subarray(at, Math.min(at + 65536, sent.length)));
             }
             const hash = async bytes => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).join();
             const answers = await Promise.all([1, 2].map(number =>
                 fetch('/api/echo?' + number, { method: 'POST', body: sent })));
             const same = [];
             for (const answer of answers) {
                 const got = await answer.arrayBuffer();
                 same.push(got.byteLength == sent.length && await hash(got) == await hash(sent));
             }
             const entries = performance.getEntriesByType('resource').filter(it => it.name.includes('/api/echo'));
             return { same, protocols: entries.map(it => it.nextHopProtocol) };",
            &json!({ "bytes": 10_000_000 }),
        );
        assert_eq!(outcome, json!({ "same": [true, true], "protocols": [protocol, protocol] }));
    }
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    let scene = Scene::new();
    let browser = Browser::borrow();
    for base in [scene.plain(), scene.secure()] {
        browser.open(&format!("{base}/login"));
        let heard = browser.run(
            "return await new Promise((resolve, reject) => {
                 const heard = [], source = new EventSource('/api/events');
                 source.onerror = () => reject('the stream ended after ' + heard);
                 source.onmessage = async event => {
                     heard.push(event.lastEventId + ' ' + event.data);
                     if (heard.length == 5) { source.close(); resolve(heard); }
                     else { await fetch('/api/heard', { method: 'POST' }); }
                 };
             });",
            &Value::Null,
        );
        let expected: Vec<_> = (0..5).map(|number| format!("{number} event {number}")).collect();
        assert_eq!(heard, json!(expected));
    }
    assert_eq!(scene.heard.load(Ordering::SeqCst), 8);
}

#[test]
fn websockets_open_by_cookie_and_by_query_and_say_why_they_close() {
    let scene = Scene::new();
    let browser = Browser::borrow();
    let converse = "return await new Promise(resolve => {
             const told = [], socket = new WebSocket(given.url, ['chat.v1', 'chat.v2']);
             socket.binaryType = 'arraybuffer';
             const big = 'x'.repeat(300000);
             const messages = ['hello ü', new Uint8Array([0, 255, 13]).buffer, big];
             let next = 0;
             socket.onopen = () => told.push('open ' + socket.protocol + ' ' + socket.extensions.includes('permessage-deflate'));
             socket.onmessage = event => {
                 const data = event.data;
                 told.push(data instanceof ArrayBuffer ? new Uint8Array(data).join() : data == big ? 'big' : data);
                 socket.send(next < messages.length ? messages[next++] : 'leave');
             };
             socket.onclose = event => { told.push('close ' + event.code + ' ' + event.reason); resolve(told); };
         });";
    let expected =
        json!(["open chat.v2 true", "welcome", "hello ü", "0,255,13", "big", "close 4001 as you wish"]);
    let token = scene.issuer.good("alice");
    for base in [scene.plain(), scene.secure()] {
        let url = |query: &str| format!("{}/ws{query}", base.replacen("http", "ws", 1));
        browser.open(&format!("{base}/page"));
        browser.forget_cookies();
        let refused = browser.run(converse, &json!({ "url": url("") }));
        assert_eq!(refused, json!(["close 1006 "]), "without a token");
        assert_eq!(
            browser.run(converse, &json!({ "url": url(&format!("?access_token={token}")) })),
            expected
        );
        browser.open(&format!("{base}/login"));
        assert_eq!(browser.run(converse, &json!({ "url": url("?room=1") })), expected);
    }
    // What the page's own address bar would show stands in no log.
    assert!(find(scene.gateway.log().as_bytes(), b"access_token=").is_none());
}
