//! Keys that are fetched: rotation, floods, outages and discovery.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::origin::Origin;
use crate::support::{eventually, free_port};

fn guarding(issuer: &Issuer, keys: &str, origin: &Origin) -> Setup {
    Setup::new()
        .section(&issuer.config_with(keys))
        .upstream("app", origin)
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
}

fn refreshes(gateway: &Gateway, issuer: &Issuer, outcome: &str) -> f64 {
    let name = &issuer.name;
    let series = format!("portcullis_jwks_refreshes_total{{issuer=\"{name}\",outcome=\"{outcome}\"}}");
    gateway.metric(&series).unwrap_or_else(|| panic!("no series {series}"))
}

/// Another key of the same issuer.
fn successor(issuer: &Issuer) -> Issuer {
    let mut next = Issuer::new(issuer.algorithm);
    next.name.clone_from(&issuer.name);
    next
}

#[test]
fn a_rotated_key_is_found_by_its_kid_and_a_withdrawn_one_ends_its_tokens() {
    let origin = Origin::start();
    let old = Issuer::new(Algorithm::ES256);
    let new = successor(&old);
    let server = JwksServer::serving(&old.jwks());
    let keys = format!("jwks_url = \"{}\"\njwks = {{ cooldown = \"1s\" }}", server.url());
    let gateway = guarding(&old, &keys, &origin).start();
    let (of_old, of_new) = (old.good("alice"), new.good("alice"));
    assert_eq!(gateway.get("/x", Some(&of_old)).status, 200);
    assert_eq!(server.hits(), 1, "at start, and not for each request");

    server.keys(&json!({ "keys": [old.jwk(), new.jwk()] }));
    eventually("the new key is fetched", || match gateway.get("/x", Some(&of_new)).status {
        200 => Ok(()),
        status => Err(status),
    });
    assert_eq!(gateway.get("/x", Some(&of_old)).status, 200, "the old one is still published");

    server.keys(&new.jwks());
    // Asked for by a name that nobody knows.
    let unknown = successor(&old).good("mallory");
    eventually("the old key is gone", || {
        assert_eq!(gateway.get("/x", Some(&unknown)).reason(), "token_signature");
        match gateway.get("/x", Some(&of_old)) {
            refused if refused.status == 401 => Ok(refused.reason()),
            passed => Err(passed.status),
        }
    });
    assert_eq!(gateway.get("/x", Some(&of_new)).status, 200);
}

#[test]
fn a_flood_of_unknown_names_causes_one_fetch_in_a_cool_down() {
    let origin = Origin::start();
    let issuer = Issuer::new(Algorithm::ES256);
    let server = JwksServer::serving(&issuer.jwks());
    let keys = format!("jwks_url = \"{}\"\njwks = {{ cooldown = \"1h\" }}", server.url());
    let gateway = guarding(&issuer, &keys, &origin).start();
    let stranger = successor(&issuer);
    let flood = |from: usize| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (gateway, stranger) = (&gateway, &stranger);
                scope.spawn(move || {
                    for number in 0..10 {
                        let kid = format!("k-{from}-{thread}-{number}");
                        let header = json!({ "alg": "ES256", "kid": kid });
                        let token = stranger.sign(&header, &stranger.claims("mallory"));
                        assert_eq!(gateway.get("/x", Some(&token)).reason(), "token_signature");
                    }
                });
            }
        });
    };
    flood(0);
    flood(1);
    assert_eq!(server.hits(), 1, "the first fetch began a cool-down");
    assert_eq!(gateway.get("/x", Some(&issuer.good("alice"))).status, 200);
    origin.only();
}

