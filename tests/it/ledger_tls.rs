//! Redis over TLS, and under an ACL: what docs/redis.md says is enough must be enough.

use crate::ledger_common::{World, becomes, metric, presets, readiness_becomes, verdict};
use crate::support::cluster::Cluster;
use crate::support::gateway::Gateway;
use crate::support::redis::{Redis, Reply};
use crate::support::redis_tls::Authority;
use crate::support::sentinels::Sentinels;
use crate::support::{eventually, free_port, leaks, unique};

const DOCUMENTED: &str = include_str!("../../docs/redis.md");

/// A Redis that speaks TLS to gateways, to those with a certificate only where `mutual` says so, and plainly to the test.
fn secured(authority: &Authority, mutual: &str) -> (Redis, u16) {
    let port = free_port();
    let [certificate, key, ca] =
        ["server.crt", "server.key", "ca.pem"].map(|it| authority.path(it).display().to_string());
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
        ["ca.pem", "client.crt", "client.key"].map(|it| authority.path(it).display().to_string());
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

/// The documented user on each of these servers.
fn admit(servers: &[Redis], password: &str) {
    let acl = documented_acl(password);
    for server in servers {
        server.cmd(&acl.iter().map(String::as_str).collect::<Vec<_>>());
        server.cmd(&["ACL", "LOG", "RESET"]);
    }
}

#[test]
fn a_cluster_is_reached_over_tls_by_the_documented_user_and_its_promoted_replica_too() {
    let (world, authority, password) = (World::new(), Authority::new(), unique("acl-"));
    leaks::secret(&password);
    let cluster = Cluster::start_over_tls(&authority, &[]);
    admit(&cluster.nodes, &password);
    let section =
        cluster.config_toml(&[0, 1]).replace("redis://", &format!("rediss://portcullis:{password}@"));
    let ca = format!("ca = \"{}\"\ntimeout = \"5s\"\n", authority.path("ca.pem").display());
    let all = presets(&["native", "token-blacklist", "invalid-users"]);
    let gateway = world.start(&[&format!("{section}{ca}"), &all]);
    bans(&world, &gateway);
    gateway.ban("9");
    cluster.fail_over(3);
    eventually("the new primary is followed, and nobody is misjudged on the way", || {
        assert_eq!(verdict(&gateway, &world.issuer.good("9")), "403 user_banned");
        assert_eq!(verdict(&gateway, &world.issuer.good("10")), "200");
        let told = cluster.nodes[3].cmd(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        match told {
            Reply::Text(clients) if clients.contains("name=portcullis-link") => Ok(()),
            other => Err(other),
        }
    });
    readiness_becomes(&gateway, 200, "ready", "coherent");
    cluster.follow(&["SET", "invalid_user:11", "1"]);
    becomes(&gateway, &world.issuer.good("11"), "403 user_banned");
    for node in &cluster.nodes {
        assert_eq!(node.cmd(&["ACL", "LOG"]), Reply::List(Vec::new()), "nothing was refused");
    }
    let stranger = world.start(&[&format!("{section}timeout = \"5s\"\n"), &all]);
    readiness_becomes(&stranger, 200, "degraded", "database");
}

#[test]
fn sentinels_are_asked_over_tls_and_the_primary_they_name_is_too() {
    let (world, authority, password) = (World::new(), Authority::new(), unique("acl-"));
    leaks::secret(&password);
    let sentinels = Sentinels::start_over_tls(&authority);
    admit(sentinels.servers(), &password);
    let section = sentinels
        .config_toml()
        .replace("redis+sentinel://", &format!("rediss+sentinel://portcullis:{password}@"));
    let ca = format!("ca = \"{}\"\ntimeout = \"5s\"\n", authority.path("ca.pem").display());
    let gateway = world.start(&[&format!("{section}{ca}"), &presets(&["native", "token-blacklist"])]);
    bans(&world, &gateway);
    gateway.ban("9");
    let old = sentinels.servers()[0].port();
    sentinels.fail_over();
    let new = sentinels.primary_after(old);
    eventually("the new primary is followed, and nobody is misjudged on the way", || {
        assert_eq!(verdict(&gateway, &world.issuer.good("9")), "403 user_banned");
        assert_eq!(verdict(&gateway, &world.issuer.good("10")), "200");
        match new.cmd(&["CLIENT", "LIST", "TYPE", "pubsub"]) {
            Reply::Text(clients) if clients.contains("name=portcullis-link") => Ok(()),
            other => Err(other),
        }
    });
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for server in sentinels.servers() {
        assert_eq!(server.cmd(&["ACL", "LOG"]), Reply::List(Vec::new()), "nothing was refused");
    }
    let other = Authority::new();
    let wrong = format!("{section}ca = \"{}\"\ntimeout = \"5s\"\n", other.path("ca.pem").display());
    readiness_becomes(&world.start(&[&wrong, &presets(&["native"])]), 200, "degraded", "database");
}
