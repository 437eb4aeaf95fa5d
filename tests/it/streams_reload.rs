//! What a new configuration would not let in any more ends; what it would is not touched.

use jsonwebtoken::Algorithm;

use crate::streams_common::{Open, Scene, open, open_over, streams_become};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::reloads::reload;

const ROUTES: &str = "[[routes]]\nname = \"ws\"\npath = \"/ws\"\nupstream = \"app\"\n";

/// A gateway with one route to `/ws`, and the text of its configuration.
fn gateway(scene: &Scene, routes: &str) -> (Gateway, String) {
    let setup = Setup::new().issuer(&scene.issuer).upstream("app", &scene.origin);
    let toml = setup.section(routes).toml();
    (Gateway::start(&toml), toml)
}

#[test]
fn a_route_that_is_gone_takes_its_streams_along() {
    let scene = Scene::new();
    let both = format!("{ROUTES}[[routes]]\nname = \"events\"\npath = \"/events\"\nupstream = \"app\"\n");
    let (gateway, toml) = gateway(&scene, &both);
    let token = scene.issuer.good("alice");
    let (mut stays, goes) = (open(gateway.addr(), "ws", &token), open(gateway.addr(), "events", &token));
    reload(&gateway, &toml.replace("path = \"/events\"", "path = \"/other\""));
    goes.ends("no_route");
    stays.is_alive();
}

#[test]
fn a_route_that_asks_for_more_keeps_those_who_have_it() {
    let scene = Scene::new();
    let (gateway, toml) = gateway(&scene, ROUTES);
    let roles = |role: &str| serde_json::json!({ "roles": [role] });
    let token = |role: &str| scene.issuer.token("alice", |claims| claims["realm_access"] = roles(role));
    let (mut admin, guest) =
        (open(gateway.addr(), "ws", &token("admin")), open(gateway.addr(), "ws", &token("guest")));
    reload(&gateway, &toml.replace(ROUTES, &format!("{ROUTES}require = {{ roles = [\"admin\"] }}\n")));
    guest.ends("insufficient_role");
    admin.is_alive();
}

#[test]
fn a_public_route_that_asks_for_a_token_from_now_on_ends_what_was_open_without() {
    let scene = Scene::new();
    let public = format!("{ROUTES}auth = \"public\"\n");
    let (gateway, toml) = gateway(&scene, &public);
    let opened = ["ws", "ws"].map(|kind| open_over(|| gateway.raw(), kind, None));
    streams_become(&gateway, 2);
    let toml = toml.replace("auth = \"public\"", "auth = \"required\"");
    reload(&gateway, &toml);
    opened.into_iter().for_each(|open| open.ends("token_missing"));
    let mut known = open(gateway.addr(), "ws", &scene.issuer.good("alice"));
    reload(&gateway, &toml.replace("auth = \"required\"", "auth = \"public\""));
    known.is_alive();
    streams_become(&gateway, 1);
}

#[test]
fn an_issuer_that_is_believed_no_more_ends_its_users_streams() {
    let scene = Scene::new();
    let second = Issuer::new(Algorithm::EdDSA);
    let realm =
        |toml: &str, name: &str| toml.replace("[[issuers]]", &format!("[[issuers]]\nrealm = \"{name}\""));
    let (one, two) = (realm(&scene.issuer.config_toml(), "one"), realm(&second.config_toml(), "two"));
    let setup = Setup::new().section(&one).upstream("app", &scene.origin);
    let without = setup.section(ROUTES).toml();
    let gateway = Gateway::start(&format!("{without}{two}"));
    let mut stays = open(gateway.addr(), "ws", &scene.issuer.good("alice"));
    let goes = open(gateway.addr(), "ws", &second.good("alice"));
    reload(&gateway, &without);
    goes.ends("token_issuer");
    stays.is_alive();
    // Read otherwise, and good all the same.
    reload(&gateway, &without.replace(&one, &format!("{one}leeway = \"7s\"\n")));
    stays.is_alive();
    reload(&gateway, &without.replace("audience = [\"api\"]", "audience = [\"another\"]"));
    stays.ends("token_audience");
}

#[test]
fn another_ledger_asks_about_what_is_open_already() {
    let scene = Scene::new();
    let (gateway, toml) = gateway(&scene, ROUTES);
    let [alice, mut bob] = ["alice", "bob"].map(|user| open(gateway.addr(), "ws", &scene.issuer.good(user)));
    let rule = "[[ledger.rules]]\nname = \"alice\"\nguards = \"user\"\nreason = \"not_alice\"\nstatus = 403\n\
                sql = { query = \"SELECT 1 WHERE {sub} = 'alice'\", deny_if = \"exists\" }\n";
    reload(&gateway, &format!("{toml}\n{rule}"));
    alice.ends("not_alice");
    bob.is_alive();
    // And it is this one that is listened to from now on.
    gateway.ban("bob");
    bob.ends("user_banned");
}

#[test]
fn a_reload_that_changes_nothing_ends_nothing() {
    let scene = Scene::new();
    let (gateway, toml) = gateway(&scene, ROUTES);
    let mut opened: Vec<_> =
        (0..20).map(|user| open(gateway.addr(), "ws", &scene.issuer.good(&format!("user-{user}")))).collect();
    for _ in 0..3 {
        reload(&gateway, &toml);
        opened.iter_mut().for_each(Open::is_alive);
    }
    streams_become(&gateway, 20);
}
