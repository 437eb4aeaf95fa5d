//! No Redis: the database alone decides, whatever its tables look like.

use std::process::Command;

use serde_json::{Value, json};

use crate::ledger_common::{World, becomes, call, patient, presets, set_status, verdict};
use crate::support::gateway::{BINARY, Gateway};
use crate::support::mysql::Mysql;
use crate::support::now;
use crate::support::postgres::Postgres;

/// The column of ids, a subject in it, the column of the status, and that of the instants.
const SHAPES: [(&str, &str, &str, &str); 4] = [
    ("integer", "7", "text", "timestamptz"),
    ("bigint", "9007199254740993", "varchar(20)", "timestamp"),
    ("uuid", "d9428888-122b-11e1-b85c-61cd3cbb3210", "status", "timestamptz"),
    ("text", "seven@example.com", "char(20)", "bigint"),
];

#[test]
fn a_ban_typed_into_the_table_of_users_refuses_whatever_the_columns_types_are() {
    std::thread::scope(|scope| {
        for shape in SHAPES {
            scope.spawn(move || a_table_of_this_shape_is_read_and_written(shape));
        }
    });
}

fn a_table_of_this_shape_is_read_and_written((id, subject, status, instant): (&str, &str, &str, &str)) {
    let world = World::new();
    let database = Postgres::shared().create_database();
    database.psql(&format!(
        "CREATE TYPE status AS ENUM ('active', 'banned', 'deactivated', 'deleted', 'security_action'); \
         CREATE TABLE users (user_id {id} PRIMARY KEY, status {status} NOT NULL DEFAULT 'active', \
         status_updated_at {instant}, last_security_action {instant}); \
         INSERT INTO users (user_id) VALUES ('{subject}')"
    ));
    let gateway = world.start(&[&patient(&database), &presets(&["invalid-users"])]);
    let token = world.issuer.good(subject);
    assert_eq!(verdict(&gateway, &token), "200", "{id}");
    for (word, expected) in [
        ("banned", "403 user_banned"),
        ("deactivated", "403 user_deactivated"),
        ("deleted", "403 user_deleted"),
    ] {
        database.psql(&format!("UPDATE users SET status = '{word}'"));
        becomes(&gateway, &token, expected);
    }
    // An instant as this service would write it.
    let cut_off = match instant {
        "bigint" => (now() * 1000).to_string(),
        "timestamp" => "now() at time zone 'utc'".to_owned(),
        _ => "now()".to_owned(),
    };
    database.psql(&format!("UPDATE users SET status = 'security_action', last_security_action = {cut_off}"));
    becomes(&gateway, &token, "401 user_security_action");
    let newer = world.issuer.token(subject, |claims| claims["iat"] = json!(now() + 10));
    assert_eq!(verdict(&gateway, &newer), "200", "{id}: issued after the cut-off");
    database.psql("UPDATE users SET status = 'active', last_security_action = NULL");
    becomes(&gateway, &token, "200");
    the_control_door_writes_the_table(&gateway, &database, &world, subject);
}

fn the_control_door_writes_the_table(
    gateway: &Gateway,
    database: &crate::support::postgres::Database<'_>,
    world: &World,
    subject: &str,
) {
    let token = world.issuer.good(subject);
    assert_eq!(set_status(gateway, subject, "banned").0, 200);
    assert_eq!(verdict(gateway, &token), "403 user_banned", "at the very next request");
    let row =
        "SELECT trim(status::text), status_updated_at IS NOT NULL, last_security_action IS NULL FROM users";
    assert_eq!(database.psql(row), "banned|t|t");
    assert_eq!(set_status(gateway, subject, "active").0, 200);
    assert_eq!(verdict(gateway, &token), "200");
    assert_eq!(call(gateway, "POST", &format!("/v1/users/{subject}/logout"), &Value::Null).0, 200);
    assert!(verdict(gateway, &token).starts_with("401 "), "issued before the cut-off");
    assert_eq!(database.psql(row), "active|t|f", "a logout leaves the status");
}

