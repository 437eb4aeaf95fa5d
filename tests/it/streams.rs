//! What is open ends with the credential it was opened with, whatever ends that; and nothing else ends.

use std::time::Instant;

use serde_json::Value;

use crate::ledger_common::{patient_redis, presets, readiness_becomes};
use crate::streams_common::{
    KINDS, Open, Scene, cut_for, open, open_over, request, service_is_left, streams_become,
};
use crate::support::gateway::Gateway;
use crate::support::origin::{Answer, Origin};
use crate::support::redis::Redis;
use crate::support::{eventually, now};

fn all_kinds(gateway: &Gateway, token: &str) -> Vec<Open> {
    KINDS.map(|kind| open(gateway.addr(), kind, token)).into()
}

/// Every reason of the ledger, and the word it has.
fn reasons() -> [(&'static str, &'static str); 6] {
    [
        ("banned", "user_banned"),
        ("deactivated", "user_deactivated"),
        ("deleted", "user_deleted"),
        ("logout", "issued_before_cutoff"),
        ("token", "token_revoked"),
        ("session", "session_revoked"),
    ]
}

fn end(gateway: &Gateway, how: &str, user: &str, token: &str) {
    match how {
        "logout" => drop(gateway.logout(user)),
        "token" => drop(gateway.revoke_token(token)),
        "session" => {
            let path = format!("/v1/sessions/session-{user}/revoke");
            let response = gateway.control("POST", &path, &Value::Null);
            assert!(matches!(response.status, 200 | 202), "{response:?}");
        }
        status => drop(gateway.set_status(user, status)),
    }
}

/// Every reason ends every kind of its own user, and nobody else's.
fn whatever_ends_a_credential_ends_what_is_open(scene: &Scene, gateway: &Gateway) {
    let mut other = open(gateway.addr(), "ws", &scene.issuer.good("somebody-else"));
    for (how, word) in reasons() {
        let user = format!("user-{how}");
        let token = scene.session(&user, &format!("session-{user}"));
        let opened = all_kinds(gateway, &token);
        eventually("the poll has reached the service", || {
            if scene.origin.open() > KINDS.len() { Ok(()) } else { Err(scene.origin.open()) }
        });
        end(gateway, how, &user, &token);
        opened.into_iter().for_each(|open| open.ends(word));
        other.is_alive();
        assert_eq!(cut_for(gateway, word), KINDS.len() as f64, "{word}");
        eventually("the service sees its connections end", || match scene.origin.open() {
            1 => Ok(()),
            open => Err(open),
        });
    }
    streams_become(gateway, 1);
    drop(other);
    streams_become(gateway, 0);
}

#[test]
fn whatever_ends_a_credential_ends_what_is_open_with_it_where_only_the_database_is_asked() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    whatever_ends_a_credential_ends_what_is_open(&scene, &gateway);
}

#[test]
fn whatever_ends_a_credential_ends_what_is_open_with_it_where_memory_follows_redis() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let gateway = scene.setup(&[&patient_redis(&redis)]).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    whatever_ends_a_credential_ends_what_is_open(&scene, &gateway);
}

#[test]
fn a_token_that_expires_ends_what_is_open_with_it() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    let mut lasting = open(gateway.addr(), "ws", &scene.issuer.good("alice"));
    let expires = now() + 5;
    let token = scene.until("alice", expires);
    let opened = all_kinds(&gateway, &token);
    opened.into_iter().for_each(|open| open.ends("token_expired"));
    assert!(now() >= expires, "it was good until then");
    lasting.is_alive();
    assert_eq!(cut_for(&gateway, "token_expired"), KINDS.len() as f64);
}

#[test]
fn a_new_token_of_the_same_session_leaves_what_the_old_one_opened() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let sections: [&str; 2] = [&patient_redis(&redis), &presets(&["native", "token-blacklist"])];
    let gateway = scene.setup(&sections).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let [old, new] = ["one", "one"].map(|session| scene.session("alice", session));
    let mut opened = open(gateway.addr(), "ws", &old);
    assert_eq!(gateway.get("/x", Some(&new)).status, 200);
    // Another one of the same session, and of another one.
    gateway.revoke_token(&new);
    gateway.revoke_token(&scene.session("alice", "two"));
    eventually("the new one is refused", || match gateway.get("/x", Some(&new)).status {
        401 => Ok(()),
        status => Err(status),
    });
    opened.is_alive();
    // As a service does that revokes what it has replaced.
    redis.cmd(&["SET", &format!("blacklist:{old}"), "{}", "EX", "60"]);
    opened.ends("token_revoked");
}

#[test]
fn the_request_that_logs_out_is_answered() {
    let redis = Redis::start();
    let port = redis.port();
    // It puts the token on the list that the gateway follows, and takes its time to say so.
    let origin = Origin::answering(move |seen| match seen.target().as_str() {
        "/logout" => {
            let token = seen.values("authorization")[0].replace("Bearer ", "");
            Redis::ask(port, &["SET", &format!("blacklist:{token}"), "{}", "EX", "60"]).unwrap();
            Answer::new(200, "bye").delayed(std::time::Duration::from_millis(250))
        }
        _ => Answer::ok(),
    });
    let scene = Scene { origin, ..Scene::new() };
    let sections: [&str; 2] = [&patient_redis(&redis), &presets(&["token-blacklist"])];
    let gateway = scene.setup(&sections).section("[identity]\nforward_token = true\n").start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for user in 0..5 {
        let token = scene.issuer.good(&user.to_string());
        assert_eq!(gateway.get("/x", Some(&token)).status, 200);
        let response = gateway.request("POST", "/logout", &[&format!("Authorization: Bearer {token}")], b"");
        assert_eq!((response.status, response.text().as_str()), (200, "bye"));
        assert_eq!(gateway.get("/x", Some(&token)).status, 401);
    }
}

