//! Services that lift a ban as they always did, in their table and on their deny list, and tell nobody: neither triggers
//! nor a column with the time of the change speak for them.

use std::time::Duration;

use crate::ledger_common::{Pair, becomes, set_status, text};
use crate::support::{pause, within};

const SOON: Duration = Duration::from_secs(15);
const USERS: &str = "CREATE TABLE users (user_id text PRIMARY KEY, status text NOT NULL DEFAULT 'active'); \
                     INSERT INTO users VALUES ('7')";

/// Banned through a gateway, and lifted by its service.
fn lifted(lift: impl Fn(&Pair)) {
    let pair = Pair::start(USERS, &["invalid-users"]);
    let token = pair.world.issuer.good("7");
    for _ in 0..2 {
        pair.both(&token, "200");
        assert_eq!(set_status(&pair.here, "7", "banned").0, 200);
        pair.both(&token, "403 user_banned");
        lift(&pair);
        for gateway in pair.gateways() {
            within(SOON, "the ban is lifted", || match crate::ledger_common::verdict(gateway, &token) {
                it if it == "200" => Ok(()),
                other => {
                    Err((other, text(&pair.redis, "invalid_user:7"), text(&pair.redis, "pc:standing:7")))
                }
            });
        }
    }
    // It can be given again, by whomever.
    pair.database.psql("UPDATE users SET status = 'banned'");
    pair.redis.cmd(&["SET", "invalid_user:7", "banned"]);
    for gateway in pair.gateways() {
        becomes(gateway, &token, "403 user_banned");
    }
}

#[test]
fn a_ban_given_through_a_gateway_is_lifted_by_its_service_in_table_and_list() {
    lifted(|pair| {
        pair.database.psql("UPDATE users SET status = 'active'");
        pair.redis.cmd(&["DEL", "invalid_user:7"]);
    });
}

#[test]
fn a_ban_given_through_a_gateway_is_lifted_by_its_service_in_list_and_table() {
    lifted(|pair| {
        pair.redis.cmd(&["DEL", "invalid_user:7"]);
        // A moment in which the entry is put back.
        pause(Duration::from_millis(500));
        pair.database.psql("UPDATE users SET status = 'active'");
    });
}