#[test]
fn a_user_without_a_row_is_unknown_unless_told_otherwise() {
    let world = World::new();
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE users (user_id int PRIMARY KEY, status text); INSERT INTO users VALUES (7, 'active')",
    );
    let deny = world.start(&[&patient(&database), &presets(&["invalid-users"])]);
    assert_eq!(verdict(&deny, &world.issuer.good("7")), "200");
    assert_eq!(verdict(&deny, &world.issuer.good("8")), "403 user_unknown");
    for spelled in ["07", "+7", "7.0", "seven", "99999999999999999999"] {
        let said = verdict(&deny, &world.issuer.good(spelled));
        assert!(said != "200", "{spelled:?} is another spelling of 7, or nobody's id: {said}");
    }
    assert_eq!(set_status(&deny, "8", "banned").0, 404);
    assert_eq!(set_status(&deny, "seven", "banned").0, 422);
    let allow =
        format!("{}[ledger.preset.invalid-users]\nunknown_user = \"allow\"\n", presets(&["invalid-users"]));
    let allow = world.start(&[&patient(&database), &allow]);
    assert_eq!(verdict(&allow, &world.issuer.good("8")), "200");
}

#[test]
fn rules_of_ones_own_read_every_usual_type_of_column() {
    let world = World::new();
    let database = Postgres::shared().create_database();
    database.psql(
        "CREATE TABLE accounts (id int PRIMARY KEY, flag boolean DEFAULT true, bit smallint DEFAULT 1, word text DEFAULT 'open', \
         doc jsonb DEFAULT '{\"ok\": true}', zoned timestamptz, bare timestamp, unix bigint); \
         CREATE TABLE frozen (id int)",
    );
    let rule = |name: &str, query: &str, deny_if: &str| {
        format!(
            "[[ledger.rules]]\nname = \"{name}\"\nguards = \"user\"\nsql = {{ query = \"{query}\", deny_if = {deny_if} }}\n"
        )
    };
    let column = |column: &str| format!("SELECT {column} FROM accounts WHERE id = {{sub:int}}");
    let rules = [
        "[ledger]\npresets = []\n".to_owned(),
        rule("flag", &column("flag"), "{ equals = [false] }"),
        rule("bit", &column("bit"), "{ equals = [false] }"),
        rule("word", &column("id, word"), "{ field = \"word\", equals = [\"frozen\"] }"),
        rule("doc", &column("doc"), "{ json = \"/ok\", equals = [false] }"),
        rule("zoned", &column("zoned"), "{ issued_before = \"\" }"),
        rule("bare", &column("bare"), "{ issued_before = \"\" }"),
        rule("unix", &column("unix"), "{ issued_before = \"\" }"),
        rule("listed", "SELECT 1 FROM frozen WHERE id = {sub:int}", "\"exists\""),
        rule("unlisted", "SELECT 1 FROM accounts WHERE id = {sub:int}", "\"missing\""),
    ];
    let gateway = world.start(&[&patient(&database), &rules.concat()]);
    let cases = [
        ("flag = false", "flag = true", "403 flag"),
        ("bit = 0", "bit = 1", "403 bit"),
        ("word = 'frozen'", "word = NULL", "403 word"),
        ("doc = '{\"ok\": false}'", "doc = NULL", "403 doc"),
        ("zoned = now()", "zoned = now() - interval '1 h'", "403 zoned"),
        ("bare = now() at time zone 'utc'", "bare = NULL", "403 bare"),
        ("unix = extract(epoch FROM now())", "unix = 0", "403 unix"),
        ("id = id + 100", "id = id", "403 unlisted"),
    ];
    let users: Vec<(usize, String)> =
        (1..=cases.len()).map(|id| (id, world.issuer.good(&id.to_string()))).collect();
    for (id, token) in &users {
        database.psql(&format!("INSERT INTO accounts (id) VALUES ({id})"));
        assert_eq!(verdict(&gateway, token), "200");
    }
    let set = |what: &str, id: &usize| database.psql(&format!("UPDATE accounts SET {what} WHERE id = {id}"));
    users.iter().zip(&cases).for_each(|((id, _), (change, ..))| drop(set(change, id)));
    users.iter().zip(&cases).for_each(|((_, token), (_, _, expected))| becomes(&gateway, token, expected));
    users.iter().zip(&cases).for_each(|((id, _), (_, undo, _))| drop(set(undo, id)));
    database.psql("UPDATE accounts SET id = id - 100 WHERE id > 100; INSERT INTO frozen VALUES (1)");
    users.iter().skip(1).for_each(|(_, token)| becomes(&gateway, token, "200"));
    becomes(&gateway, &users[0].1, "403 listed");
    database.psql("DELETE FROM frozen; ALTER TABLE frozen RENAME TO gone");
    becomes(&gateway, &users[0].1, "503 ledger_unavailable");
    database.psql("ALTER TABLE gone RENAME TO frozen");
    becomes(&gateway, &users[0].1, "200");
}

