//! A cluster: what is listed lies on every node, and a key is found again whatever its user is called.

use std::time::Duration;

use serde_json::json;

use crate::ledger_common::{World, becomes, call, metric_becomes, patient, presets, readiness_becomes};
use crate::support::cluster::Cluster;
use crate::support::postgres::Postgres;
use crate::support::redis::Reply;
use crate::support::within;

const SOON: Duration = Duration::from_secs(30);

fn section(cluster: &Cluster) -> String {
    format!("{}timeout = \"5s\"\n", cluster.config_toml(&[0, 1, 2]))
}

/// Keys of each of these users lie on all nodes.
fn users() -> Vec<String> {
    (100..112).map(|user| user.to_string()).collect()
}

/// No token with such a subject passes, but tables hold such users, and operators ban them.
#[test]
fn a_user_with_braces_in_the_name_is_banned_like_any_other_and_keeps_nobody_waiting() {
    let (world, cluster) = (World::new(), Cluster::start(&[]));
    let gateway = world.start(&[&section(&cluster), &presets(&["native", "invalid-users"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for (name, in_path) in [("a{b", "a%7Bb"), ("a}b", "a%7Db"), ("{}c", "%7B%7Dc"), ("{d}e", "%7Bd%7De")] {
        let key = format!("invalid_user:{name}");
        for (status, there) in [("banned", 1), ("active", 0)] {
            let path = format!("/v1/users/{in_path}/status");
            let (code, said) = call(&gateway, "PUT", &path, &json!({ "status": status }));
            assert_eq!((code, &said["redis"]), (200, &json!("applied")), "{name}: {said}");
            assert_eq!(cluster.follow(&["EXISTS", &key]), Reply::Integer(there), "{name}");
        }
    }
    metric_becomes(&gateway, "portcullis_outbox_pending", 0.0);
    readiness_becomes(&gateway, 200, "ready", "coherent");
}

#[test]
fn entries_that_services_keep_in_redis_alone_are_copied_from_every_node() {
    const RULE: &str = "[[ledger.rules]]\nname = \"frozen\"\nguards = \"user\"\nkey = \"frozen:{sub}\"\ndeny_if = \"exists\"\n";
    let (world, cluster, database) =
        (World::new(), Cluster::start(&[]), Postgres::shared().create_database());
    // Before anybody listens.
    for user in users() {
        cluster.cmd(&["SET", &format!("frozen:{user}"), "1", "EX", "600"]);
    }
    let ledger = format!("{}{RULE}", presets(&["native"]));
    let gateway = world.start(&[&section(&cluster), &patient(&database), &ledger]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    within(SOON, "all are copied", || {
        let copied = database.psql("SELECT COUNT(*) FROM portcullis_adopted");
        if copied == users().len().to_string() { Ok(()) } else { Err(copied) }
    });
}

#[test]
fn bans_that_were_lifted_do_not_come_back_with_older_copies_of_the_nodes() {
    let (world, mut cluster, database) =
        (World::new(), Cluster::start(&[]), Postgres::shared().create_database());
    database.psql("CREATE TABLE users (user_id text PRIMARY KEY, status text NOT NULL DEFAULT 'active')");
    for user in users() {
        database.psql(&format!("INSERT INTO users VALUES ('{user}')"));
        cluster.cmd(&["SET", &format!("invalid_user:{user}"), "banned", "EX", "600"]);
    }
    let gateway = world.start(&[&section(&cluster), &patient(&database), &presets(&["invalid-users"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for node in &mut cluster.nodes {
        node.cmd(&["SAVE"]);
        node.restart_from_copy();
    }
    cluster.is_well();
    for user in users() {
        within(SOON, "the entry goes", || match cluster.cmd(&["EXISTS", &format!("invalid_user:{user}")]) {
            Reply::Integer(0) => Ok(()),
            other => Err(format!("{user}: {other:?}")),
        });
        becomes(&gateway, &world.issuer.good(&user), "200");
    }
}
