//! A gateway that comes up before its database: it serves, and is whole once the database is there.

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::postgres::Postgres;

/// Numbers as ids, and a status that is an enumeration: not what would be assumed of a table nobody has seen.
const USERS: &str = "CREATE TYPE standing AS ENUM ('active', 'banned'); \
    CREATE TABLE users (user_id BIGINT PRIMARY KEY, status standing NOT NULL, status_updated_at TIMESTAMPTZ, \
    last_security_action TIMESTAMPTZ); INSERT INTO users VALUES (7, 'active'), (8, 'banned')";

#[test]
fn a_ledger_that_began_without_its_database_is_completed_when_that_answers() {
    let mut postgres = Postgres::start();
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let database = postgres.create_database();
    database.psql(USERS);
    let toml = Gateway::guarding(&issuer, &origin)
        .section(&database.config_toml())
        .section("[ledger]\npresets = [\"native\", \"invalid-users\"]")
        .toml();
    postgres.kill();
    let gateway = Gateway::start_unready(&toml);
    let (good, banned) = (issuer.good("7"), issuer.good("8"));
    assert_eq!(gateway.get("/x", Some(&good)).reason(), "ledger_unavailable");
    origin.saw_nothing();
    postgres.restart();
    eventually("the tables are made and looked at", || match gateway.get("/x", Some(&good)) {
        answer if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    assert_eq!(gateway.get("/x", Some(&banned)).reason(), "user_banned");
    gateway.ban("7");
    assert_eq!(gateway.get("/x", Some(&good)).reason(), "user_banned");
}
