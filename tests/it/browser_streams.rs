//! Chromium: a ban ends what a page has open, and the page can tell why.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::issuer::Issuer;
use crate::support::python::Script;
use crate::support::scripted::Scripted;

#[test]
fn open_events_and_websockets_end_with_the_ban() {
    let issuer = Issuer::new(Algorithm::ES256);
    let login = issuer.good("alice");
    let service = Scripted::start(move |talk, seen| match seen.target().as_str() {
        "/page" => talk.say(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: access_token={login}; Path=/\r\nContent-Length: 15\r\n\r\n<!doctype html>"
        )),
        _ => {
            talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n");
            talk.closed();
            false
        }
    });
    let sockets = Script::start(include_str!("support/websocket.py"), &["serve"]);
    let port = eventually("the WebSocket service listens", || {
        let said = sockets.said();
        said.iter().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).ok_or(said)
    });
    let gateway = Setup::new()
        .issuer(&issuer)
        .section(&service.config_toml("app", ""))
        .section(&format!("[[upstreams]]\nname = \"sockets\"\nservers = [\"127.0.0.1:{port}\"]\n"))
        .route("path = \"/page\"\nupstream = \"app\"\nauth = \"public\"")
        .route("path = \"/events\"\nupstream = \"app\"")
        .route("path = \"/ws\"\nupstream = \"sockets\"")
        .start();
    let browser = Browser::borrow();
    browser.open(&format!("http://localhost:{}/page", gateway.addr().port()));
    let opened = browser.run(
        "window.told = [];
         const source = new EventSource('/events'), socket = new WebSocket('ws://' + location.host + '/ws');
         const first = target => new Promise(resolve => target.addEventListener('message', event => resolve(event.data)));
         // A stream that is refused for good is not asked for again.
         source.onerror = () => { if (source.readyState == EventSource.CLOSED) told.push('events ended'); };
         socket.onclose = event => told.push('socket closed ' + event.code);
         return await Promise.all([first(source), first(socket)]);",
        &Value::Null,
    );
    assert_eq!(opened, json!(["first", "welcome"]));
    gateway.ban("alice");
    let ended = eventually("both have ended", || {
        let told = browser.run("return told", &Value::Null);
        if told.as_array().is_some_and(|it| it.len() == 2) { Ok(told) } else { Err(told) }
    });
    let mut ended: Vec<_> = ended.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["events ended", "socket closed 1008"]);
}