#[test]
fn keys_that_were_good_stay_while_their_server_is_down() {
    let origin = Origin::start();
    let issuer = Issuer::new(Algorithm::EdDSA);
    let server = JwksServer::serving(&issuer.jwks());
    let keys = format!("jwks_url = \"{}\"\njwks = {{ cooldown = \"1s\" }}", server.url());
    let gateway = guarding(&issuer, &keys, &origin).start();
    type Failure<'a> = (&'a str, &'a dyn Fn());
    let failures: [Failure<'_>; 4] = [
        ("an error", &|| server.fail()),
        ("no keys", &|| server.keys(&json!({ "keys": [] }))),
        ("a page without end", &|| server.huge(1 << 20)),
        ("another place", &|| server.redirect("http://127.0.0.2:9/jwks.json")),
    ];
    for (what, begin) in failures {
        begin();
        let before = refreshes(&gateway, &issuer, "failed");
        let unknown = successor(&issuer).good("mallory");
        eventually("a fetch fails", || {
            assert_eq!(gateway.get("/x", Some(&unknown)).reason(), "token_signature", "{what}");
            if refreshes(&gateway, &issuer, "failed") > before { Ok(()) } else { Err(what) }
        });
        assert_eq!(gateway.get("/x", Some(&issuer.good("alice"))).status, 200, "{what}");
    }
    let warned = gateway.log_lines().iter().filter(|it| it["message"] == "Key set not refreshed").count();
    assert!(warned >= 4, "{}", gateway.log());
}

#[test]
fn keys_that_never_came_are_an_outage_and_not_a_refusal() {
    let origin = Origin::start();
    let issuer = Issuer::new(Algorithm::RS256);
    let port = free_port();
    let keys = format!("jwks_url = \"http://127.0.0.1:{port}/jwks.json\"");
    let gateway = guarding(&issuer, &keys, &origin)
        .route("name = \"open\"\npath = \"/open\"\nupstream = \"app\"\nauth = \"public\"")
        .start();
    let response = gateway.get("/x", Some(&issuer.good("alice")));
    assert_eq!((response.status, response.reason().as_str()), (503, "keys_unavailable"));
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("www-authenticate"), None, "logging in again would not help");
    assert_eq!(gateway.get("/x", None).status, 401);
    origin.saw_nothing();
    assert_eq!(gateway.get("/open", None).status, 200, "an issuer's outage is nobody else's");
}

#[test]
fn discovery_finds_the_keys_of_the_issuer_that_it_names() {
    let origin = Origin::start();
    let mut issuer = Issuer::new(Algorithm::PS256);
    let server = JwksServer::serving(&issuer.jwks());
    issuer.name = server.base();
    server.discovery(json!({ "issuer": issuer.name, "jwks_uri": server.url() }));
    let gateway = guarding(&issuer, "discovery = true", &origin).start();
    assert_eq!(gateway.get("/x", Some(&issuer.good("alice"))).status, 200);
    assert_eq!(refreshes(&gateway, &issuer, "ok"), 1.0);
}

#[test]
fn discovery_that_names_another_issuer_or_an_insecure_place_brings_no_keys() {
    let origin = Origin::start();
    let documents: [fn(&JwksServer) -> Value; 4] = [
        |server| json!({ "issuer": "https://evil.test", "jwks_uri": server.url() }),
        |server| json!({ "issuer": format!("{}/", server.base()), "jwks_uri": server.url() }),
        |server| json!({ "jwks_uri": server.url() }),
        |server| json!({ "issuer": server.base(), "jwks_uri": "http://keys.evil.test/jwks.json" }),
    ];
    for document in documents {
        let mut issuer = Issuer::new(Algorithm::ES256);
        let server = JwksServer::serving(&issuer.jwks());
        issuer.name = server.base();
        let document = document(&server);
        server.discovery(document.clone());
        let gateway = guarding(&issuer, "discovery = true", &origin).start();
        let response = gateway.get("/x", Some(&issuer.good("alice")));
        assert_eq!((response.status, response.reason().as_str()), (503, "keys_unavailable"), "{document}");
        assert_eq!(server.hits(), 0, "{document}");
        origin.saw_nothing();
    }
}