#[test]
fn the_request_that_an_observer_revokes_for_is_answered_however_long_that_takes() {
    let scene = Scene::new();
    // The head, and the rest much later than a cut would come.
    let part = [&b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"[..], &[b'x'; 5000]].concat();
    scene.origin.answer(move |seen| match seen.target().as_str() {
        "/logout" => Answer { raw: Some(part.clone()), ..Answer::ok() },
        _ => Answer::switch_to_websocket(),
    });
    let route = "name = \"out\"\npath = \"/logout\"\nupstream = \"app\"\n\
                 on_response = [{ revoke = \"user\" }]";
    let gateway = scene.setup(&[]).route(route).start();
    let token = scene.issuer.good("alice");
    let stream = open(gateway.addr(), "ws", &token);
    let mut raw = gateway.raw();
    raw.send(format!("GET /logout HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"));
    assert_eq!(raw.response_to_head().status, 200);
    stream.ends("issued_before_cutoff");
    let cut = Instant::now();
    while cut.elapsed().as_millis() < 1500 {
        assert!(!raw.is_closed());
    }
}

#[test]
fn what_is_open_without_a_token_is_left_alone() {
    let scene = Scene::new();
    let route = "name = \"open\"\npath = \"/ws\"\nupstream = \"app\"\nauth = \"optional\"";
    let gateway = scene.setup(&[]).route(route).start();
    let mut anonymous = open_over(|| gateway.raw(), "ws", None);
    let known = open(gateway.addr(), "ws", &scene.issuer.good("alice"));
    streams_become(&gateway, 2);
    gateway.ban("alice");
    known.ends("user_banned");
    anonymous.is_alive();
    streams_become(&gateway, 1);
}

#[test]
fn what_a_user_has_open_is_shown_with_the_user() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    let token = scene.session("alice", "phone");
    let opened = all_kinds(&gateway, &token);
    let shown_with = |user: &str, count: usize| {
        eventually("so much is shown", || {
            let document = gateway.control("GET", &format!("/v1/users/{user}"), &Value::Null).json();
            match document["streams"].as_array() {
                Some(streams) if streams.len() == count => Ok(streams.clone()),
                // Or asked too often.
                _ => Err(document),
            }
        })
    };
    let shown = shown_with("alice", opened.len());
    let mut kinds: Vec<_> = shown.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["events", "request", "request", "request", "websocket"]);
    for stream in &shown {
        assert_eq!(stream["sid"], "phone");
        assert!(stream["since"].as_str().unwrap().ends_with('Z') && stream["token"].is_string());
    }
    shown_with("bob", 0);
    for kind in ["websocket", "events"] {
        assert_eq!(gateway.metric(&format!("portcullis_streams{{kind=\"{kind}\"}}")), Some(1.0));
    }
    drop(opened);
    streams_become(&gateway, 0);
    service_is_left(&scene.origin);
}

#[test]
fn the_log_tells_what_was_cut_and_why() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    let token = scene.issuer.good("alice");
    let opened = ["ws", "poll"].map(|kind| open(gateway.addr(), kind, &token));
    eventually("both have reached the service", || match scene.origin.open() {
        2 => Ok(()),
        open => Err(open),
    });
    gateway.ban("alice");
    opened.into_iter().for_each(|open| open.ends("user_banned"));
    let line = |path: &str| {
        eventually("the access line", || {
            let lines = gateway.log_lines();
            let found = lines.iter().find(|line| line["path"] == path && line["cut"].is_string()).cloned();
            found.ok_or(lines.len())
        })
    };
    let (ws, poll) = (line("/ws"), line("/poll"));
    for (line, status) in [(&ws, 101), (&poll, 403)] {
        assert_eq!(
            (line["cut"].as_str(), line["status"].as_u64()),
            (Some("user_banned"), Some(status)),
            "{line}"
        );
        assert_eq!((line["sub"].as_str(), line["method"].as_str()), (Some("alice"), Some("GET")), "{line}");
        assert_eq!(line["verdict"], "allow", "it was let in: {line}");
    }
    assert!(ws["bytes"].as_u64() >= Some(7), "{ws}");
    let told: Vec<_> =
        gateway.log_lines().into_iter().filter(|line| line["message"] == "Open streams were cut").collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|it| it["reason"] == "user_banned" && it["token"] == ws["token"]), "{told:?}");
}

#[test]
fn requests_that_come_and_go_leave_nothing_behind() {
    let scene = Scene::new();
    let gateway = scene.setup(&[]).start();
    let token = scene.issuer.good("alice");
    for _ in 0..50 {
        assert_eq!(gateway.get("/x", Some(&token)).status, 200);
        // Opened and left by the client.
        drop(open(gateway.addr(), "events", &token));
        gateway.raw().send(request("poll", Some(&token)));
    }
    streams_become(&gateway, 0);
    service_is_left(&scene.origin);
}
