//! Sentinels: a primary is believed while a majority vouches for it, however well the old one answers.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ledger_common::{World, becomes, presets, readiness_becomes, verdict};
use crate::support::gateway::Gateway;
use crate::support::redis::{Redis, Reply};
use crate::support::sentinels::Sentinels;
use crate::support::{eventually, leaks, unique};

/// A rule that Redis alone can answer.
const ALONE: &str = "[ledger]\npresets = [\"native\"]\nadopt = false\n[[ledger.rules]]\nname = \"frozen\"\nguards = \"user\"\n\
                     key = \"frozen:{sub}\"\ndeny_if = \"exists\"\n";

/// How long after a ban on the new primary its user may still pass: the lease of two seconds, and the machine's breath.
const BOUND: Duration = Duration::from_millis(2500);

fn section(sentinels: &Sentinels) -> String {
    format!("{}timeout = \"1s\"\n", sentinels.config_toml())
}

fn role(redis: &Redis) -> String {
    match redis.cmd(&["ROLE"]) {
        Reply::List(parts) => format!("{:?}", parts[0]),
        other => panic!("no role: {other:?}"),
    }
}

fn mode(gateway: &Gateway) -> String {
    let document: Value = serde_json::from_str(&gateway.ready().1).unwrap();
    document["mode"].as_str().unwrap().to_owned()
}

#[test]
fn a_primary_that_was_deposed_while_it_hung_is_not_believed_when_it_answers_again() {
    let (world, sentinels) = (World::new(), Sentinels::start(&[]));
    let redis = section(&sentinels);
    let (alone, plain) = (world.start(&[&redis, ALONE]), world.start(&[&redis, &presets(&["native"])]));
    for gateway in [&alone, &plain] {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
    let (banned, clean) = (world.issuer.good("8"), world.issuer.good("7"));
    assert_eq!((verdict(&alone, &banned), verdict(&plain, &clean)), ("200".into(), "200".into()));

    let old = &sentinels.servers()[0];
    let hung = old.stop_cont();
    let new = sentinels.primary_after(old.port());
    assert_eq!(verdict(&plain, &clean), "200", "the database answers");
    new.cmd(&["SET", "frozen:8", "1"]);
    let at = Instant::now();
    drop(hung);
    assert!(role(old).contains("master"), "the old primary goes on as if nothing had happened");
    let mut last = String::new();
    while at.elapsed() < BOUND * 2 {
        let asked = at.elapsed();
        last = verdict(&alone, &banned);
        assert!(last != "200" || asked < BOUND, "passed {asked:?} after the ban");
        assert!(["200", "403 frozen", "503 ledger_unavailable"].contains(&last.as_str()), "{last}");
        assert_eq!(verdict(&plain, &clean), "200", "the database answers meanwhile");
    }
    assert_eq!(last, "403 frozen", "the new primary is asked");
    for gateway in [&alone, &plain] {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
}

#[test]
fn a_planned_failover_costs_no_request_and_no_ban() {
    let (world, sentinels) = (World::new(), Sentinels::start(&[]));
    let gateway = world.start(&[&section(&sentinels), &presets(&["native"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let (banned, clean) = (world.issuer.good("8"), world.issuer.good("7"));
    gateway.ban("8");
    let old = sentinels.servers()[0].port();
    sentinels.fail_over();
    eventually("the new primary is asked, and nobody is misjudged on the way", || {
        assert_eq!(verdict(&gateway, &banned), "403 user_banned");
        assert_eq!(verdict(&gateway, &clean), "200");
        let log = gateway.log();
        let named = log.matches("Redis's primary").count();
        if named >= 2 && mode(&gateway) == "coherent" { Ok(()) } else { Err(log) }
    });
    let new = sentinels.primary_after(old);
    gateway.ban("9");
    assert_eq!(new.cmd(&["EXISTS", "pc:user:9"]), Reply::Integer(1), "it is written to the new one");
    assert_eq!(verdict(&gateway, &world.issuer.good("9")), "403 user_banned");
}

#[test]
fn without_a_majority_of_sentinels_redis_counts_as_away_however_well_it_is() {
    let (world, sentinels) = (World::new(), Sentinels::start(&[]));
    let gateway = world.start(&[&section(&sentinels), ALONE]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    let token = world.issuer.good("7");
    let one = sentinels.stop_sentinel(0);
    let other = sentinels.stop_sentinel(1);
    readiness_becomes(&gateway, 200, "degraded", "database");
    assert_eq!(verdict(&gateway, &token), "503 ledger_unavailable");
    drop(one);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    becomes(&gateway, &token, "200");
    drop(other);
}

#[test]
fn sentinels_that_want_a_password_get_theirs_and_the_documented_acl_is_enough() {
    let (world, sentinels, password) = (World::new(), Sentinels::start(&[]), unique("sentinel-"));
    leaks::secret(&password);
    let documented = include_str!("../../docs/redis.md");
    let acl =
        documented.lines().find(|it| it.starts_with("ACL SETUSER") && it.contains("+sentinel")).unwrap();
    let acl = acl.replace("PASSWORD", &password);
    sentinels.each(&acl.split_ascii_whitespace().collect::<Vec<_>>());
    sentinels.each(&["ACL", "LOG", "RESET"]);
    let login = format!("sentinel_username = \"portcullis\"\nsentinel_password = \"{password}\"\n");
    let gateway = world.start(&[&format!("{}{login}", section(&sentinels)), &presets(&["native"])]);
    readiness_becomes(&gateway, 200, "ready", "coherent");
    for reply in sentinels.each(&["ACL", "LOG"]) {
        assert_eq!(reply, Reply::List(Vec::new()), "nothing was refused");
    }
    let login = login.replace(&password, "another");
    let stranger = world.start(&[&format!("{}{login}", section(&sentinels)), &presets(&["native"])]);
    readiness_becomes(&stranger, 200, "degraded", "database");
    assert_eq!(verdict(&stranger, &world.issuer.good("7")), "200");
}
