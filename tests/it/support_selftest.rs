//! The tests' own tools, tested: a tool that lies makes every other test worthless.

use std::fs;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::support::issuer::{ALGORITHMS, Issuer, JwksServer};
use crate::support::mysql::Mysql;
use crate::support::origin::{Answer, Origin};
use crate::support::postgres::Postgres;
use crate::support::raw::{self, Raw};
use crate::support::redis::{Redis, Reply};
use crate::support::server::{Directory, Launch, Server};
use crate::support::{leaks, unique};

#[test]
fn tokens_of_every_algorithm_verify_by_key_file_and_by_key_set() {
    for algorithm in ALGORITHMS {
        let issuer = Issuer::new(algorithm);
        let token = issuer.good("alice");
        let by_file = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                DecodingKey::from_secret(issuer.verifier())
            }
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(issuer.verifier()).unwrap(),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(issuer.verifier()).unwrap(),
            _ => DecodingKey::from_rsa_pem(issuer.verifier()).unwrap(),
        };
        let by_set = DecodingKey::from_jwk(&serde_json::from_value(issuer.jwk()).unwrap()).unwrap();
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&["api"]);
        validation.leeway = 0;
        for key in [by_file, by_set] {
            let read = jsonwebtoken::decode::<Value>(&token, &key, &validation);
            assert_eq!(read.unwrap().claims["sub"], "alice", "{algorithm:?}");
            assert!(jsonwebtoken::decode::<Value>(&issuer.expired("alice"), &key, &validation).is_err());
        }
    }
}

