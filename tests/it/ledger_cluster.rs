//! A cluster: keys of one request lie on several servers, and one that was emptied must not pass for innocence.

use crate::ledger_common::{World, becomes, lookups, presets, readiness_becomes, verdict};
use crate::ledger_tls::documented_acl;
use crate::support::cluster::Cluster;
use crate::support::gateway::Gateway;
use crate::support::redis::Reply;
use crate::support::{eventually, leaks, unique};

fn section(cluster: &Cluster, seeds: &[usize]) -> String {
    format!("{}timeout = \"1s\"\n", cluster.config_toml(seeds))
}

/// Subjects enough that every node holds some of their keys.
fn users() -> impl Iterator<Item = String> {
    (100..112).map(|user| user.to_string())
}

fn start(world: &World, cluster: &Cluster, seeds: &[usize]) -> Gateway {
    let gateway =
        world.start(&[&section(cluster, seeds), &presets(&["native", "token-blacklist", "invalid-users"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    gateway
}

#[test]
fn bans_and_revoked_tokens_are_found_wherever_their_keys_lie() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    // One node is enough to find the others.
    let gateway = start(&world, &cluster, &[1]);
    let mut owners = [0; 3];
    for user in users() {
        let (token, other) = (world.issuer.good(&user), world.issuer.good(&user));
        assert_eq!(verdict(&gateway, &token), "200");
        gateway.revoke_token(&token);
        assert_eq!(verdict(&gateway, &token), "401 token_revoked");
        assert_eq!(verdict(&gateway, &other), "200");
        gateway.ban(&user);
        let key = format!("pc:user:{user}");
        owners[cluster.owner(&key)] += 1;
        assert_eq!(cluster.cmd(&["EXISTS", &key]), Reply::Integer(1), "it is written where it belongs");
        assert_eq!(verdict(&gateway, &other), "403 user_banned");
    }
    assert!(owners.iter().all(|owner| *owner > 0), "{owners:?}");
    // As another service would, with its own client.
    cluster.cmd(&["SET", "invalid_user:200", "1"]);
    becomes(&gateway, &world.issuer.good("200"), "403 user_banned");
    assert_eq!(lookups(&gateway, "redis", "error"), 0.0);
}

#[test]
fn a_node_that_came_back_empty_passes_nobody_who_is_banned() {
    let (world, mut cluster) = (World::new(), Cluster::start(&[]));
    let gateway = start(&world, &cluster, &[0, 1, 2]);
    let tokens: Vec<_> =
        users().map(|user| (world.issuer.good(&user), world.issuer.good(&format!("{user}1")))).collect();
    for (user, (_, clean)) in users().zip(&tokens) {
        gateway.ban(&user);
        assert_eq!(verdict(&gateway, clean), "200");
    }
    let check = |when: &str| {
        for (banned, clean) in &tokens {
            assert_eq!(verdict(&gateway, banned), "403 user_banned", "{when}");
            assert_eq!(verdict(&gateway, clean), "200", "{when}");
        }
    };
    check("before");
    cluster.nodes[1].kill();
    check("with a node killed");
    readiness_becomes(&gateway, 200, "degraded", "database");
    check("with a node known to be away");
    cluster.nodes[1].restart();
    check("with a node starting");
    cluster.is_well();
    eventually("Redis is asked again", || {
        check("with a node emptied");
        let log = gateway.log();
        if log.matches("Store is asked again").count() > 0 { Ok(()) } else { Err(log) }
    });
    check("with a node emptied");
}

#[test]
fn a_node_that_was_flushed_is_noticed_by_the_first_question() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    let gateway = start(&world, &cluster, &[2]);
    for user in users() {
        gateway.ban(&user);
    }
    for node in &cluster.nodes {
        node.cmd(&["FLUSHALL"]);
        for user in users() {
            assert_eq!(verdict(&gateway, &world.issuer.good(&user)), "403 user_banned");
        }
    }
    assert!(gateway.log().contains("a node of the cluster was emptied"));
}

#[test]
fn the_documented_acl_is_enough_for_a_cluster() {
    let (world, cluster, password) = (World::new(), Cluster::start(&[]), unique("acl-"));
    leaks::secret(&password);
    let acl = documented_acl(&password);
    for node in &cluster.nodes {
        node.cmd(&acl.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let section =
        section(&cluster, &[0, 1, 2]).replace("redis://", &format!("redis://portcullis:{password}@"));
    let gateway = world.start(&[&section, &presets(&["native", "token-blacklist", "invalid-users"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    gateway.ban("7");
    assert_eq!(verdict(&gateway, &world.issuer.good("7")), "403 user_banned");
    assert_eq!(verdict(&gateway, &world.issuer.good("8")), "200");
    for node in &cluster.nodes {
        assert_eq!(node.cmd(&["ACL", "LOG"]), Reply::List(Vec::new()), "nothing was refused");
    }
}

#[test]
fn slots_that_move_to_another_node_are_followed() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    let gateway = start(&world, &cluster, &[0]);
    gateway.ban("7");
    let token = world.issuer.good("7");
    let (from, slot) = (cluster.owner("pc:user:7"), cluster.slot("pc:user:7").to_string());
    let to = (from + 1) % 3;
    cluster.begin_move(&slot, from, to);
    cluster.move_keys(&slot, from, to, || {
        assert_eq!(verdict(&gateway, &token), "403 user_banned", "half moved")
    });
    cluster.end_move(&slot, from, to, || {
        assert_eq!(verdict(&gateway, &token), "403 user_banned", "not all know yet");
    });
    readiness_becomes(&gateway, 200, "ready", "coherent");
    assert_eq!(verdict(&gateway, &token), "403 user_banned");
    assert_eq!(verdict(&gateway, &world.issuer.good("8")), "200");
    gateway.activate("7");
    assert_eq!(cluster.nodes[to].cmd(&["EXISTS", "pc:user:7"]), Reply::Integer(0), "it is lifted there");
    becomes(&gateway, &token, "200");
    assert!(!gateway.log().contains("emptied"), "a slot that moved is no loss:\n{}", gateway.log());
}
