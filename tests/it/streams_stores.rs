//! Whichever way a change comes, what is open with the credential ends: another gateway, a service's own key, a console
//! of the database, a rule of one's own; over every mode, and over its end.

use std::time::Instant;

use jsonwebtoken::Algorithm;

use crate::feed_tables::migrate;
use crate::ledger_common::{patient, patient_redis, presets, readiness_becomes, verdict};
use crate::streams_common::{Open, Scene, cut_for, open, request, streams_become};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::{eventually, free_port};

const USERS: &str = "CREATE TABLE users (user_id int PRIMARY KEY, status text NOT NULL DEFAULT 'active', \
                     status_updated_at timestamptz, last_security_action timestamptz, last_login timestamptz); \
                     INSERT INTO users (user_id) SELECT generate_series(1, 20)";

fn sockets(gateways: &[Gateway], token: &str) -> Vec<Open> {
    gateways.iter().map(|gateway| open(gateway.addr(), "ws", token)).collect()
}

#[test]
fn a_ban_at_one_gateway_ends_what_is_open_at_all_of_them() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let database = Postgres::shared().create_database();
    let sections = [patient(&database), patient_redis(&redis)];
    let setup = scene.setup(&sections.each_ref().map(String::as_str));
    let gateways = [setup.start(), setup.start(), setup.start()];
    for gateway in &gateways {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
    let mut others = sockets(&gateways, &scene.issuer.good("bob"));
    for (round, gateway) in gateways.iter().enumerate() {
        let user = format!("user-{round}");
        let token = scene.issuer.good(&user);
        let opened = sockets(&gateways, &token);
        gateway.ban(&user);
        opened.into_iter().for_each(|open| open.ends("user_banned"));
        let token = scene.issuer.good(&format!("other-{round}"));
        let opened = sockets(&gateways, &token);
        gateway.revoke_token(&token);
        opened.into_iter().for_each(|open| open.ends("token_revoked"));
    }
    others.iter_mut().for_each(Open::is_alive);
    drop(others);
    for gateway in &gateways {
        streams_become(gateway, 0);
        assert_eq!((cut_for(gateway, "user_banned"), cut_for(gateway, "token_revoked")), (3.0, 3.0));
    }
}

#[test]
fn a_key_that_a_service_writes_ends_what_is_open() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let rules = "[ledger]\npresets = [\"invalid-users\"]\n[[ledger.rules]]\nname = \"tenant\"\nguards = \"user\"\n\
                 key = \"tenant:{claims.tenant}\"\ndeny_if = { equals = [\"frozen\"] }\nreason = \"tenant_frozen\"\n\
                 status = 403\n";
    let gateway = scene.setup(&[&patient_redis(&redis), rules]).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let of_tenant = |user: &str, tenant: &str| scene.issuer.token(user, |it| it["tenant"] = tenant.into());
    let mut other = open(gateway.addr(), "ws", &of_tenant("9", "globex"));
    let banned = open(gateway.addr(), "ws", &of_tenant("7", "globex"));
    redis.cmd(&["SET", "invalid_user:7", "banned", "EX", "60"]);
    banned.ends("user_banned");
    let frozen = ["1", "2"].map(|user| open(gateway.addr(), "events", &of_tenant(user, "acme")));
    redis.cmd(&["SET", "tenant:acme", "frozen"]);
    frozen.into_iter().for_each(|open| open.ends("tenant_frozen"));
    assert_eq!(cut_for(&gateway, "tenant_frozen"), 2.0, "operators' own words are counted too");
    other.is_alive();
}

#[test]
fn an_alias_is_watched_as_the_user_it_means() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE users (id int PRIMARY KEY, email text, username text, phone_number text, \
         is_active boolean NOT NULL DEFAULT true); \
         INSERT INTO users (id, email) VALUES (7, 'alice@a.test'), (8, 'bob@a.test')",
    );
    let sections = [patient(&database), patient_redis(&redis), presets(&["user-cache", "native"])];
    let gateway = scene.setup(&sections.each_ref().map(String::as_str)).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let [alice, mut bob] =
        ["alice@a.test", "bob@a.test"].map(|user| open(gateway.addr(), "ws", &scene.issuer.good(user)));
    gateway.ban("7");
    alice.ends("user_banned");
    bob.is_alive();
}

