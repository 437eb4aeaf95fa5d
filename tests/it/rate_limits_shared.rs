//! Gateways that count together in Redis, whatever kind of Redis it is; and each alone while there is none.

use crate::ledger_common::{World, metric, patient_redis, readiness_becomes};
use crate::ledger_tls::documented_acl;
use crate::support::cluster::Cluster;
use crate::support::gateway::Gateway;
use crate::support::redis::{Redis, Reply};
use crate::support::sentinels::Sentinels;
use crate::support::{eventually, leaks, unique};

const FALLBACKS: &str = "portcullis_rate_limit_fallbacks_total";

fn route(name: &str, by: &str, requests: u64) -> String {
    format!(
        "[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"app\"\n\
         rate_limit = {{ by = \"{by}\", requests = {requests}, per = \"1h\", shared = true }}\n"
    )
}

fn keys(redis: &Redis) -> Vec<String> {
    match redis.cmd(&["KEYS", "pc:rate:*"]) {
        Reply::List(keys) => keys
            .into_iter()
            .map(|key| match key {
                Reply::Text(key) => key,
                other => panic!("no key: {other:?}"),
            })
            .collect(),
        other => panic!("no keys: {other:?}"),
    }
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.get(path, Some(token)).status
}

#[test]
fn gateways_count_together_and_redis_keeps_no_more_of_it_than_it_must() {
    let (world, redis) = (World::new(), Redis::start());
    let sections = [patient_redis(&redis), route("a", "subject", 4), route("b", "route", 3)];
    let setup = world.setup(&sections.each_ref().map(String::as_str));
    let (here, there) = (setup.start(), setup.start());
    for gateway in [&here, &there] {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
    let (token, again) = (world.issuer.good("alice"), world.issuer.good("alice"));
    let pushes = metric(&here, "portcullis_pushes_total");
    for (gateway, token, left) in
        [(&here, &token, 3), (&there, &token, 2), (&there, &again, 1), (&here, &again, 0)]
    {
        let passed = gateway.get("/a", Some(token));
        let standing = passed.header("ratelimit").unwrap();
        assert_eq!(passed.status, 200);
        assert!(standing.starts_with(&format!("\"default\";r={left};")), "{standing}");
    }
    for gateway in [&here, &there] {
        let refused = gateway.get("/a", Some(&token));
        assert_eq!((refused.status, refused.reason()), (429, "rate_limited".to_owned()));
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((800..=900).contains(&wait), "{wait}");
    }
    assert_eq!(status(&there, "/a", &world.issuer.good("bob")), 200);
    let names = keys(&redis);
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        assert!(name.starts_with("pc:rate:a:default:subject:") && !name.contains("alice"), "{name}");
        assert!(matches!(redis.cmd(&["PTTL", name]), Reply::Integer(1..=3_600_000)), "{name}");
    }
    // Redis tells nobody of these keys.
    assert_eq!(metric(&here, "portcullis_pushes_total"), pushes);

    assert_eq!(status(&here, "/b", &token), 200);
    assert_eq!(keys(&redis).iter().filter(|name| *name == "pc:rate:b:default:route").count(), 1);
    assert_eq!((metric(&here, FALLBACKS), metric(&there, FALLBACKS)), (0.0, 0.0));
}

/// A flood that is refused anyway does not become one of Redis.
#[test]
fn who_is_refused_is_refused_without_asking_again() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &route("a", "subject", 1)]);
    let token = world.issuer.good("alice");
    assert_eq!(status(&gateway, "/a", &token), 200);
    assert_eq!(status(&gateway, "/a", &token), 429);
    let name = keys(&redis).pop().unwrap();
    // Were it asked, it would say yes.
    redis.cmd(&["DEL", &name]);
    assert!((0..20).all(|_| status(&gateway, "/a", &token) == 429));
    assert_eq!(keys(&redis), Vec::<String>::new());
}

