//! Gateways over one database that are not configured alike: what one is told counts at the other.

use crate::ledger_common::{World, becomes, patient, patient_redis, presets, readiness_becomes, set_status};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;

const USERS: &str = "CREATE TABLE users (user_id text PRIMARY KEY, status text NOT NULL DEFAULT 'active'); \
                     INSERT INTO users VALUES ('7')";

#[test]
fn a_ban_given_where_there_is_no_redis_or_another_one_counts_where_there_is_one() {
    let (world, database) = (World::new(), Postgres::shared().create_database());
    let (redis, other) = (Redis::start(), Redis::start());
    database.psql(USERS);
    let start = |redis: Option<&Redis>| {
        let sections =
            [patient(&database), presets(&["invalid-users"]), redis.map(patient_redis).unwrap_or_default()];
        world.start(&sections.each_ref().map(String::as_str))
    };
    let gateways = [start(Some(&redis)), start(Some(&other)), start(None)];
    let token = world.issuer.good("7");
    gateways[..2].iter().for_each(|gateway| readiness_becomes(gateway, 200, "ready", "coherent"));
    for here in [&gateways[2], &gateways[1], &gateways[0]] {
        gateways.iter().for_each(|gateway| becomes(gateway, &token, "200"));
        assert_eq!(set_status(here, "7", "banned").0, 200);
        gateways.iter().for_each(|gateway| becomes(gateway, &token, "403 user_banned"));
        assert_eq!(set_status(here, "7", "active").0, 200);
        gateways.iter().for_each(|gateway| becomes(gateway, &token, "200"));
    }
}

#[test]
fn a_token_revoked_through_one_layout_is_revoked_in_the_other() {
    let (world, database, redis) = (World::new(), Postgres::shared().create_database(), Redis::start());
    let start = |names: &[&str]| {
        let sections = [patient(&database), presets(names), patient_redis(&redis)];
        world.start(&sections.each_ref().map(String::as_str))
    };
    let (native, list) = (start(&["native"]), start(&["token-blacklist"]));
    for gateway in [&native, &list] {
        readiness_becomes(gateway, 200, "ready", "coherent");
    }
    let token = world.issuer.good("7");
    for gateway in [&native, &list] {
        becomes(gateway, &token, "200");
    }
    list.revoke_token(&token);
    for gateway in [&native, &list] {
        becomes(gateway, &token, "401 token_revoked");
    }
}