/// Between the judgment and the putting down, before and after: a ban falls into every moment of an opening.
#[test]
fn a_ban_in_the_moment_of_opening_is_not_lost() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let sections: [&str; 2] = [&patient_redis(&redis), &presets(&["invalid-users"])];
    let gateway = scene.setup(&sections).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let tokens: Vec<_> = (0..100).map(|user| scene.issuer.good(&format!("user-{user}"))).collect();
    let (mut refused, mut cut) = (0, 0);
    for (user, token) in tokens.iter().enumerate() {
        // Every second one is known already, and judged in no time.
        if user % 2 == 0 {
            assert_eq!(verdict(&gateway, token), "200");
        }
        let mut raw = gateway.raw();
        raw.send(request("events", Some(token)));
        for _ in 0..user % 10 {
            std::thread::yield_now();
        }
        redis.cmd(&["SET", &format!("invalid_user:user-{user}"), "banned", "EX", "60"]);
        match raw.response_to_head().status {
            403 => refused += 1,
            200 => {
                raw.wait_closed();
                cut += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused + cut, tokens.len());
    assert!(cut > 0, "none was opened in time");
    streams_become(&gateway, 0);
}

#[test]
fn a_key_that_an_issuer_withdraws_ends_what_was_opened_by_it() {
    let scene = Scene::new();
    let another = || {
        let mut issuer = Issuer::new(Algorithm::ES256);
        issuer.name.clone_from(&scene.issuer.name);
        issuer
    };
    let other = another();
    let server = JwksServer::serving(&serde_json::json!({ "keys": [scene.issuer.jwk(), other.jwk()] }));
    let keys = format!("jwks_url = \"{}\"\njwks = {{ cooldown = \"1s\" }}", server.url());
    let gateway = Setup::new()
        .section(&scene.issuer.config_with(&keys))
        .upstream("app", &scene.origin)
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
        .start();
    let goes = open(gateway.addr(), "ws", &scene.issuer.good("alice"));
    let mut stays = open(gateway.addr(), "ws", &other.good("alice"));
    server.keys(&other.jwks());
    // Keys are fetched when somebody names one that is not known.
    let unknown = another().good("mallory");
    eventually("the key is gone", || match gateway.get("/x", Some(&unknown)) {
        _ if server.hits() > 1 => Ok(()),
        refused => Err(refused.reason()),
    });
    goes.ends("token_signature");
    stays.is_alive();
}

/// With triggers: `UPDATE` in a console.
fn a_console_ends_what_is_open(redis: Option<&Redis>) {
    let scene = Scene { issuer: Issuer::new(Algorithm::HS256), ..Scene::new() };
    let database = Postgres::shared().create_database();
    database.psql(USERS);
    let mut sections = vec![patient(&database), presets(&["invalid-users"])];
    sections.extend(redis.map(patient_redis));
    let setup = scene.setup(&sections.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(migrate(&setup, &["--watch-users"]).contains("Watched: "));
    let gateway = setup.start();
    let [banned, mut other] = ["7", "8"].map(|user| open(gateway.addr(), "ws", &scene.issuer.good(user)));
    database.psql("UPDATE users SET status = 'banned' WHERE user_id = 7");
    banned.ends("user_banned");
    other.is_alive();
}

#[test]
fn an_edit_in_the_databases_console_ends_what_is_open() {
    a_console_ends_what_is_open(Some(&Redis::start()));
}

#[test]
fn an_edit_in_the_databases_console_ends_what_is_open_without_redis() {
    a_console_ends_what_is_open(None);
}

#[test]
fn where_nobody_tells_of_changes_it_is_asked_again_and_again() {
    let scene = Scene::new();
    let database = Postgres::shared().create_database();
    database.psql("CREATE TABLE accounts (id text PRIMARY KEY, locked boolean NOT NULL DEFAULT false)");
    database.psql("INSERT INTO accounts VALUES ('alice'), ('bob')");
    let rule = "[ledger]\npresets = []\n[[ledger.rules]]\nname = \"locked\"\nguards = \"user\"\n\
                sql = { query = \"SELECT locked FROM accounts WHERE id = {sub}\", deny_if = { equals = [true] } }\n\
                reason = \"account_locked\"\nstatus = 403\n";
    let gateway = scene.setup(&[&patient(&database), rule]).start();
    let [locked, mut other] =
        ["alice", "bob"].map(|user| open(gateway.addr(), "ws", &scene.issuer.good(user)));
    database.psql("UPDATE accounts SET locked = true WHERE id = 'alice'");
    locked.ends("account_locked");
    other.is_alive();
}

#[test]
fn where_redis_pushes_nothing_it_is_asked_again_and_again() {
    let (scene, redis) = (Scene::new(), Redis::start());
    redis.cmd(&["ACL", "SETUSER", "default", "-client|tracking"]);
    let sections: [&str; 2] = [&patient_redis(&redis), &presets(&["invalid-users"])];
    let gateway = scene.setup(&sections).start();
    readiness_becomes(&gateway, 200, "ready", "direct");
    let [banned, mut other] = ["7", "8"].map(|user| open(gateway.addr(), "ws", &scene.issuer.good(user)));
    redis.cmd(&["SET", "invalid_user:7", "banned"]);
    banned.ends("user_banned");
    other.is_alive();
}

#[test]
fn a_flush_ends_nothing_that_the_database_allows_and_hides_no_ban() {
    let (scene, redis) = (Scene::new(), Redis::start());
    let gateway = scene.setup(&[&patient_redis(&redis)]).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let mut others: Vec<_> =
        (0..20).map(|user| open(gateway.addr(), "ws", &scene.issuer.good(&format!("user-{user}")))).collect();
    for round in 0..3 {
        let user = format!("banned-{round}");
        let banned = open(gateway.addr(), "ws", &scene.issuer.good(&user));
        redis.cmd(&["FLUSHALL"]);
        gateway.ban(&user);
        banned.ends("user_banned");
        readiness_becomes(&gateway, 200, "ready", "coherent");
    }
    others.iter_mut().for_each(Open::is_alive);
}

#[test]
fn while_nobody_can_be_asked_nothing_ends_and_afterwards_what_was_banned_does() {
    let scene = Scene::new();
    let (redis, database) = (Redis::start(), Postgres::shared().create_database());
    database.psql(USERS);
    let ports = [redis.url(), database.url()].map(|url| url.parse::<url::Url>().unwrap().port().unwrap());
    let relays = ports.map(Relay::to);
    let sections = [database.config_toml(), redis.config_toml(), presets(&["invalid-users"])];
    let [relayed_redis, relayed_database] = relays.each_ref().map(|relay| relay.port().to_string());
    let sections = sections.map(|it| {
        let it = it.replace(&ports[0].to_string(), &relayed_redis);
        it.replace(&ports[1].to_string(), &relayed_database)
    });
    let gateway = scene.setup(&sections.each_ref().map(String::as_str)).start();
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let [token, other] = ["7", "8"].map(|user| scene.issuer.good(user));
    let (banned, mut other) = (open(gateway.addr(), "ws", &token), open(gateway.addr(), "ws", &other));
    relays.iter().for_each(|relay| relay.lead_to(free_port()));
    eventually("nobody can be asked", || match verdict(&gateway, &token) {
        it if it == "503 ledger_unavailable" => Ok(()),
        it => Err(it),
    });
    let since = Instant::now();
    while since.elapsed().as_millis() < 1500 {
        other.is_alive();
    }
    relays.iter().zip(ports).for_each(|(relay, port)| relay.lead_to(port));
    database.psql("UPDATE users SET status = 'banned' WHERE user_id = 7");
    redis.cmd(&["SET", "invalid_user:7", "banned", "EX", "60"]);
    banned.ends("user_banned");
    other.is_alive();
}
