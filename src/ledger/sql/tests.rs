use super::testing::Server;
use super::*;
use crate::template::Field;

fn parsed(query: &str, dialect: Dialect) -> Result<Statement, String> {
    Statement::parse(query, dialect).map_err(|error| error.what)
}

#[test]
fn placeholders_become_the_databases_own() {
    let query = "SELECT '{}', x FROM t WHERE a = {sub:int} AND b = {claims.tenant} -- {x\n AND c = {sub};";
    let postgres = parsed(query, Dialect::Postgres).expect("good");
    assert_eq!(postgres.sql(), "SELECT '{}', x FROM t WHERE a = $1 AND b = $2 -- {x\n AND c = $3");
    assert_eq!(
        postgres.fields().collect::<Vec<_>>(),
        [&Field::Subject, &Field::Claim("tenant".into()), &Field::Subject]
    );
    assert_eq!(parsed("SELECT {sub:uuid}", Dialect::MySql).expect("good").sql(), "SELECT ?");
}

#[test]
fn what_would_not_be_bound_is_refused() {
    for query in [
        "SELECT '{sub}'",
        "SELECT ?",
        "SELECT $1",
        "SELECT {sub",
        "SELECT {sub:float}",
        "SELECT {roles}",
        "SELECT 1; DELETE FROM t",
        "SELECT 'x",
        "SELECT /* x",
        "SELECT }",
    ] {
        assert!(parsed(query, Dialect::Sqlite).is_err(), "{query}");
    }
}

#[test]
fn only_a_canonical_number_is_a_number() {
    for text in ["09", " 9", "+9", "9.0", "-0", "", "9223372036854775808", "9a"] {
        assert_eq!(Cast::Int.value(text), None, "{text}");
    }
    assert_eq!(Cast::Int.value("-9"), Some(Value::Int(-9)));
    assert_eq!(Cast::Uuid.value("67e5504410b1426f9247bb680e5fe0c8"), None);
    assert!(Cast::Uuid.value("67e55044-10b1-426f-9247-bb680e5fe0c8").is_some());
}

#[test]
fn a_url_with_a_password_is_not_repeated() {
    let settings = DatabaseSettings {
        url: "postgres://user:hunter2@[broken/x".to_owned(),
        max_connections: 1,
        timeout: Duration::from_secs(1),
        migrate: false,
        poll: Duration::from_secs(1),
    };
    let error = SqlStore::open(&settings).err().expect("broken").to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

async fn row(server: &Server, query: &str, arguments: &[&str]) -> Result<Option<Row>, StoreError> {
    let statement = Statement::parse(query, server.sql.dialect()).expect("good");
    let arguments: Vec<Argument> = arguments.iter().map(|argument| (*argument).into()).collect();
    server.sql.first_row(&statement, &arguments).await
}

async fn values(server: &Server, query: &str) -> Vec<serde_json::Value> {
    let row = row(server, query, &[]).await.expect("answered").expect("a row");
    row.into_iter().map(|(_, value)| value).collect()
}

#[tokio::test]
async fn sqlite_answers_with_what_its_columns_mean() {
    let server = Server::memory();
    let sql = &server.sql;
    sql.execute("CREATE TABLE t (id INTEGER, active BOOLEAN, name TEXT, raw BLOB)", &[]).await.expect("made");
    sql.execute("INSERT INTO t VALUES (7, 0, 'x', x'00')", &[]).await.expect("inserted");
    let found = values(&server, "SELECT * FROM t").await;
    assert_eq!(serde_json::json!(found), serde_json::json!([7, false, "x", null]));
    assert!(row(&server, "SELECT 1 FROM t WHERE id = {sub:int}", &["7"]).await.expect("answered").is_some());
    assert!(row(&server, "SELECT 1 FROM t WHERE id = {sub:int}", &["8"]).await.expect("answered").is_none());
    let odd = row(&server, "SELECT 1 FROM t WHERE id = {sub:int}", &["07"]).await;
    assert!(matches!(odd, Err(StoreError::Malformed(_))), "{odd:?}");
}

#[tokio::test]
async fn postgres_answers_with_what_its_columns_mean() {
    let server = Server::postgres().await;
    server.sql.execute("CREATE TYPE mood AS ENUM ('banned')", &[]).await.expect("made");
    server.sql.execute("CREATE DOMAIN small AS integer", &[]).await.expect("made");
    let found = values(
        &server,
        "SELECT 7::int8, 7::small, true, 'banned'::mood, '2026-11-21T04:20:56.5+01'::timestamptz, \
         '2026-11-21 04:20:56'::timestamp, '2026-11-21'::date, '67e55044-10b1-426f-9247-bb680e5fe0c8'::uuid, \
         '{\"a\":1}'::jsonb, 'x'::bpchar, NULL, '\\x00'::bytea, 'infinity'::timestamptz",
    );
    let found = serde_json::json!(found.await);
    let expected = serde_json::json!([
        7, 7, true, "banned", "2026-11-21T03:20:56.500Z", "2026-11-21T04:20:56.000Z", "2026-11-21T00:00:00.000Z",
        "67e55044-10b1-426f-9247-bb680e5fe0c8", {"a": 1}, "x", null, null, "9999-12-30T22:00:00.000Z"
    ]);
    assert_eq!(found, expected);
    let missing = row(&server, "SELECT 1 FROM nowhere WHERE id = {sub}", &["secret"]).await;
    assert!(matches!(&missing, Err(StoreError::Malformed(said)) if said.contains("nowhere")), "{missing:?}");
    let cast = row(&server, "SELECT CAST({sub} AS integer)", &["secret"]).await.expect_err("no number");
    assert!(!cast.to_string().contains("secret"), "{cast}");
}

#[tokio::test]
async fn mariadb_answers_with_what_its_columns_mean() {
    let server = Server::mariadb().await;
    let table = "CREATE TABLE t (a TINYINT(1), b BIGINT UNSIGNED, c DATETIME(3), d TIMESTAMP, e DATE, f VARCHAR(9), \
                 g VARBINARY(9), h ENUM('banned'), i BIT(1), j DATETIME)";
    server.sql.execute(table, &[]).await.expect("made");
    let row = "INSERT INTO t VALUES (1, 7, '2026-11-21 04:20:56.5', '2026-11-21 04:20:56', '2026-11-21', 'x', 'y', \
               'banned', 0, '2026-11-21 00:00:00')";
    server.sql.execute(row, &[]).await.expect("inserted");
    let found = serde_json::json!(values(&server, "SELECT * FROM t").await);
    let expected = serde_json::json!([
        true,
        7,
        "2026-11-21T04:20:56.500Z",
        "2026-11-21T04:20:56.000Z",
        "2026-11-21T00:00:00.000Z",
        "x",
        null,
        "banned",
        false,
        "2026-11-21T00:00:00.000Z"
    ]);
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_new_file_and_what_lies_beside_it_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::sqlite();
    server.sql.rows("CREATE TABLE t (x)", &[]).await.expect("a table");
    let file = std::path::Path::new(server.url.strip_prefix("sqlite://").expect("a file"));
    let beside =
        std::fs::read_dir(file.parent().expect("a folder")).expect("read").map(|it| it.expect("read"));
    let modes: Vec<_> = beside.map(|it| it.metadata().expect("read").permissions().mode() & 0o777).collect();
    assert!(!modes.is_empty() && modes.iter().all(|mode| *mode == 0o600), "{modes:?}");
}