#[test]
fn without_redis_each_counts_alone_and_says_so_once() {
    let (world, mut redis) = (World::new(), Redis::start());
    let section = redis.config_toml();
    let setup = world.setup(&[&section, &route("a", "subject", 3)]);
    let (here, there) = (setup.start(), setup.start());
    let token = world.issuer.good("alice");
    eventually("they count together", || {
        status(&here, "/a", &world.issuer.good(&unique("u")));
        if keys(&redis).is_empty() { Err("no key") } else { Ok(()) }
    });
    let before = metric(&here, FALLBACKS);
    redis.kill();
    for gateway in [&here, &there] {
        let seen: Vec<_> = (0..5).map(|_| status(gateway, "/a", &token)).collect();
        assert_eq!(seen, [200, 200, 200, 429, 429], "an outage of Redis refuses nobody who may pass");
    }
    assert_eq!(metric(&here, FALLBACKS) - before, 5.0);
    let told = here.log().matches("counts the requests of shared limits alone").count();
    assert!((1..=2).contains(&told), "{told}");
    redis.restart();
    eventually("they count together again", || {
        let _ = status(&here, "/a", &world.issuer.good(&unique("u")));
        if keys(&redis).is_empty() { Err("no key") } else { Ok(()) }
    });
    assert!(here.log().contains("Gateways count requests together again"));
}

/// `TIME` is Redis's: gateways whose clocks differ agree, and a clock that was set back locks nobody out for long.
#[test]
fn an_instant_far_in_the_future_is_no_more_than_the_whole_allowance() {
    let (world, redis) = (World::new(), Redis::start());
    let gateway = world.start(&[&patient_redis(&redis), &route("a", "subject", 2)]);
    let token = world.issuer.good("alice");
    assert_eq!(status(&gateway, "/a", &token), 200);
    let name = keys(&redis).pop().unwrap();
    redis.cmd(&["SET", &name, "99999999999999999"]);
    let refused = gateway.get("/a", Some(&token));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!((refused.status, wait), (429, 1800));
    // Not a number at all: this gateway counts alone then, and nobody is refused for it.
    redis.cmd(&["DEL", &name]);
    redis.cmd(&["LPUSH", &name, "x"]);
    assert_eq!(status(&gateway, "/a", &world.issuer.good("bob")), 200);
}

#[test]
fn in_a_cluster_each_key_lies_where_it_belongs() {
    let (world, cluster, password) = (World::new(), Cluster::start(&[]), unique("acl-"));
    leaks::secret(&password);
    let acl = documented_acl(&password);
    for node in &cluster.nodes {
        node.cmd(&acl.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let section = cluster.config_toml(&[0]).replace("redis://", &format!("redis://portcullis:{password}@"));
    let gateway = world.start(&[&format!("{section}timeout = \"1s\"\n"), &route("a", "subject", 2)]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for user in 0..12 {
        let token = world.issuer.good(&user.to_string());
        let seen: Vec<_> = (0..3).map(|_| status(&gateway, "/a", &token)).collect();
        assert_eq!(seen, [200, 200, 429], "{user}");
    }
    let counts: Vec<_> = cluster.nodes.iter().map(|node| keys(node).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 12, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(metric(&gateway, FALLBACKS), 0.0);
    for node in &cluster.nodes {
        assert_eq!(node.cmd(&["ACL", "LOG"]), Reply::List(Vec::new()), "the documented rights are enough");
    }
}

#[test]
fn with_sentinels_the_primary_counts() {
    let (world, sentinels) = (World::new(), Sentinels::start(&[]));
    let section = format!("{}timeout = \"1s\"\n", sentinels.config_toml());
    let setup = world.setup(&[&section, &route("a", "subject", 2)]);
    let (here, there) = (setup.start(), setup.start());
    let token = world.issuer.good("alice");
    assert_eq!((status(&here, "/a", &token), status(&there, "/a", &token)), (200, 200));
    assert_eq!((status(&here, "/a", &token), status(&there, "/a", &token)), (429, 429));
    assert_eq!(metric(&here, FALLBACKS) + metric(&there, FALLBACKS), 0.0);
}