#[test]
fn the_origin_records_exact_bytes_and_answers_as_told() {
    let origin = Origin::answering(|seen| match seen.target().as_str() {
        "/chunked" => Answer::new(201, "some words").header("X-Said", "yes").chunked(),
        "/empty" => Answer::new(200, "").chunked(),
        "/close" => Answer::ok().closing(),
        _ => Answer::ok(),
    });
    origin.saw_nothing();
    let mut raw = Raw::connect(origin.addr());
    raw.send("POST /%41//b HTTP/1.1\r\nX-oDD:  v \r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(raw.response().text(), "ok");
    raw.send("POST /chunked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: v\r\n\r\n");
    let chunked = raw.response();
    assert_eq!(
        (chunked.status, chunked.header("x-said"), chunked.text().as_str()),
        (201, Some("yes"), "some words")
    );
    // Pipelined: two answers in order.
    raw.send("GET /empty HTTP/1.1\r\n\r\nGET /close HTTP/1.1\r\n\r\n");
    assert_eq!(raw.response().text(), "");
    assert!(!raw.is_closed() || origin.requests().len() == 4);
    assert_eq!(raw.response().text(), "ok");
    raw.assert_closed();

    let seen = origin.requests();
    assert_eq!(seen[0].head, b"POST /%41//b HTTP/1.1\r\nX-oDD:  v \r\nContent-Length: 3\r\n\r\n");
    assert_eq!(seen[0].body, b"abc");
    assert_eq!(seen[0].values("x-odd"), ["v"]);
    assert_eq!(seen[1].body, b"2\r\nhi\r\n0\r\nT: v\r\n\r\n");
    assert_eq!((seen.len(), origin.connections(), seen[3].connection), (4, 1, 0));
}

#[test]
fn the_origin_switches_to_an_echo_and_records_it() {
    let origin = Origin::answering(|_| Answer::switch_to_websocket());
    let mut raw = Raw::connect(origin.addr());
    raw.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(raw.response().status, 101);
    raw.send("hello");
    assert_eq!(raw.bytes(5), b"hello");
    assert_eq!(origin.tunnelled(), b"hello");
}

#[test]
fn the_key_set_server_counts_and_misbehaves() {
    let issuer = Issuer::new(Algorithm::ES256);
    let server = JwksServer::serving(&issuer.jwks());
    let address = server.url().strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap();
    let ask = || raw::get(address, "/jwks.json", None);
    assert_eq!(ask().json(), issuer.jwks());
    server.fail();
    assert_eq!(ask().status, 500);
    server.redirect("http://elsewhere.test/");
    assert_eq!(
        (ask().status, ask().header("location").unwrap().to_owned()),
        (302, "http://elsewhere.test/".into())
    );
    server.huge(100_000);
    assert!(ask().body.len() > 100_000);
    server.slow(Duration::from_millis(1));
    assert_eq!(ask().json(), json!({ "keys": [] }));
    server.discovery(json!({ "issuer": issuer.name, "jwks_uri": server.url() }));
    assert_eq!(raw::get(address, "/.well-known/openid-configuration", None).json()["issuer"], issuer.name);
    assert_eq!(server.hits(), 6);
}

#[test]
fn redis_starts_answers_hangs_dies_and_comes_back_empty() {
    let mut redis = Redis::start();
    redis.cmd(&["SET", "key", "a value\r\nof two lines", "EX", "100"]);
    assert_eq!(redis.cmd(&["GET", "key"]), Reply::Text("a value\r\nof two lines".into()));
    assert_eq!(redis.cmd(&["GET", "none"]), Reply::Nil);
    assert_eq!(redis.cmd(&["SADD", "set", "1", "2"]), Reply::Integer(2));
    assert_eq!(redis.cmd(&["MGET", "none"]), Reply::List(vec![Reply::Nil]));
    assert!(
        matches!(redis.try_cmd(&["LPUSH", "key", "x"]).unwrap(), Reply::Error(it) if it.starts_with("WRONGTYPE"))
    );
    drop(redis.stop_cont());
    assert_eq!(redis.cmd(&["PING"]), Reply::Text("PONG".into()));
    redis.kill();
    assert!(redis.try_cmd(&["PING"]).is_err());
    redis.restart();
    assert_eq!(redis.cmd(&["GET", "key"]), Reply::Nil);
}

#[test]
fn postgres_gives_each_test_a_database() {
    let database = Postgres::shared().create_database();
    database.psql("CREATE TABLE users (id int, name text); INSERT INTO users VALUES (1, 'a'), (2, NULL)");
    assert_eq!(database.psql("SELECT * FROM users ORDER BY id"), "1|a\n2|");
    let other = Postgres::shared().create_database();
    assert_eq!(other.psql("SELECT to_regclass('users')"), "");
}

#[test]
fn a_postgres_of_ones_own_dies_and_comes_back_with_its_data() {
    let mut postgres = Postgres::start();
    let url = {
        let database = postgres.create_database();
        database.psql("CREATE TABLE t (a int)");
        database.url()
    };
    postgres.kill();
    let address = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    assert!(std::net::TcpStream::connect(&address).is_err());
    postgres.restart();
    assert!(std::net::TcpStream::connect(&address).is_ok());
}

#[test]
fn mysql_gives_each_test_a_database() {
    let database = Mysql::shared().create_database();
    database.query("CREATE TABLE users (id int, name text); INSERT INTO users VALUES (1, 'a'), (2, 'b')");
    assert_eq!(database.query("SELECT * FROM users ORDER BY id"), "1\ta\n2\tb");
}

#[test]
fn the_search_finds_a_planted_token_and_a_planted_secret() {
    let directory = tempfile::tempdir().unwrap();
    let token = Issuer::new(Algorithm::EdDSA).good("alice");
    let secret = unique("secret-");
    leaks::secret(&secret);
    let signature = token.rsplit('.').next().unwrap();
    fs::create_dir(directory.path().join("deep")).unwrap();
    fs::write(directory.path().join("deep/log"), format!("a line\nseen {signature} here\n")).unwrap();
    fs::write(directory.path().join("other"), format!("password={secret}")).unwrap();
    fs::write(directory.path().join("exempt.db"), &token).unwrap();
    let found =
        leaks::search_directory(directory.path(), &|path| path.extension().is_some_and(|it| it == "db"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|it| it.contains("deep/log")) && found.iter().any(|it| it.contains("other")));
    assert!(!found.concat().contains(&secret), "the complaint itself gives it away");
}

#[test]
fn a_dropped_server_is_gone_and_so_is_its_directory() {
    let directory = Directory::for_user(None, "portcullis-selftest-");
    let path = directory.path().to_owned();
    let command = vec!["sleep".to_owned(), "600".to_owned()];
    let server = Server::launch(&Launch { command, user: None, log: path.join("log"), signal: "KILL" });
    server.alive().unwrap();
    let pid = server.pid();
    drop(directory_after(server, directory));
    assert!(!path.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// In the order in which the fields of a real server's owner are dropped.
fn directory_after(server: Server, directory: Directory) -> Directory {
    drop(server);
    directory
}