#[test]
fn mariadb_alone_decides() {
    let world = World::new();
    let database = Mysql::shared().create_database();
    database.query(
        "CREATE TABLE users (user_id BIGINT PRIMARY KEY, status ENUM('active','banned','deactivated','deleted','security_action'), \
         status_updated_at DATETIME, last_security_action TIMESTAMP NULL); INSERT INTO users VALUES (7, 'active', NULL, NULL)",
    );
    let sections = format!("{}timeout = \"5s\"\n", database.config_toml());
    let gateway = world.start(&[&sections, &presets(&["native", "token-blacklist", "invalid-users"])]);
    let (token, other) = (world.issuer.good("7"), world.issuer.good("7"));
    assert_eq!(verdict(&gateway, &token), "200");
    database.query("UPDATE users SET status = 'banned'");
    becomes(&gateway, &token, "403 user_banned");
    database.query("UPDATE users SET status = 'active'");
    becomes(&gateway, &token, "200");
    gateway.revoke_token(&token);
    assert_eq!(
        (verdict(&gateway, &token).as_str(), verdict(&gateway, &other).as_str()),
        ("401 token_revoked", "200")
    );
    assert_eq!(database.query("SELECT COUNT(*), MAX(user_id) FROM blacklisted_tokens"), "1\t7");
    gateway.logout("7");
    assert!(verdict(&gateway, &other).starts_with("401 "));
    let newer = world.issuer.token("7", |claims| claims["iat"] = json!(now() + 10));
    assert_eq!(verdict(&gateway, &newer), "200");
    gateway.ban("7");
    assert_eq!(verdict(&gateway, &newer), "403 user_banned");
    assert_eq!(database.query("SELECT status FROM users"), "banned");
    assert_eq!(verdict(&gateway, &world.issuer.good("8")), "403 user_unknown");
}

#[test]
fn where_there_is_no_table_of_users_portcullis_own_stands_in() {
    let world = World::new();
    let database = Postgres::shared().create_database();
    let gateway = world.start(&[&patient(&database), &presets(&["invalid-users"])]);
    assert!(gateway.log().contains("There is no such table"), "the operator is told");
    let token = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &token), "200");
    gateway.ban("7");
    assert_eq!(verdict(&gateway, &token), "403 user_banned");
    assert_eq!(database.psql("SELECT subject, status FROM portcullis_users"), "7|banned");
    gateway.activate("7");
    assert_eq!(verdict(&gateway, &token), "200");
}

#[test]
fn a_database_without_our_tables_is_refused_with_a_word_on_what_to_do() {
    let world = World::new();
    let database = Postgres::shared().create_database();
    let section = format!("[database]\nurl = \"{}\"\ntimeout = \"5s\"\n", database.url());
    let setup = world.setup(&[&section]);
    let said = Gateway::fails(&setup.toml());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("portcullis migrate") && said.contains("migrate = true"), "{said}");

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("gateway.toml"), setup.toml()).unwrap();
    std::fs::write(directory.path().join("admin.token"), crate::support::unique("token-")).unwrap();
    for _ in 0..2 {
        let migrated = Command::new(BINARY).arg("migrate").current_dir(directory.path()).output().unwrap();
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    }
    let gateway = setup.start();
    let token = world.issuer.good("7");
    assert_eq!(verdict(&gateway, &token), "200");
    gateway.ban("7");
    assert_eq!(verdict(&gateway, &token), "403 user_banned");
}
