//! Redis over TLS, and under an ACL: what docs/redis.md says is enough must be enough.

use crate::ledger_common::{World, metric, presets, readiness_becomes, verdict};
use crate::support::gateway::Gateway;
use crate::support::redis::{Redis, Reply};
use crate::support::tls::Authority;
use crate::support::{free_port, leaks, unique};

const DOCUMENTED: &str = include_str!("../../docs/redis.md");

/// A Redis that speaks TLS to gateways, to those with a certificate only where `mutual` says so, and plainly to the test.
fn secured(authority: &Authority, mutual: &str) -> (Redis, u16) {
    let port = free_port();
    let [certificate, key, ca] =
        ["server.pem", "server.key", "ca.pem"].map(|it| authority.path(it).display().to_string());
    let tls = port.to_string();
    let options = ["--tls-port", &tls, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let clients = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", mutual];
    (Redis::start_with(&[options.as_slice(), &clients].concat()), port)
}

fn section(port: u16, lines: &str) -> String {
    format!("[redis]\nurl = \"rediss://127.0.0.1:{port}/0\"\ntimeout = \"5s\"\n{lines}\n")
}

fn bans(world: &World, gateway: &Gateway) {
    readiness_becomes(gateway, 200, "ready", "coherent");
    let (good, banned) = (world.issuer.good("7"), world.issuer.good("8"));
    gateway.ban("8");
    assert_eq!(verdict(gateway, &good), "200");
    assert_eq!(verdict(gateway, &banned), "403 user_banned");
    gateway.activate("8");
    assert_eq!(verdict(gateway, &banned), "200");
    gateway.revoke_token(&good);
    assert_eq!(verdict(gateway, &good), "401 token_revoked");
}

#[test]
fn redis_is_reached_over_tls_with_a_private_authority_and_not_without_it() {
    let (world, authority) = (World::new(), Authority::new());
    let (_redis, port) = secured(&authority, "no");
    let ca = format!("ca = \"{}\"", authority.path("ca.pem").display());
    let native = presets(&["native"]);
    bans(&world, &world.start(&[&section(port, &ca), &native]));
    let stranger = world.start(&[&section(port, ""), &native]);
    readiness_becomes(&stranger, 200, "degraded", "database");
    assert!(stranger.log().contains("Store is left alone"), "it says so:\n{}", stranger.log());
    let other = Authority::new();
    let wrong = format!("ca = \"{}\"", other.path("ca.pem").display());
    readiness_becomes(&world.start(&[&section(port, &wrong), &native]), 200, "degraded", "database");
}

#[test]
fn a_redis_that_asks_for_a_certificate_gets_one() {
    let (world, authority) = (World::new(), Authority::new());
    let (_redis, port) = secured(&authority, "yes");
    let [ca, certificate, key] =
        ["ca.pem", "client.pem", "client.key"].map(|it| authority.path(it).display().to_string());
    let native = presets(&["native"]);
    let mutual = format!("ca = \"{ca}\"\ncert = \"{certificate}\"\nkey = \"{key}\"");
    bans(&world, &world.start(&[&section(port, &mutual), &native]));
    let bare = world.start(&[&section(port, &format!("ca = \"{ca}\"")), &native]);
    readiness_becomes(&bare, 200, "degraded", "database");
}

/// The one line of the documentation that makes the user, with this password.
pub fn documented_acl(password: &str) -> Vec<String> {
    let line = DOCUMENTED.lines().find(|line| line.starts_with("ACL SETUSER portcullis ")).unwrap();
    line.replace("PASSWORD", password).split_ascii_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_documented_acl_is_enough_for_every_preset() {
    let (world, redis, password) = (World::new(), Redis::start(), unique("acl-"));
    leaks::secret(&password);
    let acl = documented_acl(&password);
    redis.cmd(&acl.iter().map(String::as_str).collect::<Vec<_>>());
    let section = format!(
        "[redis]\nurl = \"redis://portcullis:{password}@127.0.0.1:{}/0\"\ntimeout = \"5s\"\n",
        redis.port()
    );
    let all = presets(&["native", "token-blacklist", "invalid-users"]);
    let gateway = world.start(&[&section, &all]);
    bans(&world, &gateway);
    gateway.logout("9");
    assert_eq!(verdict(&gateway, &world.issuer.good("10")), "200");
    let errors = metric(&gateway, "portcullis_lookups_total{outcome=\"error\",store=\"redis\"}");
    assert_eq!(errors, 0.0, "nothing was refused");
    assert!(!gateway.log().contains("NOPERM"), "nothing was refused:\n{}", gateway.log());
    assert_eq!(redis.cmd(&["ACL", "LOG"]), Reply::List(Vec::new()), "nothing was even tried");
}
