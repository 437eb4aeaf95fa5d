//! The examples that people copy, run as they stand: only the variables they name are set.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::origin::Origin;
use crate::support::postgres::{Database, Postgres};
use crate::support::raw::Response;
use crate::support::redis::{Redis, Reply};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|it| panic!("{}: {it}", path.display()))
}

/// What stands around an example's gateway.
struct Around {
    origin: Origin,
    redis: Redis,
    database: Database<'static>,
    issuer: Issuer,
}

impl Around {
    fn new(algorithm: Algorithm) -> Self {
        let database = Postgres::shared().create_database();
        Self { origin: Origin::start(), redis: Redis::start(), database, issuer: Issuer::new(algorithm) }
    }

    /// The example with its variables set, and `more` that only it has.
    fn start(&self, example: &str, more: &[(&str, &str)]) -> Gateway {
        let toml = read(&format!("{example}/gateway.toml"));
        let (upstream, redis, database) =
            (self.origin.addr().to_string(), self.redis.url(), self.database.url());
        let common = [
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("UPSTREAM", &upstream),
            ("REDIS_URL", &redis),
            ("DATABASE_URL", &database),
            ("JWT_ISSUER", &self.issuer.name),
            ("JWT_AUDIENCE", &self.issuer.audience),
        ];
        let variables: Vec<_> = common.iter().chain(more).copied().collect();
        for (name, _) in &variables {
            assert!(toml.contains(&format!("${{{name}")), "{example} does not name {name}");
        }
        Gateway::start_in(&toml, &variables)
    }

    fn schema(&self, example: &str) {
        self.database.psql(&read(&format!("{example}/schema.sql")));
    }
}

/// Polls until this is the answer: what somebody else writes is heard over the network.
fn becomes_refused(gateway: &Gateway, token: &str, status: u16, reason: &str) {
    eventually("the word of whoever wrote it counts", || match gateway.get("/x", Some(token)) {
        refusal if refusal.status == status && refusal.reason() == reason => Ok(()),
        other => Err(other),
    });
}

/// As [`becomes_refused`].
fn passes(gateway: &Gateway, token: &str) {
    eventually("the table's word counts", || match gateway.get("/x", Some(token)) {
        passed if passed.status == 200 => Ok(()),
        not_yet => Err(not_yet.text()),
    });
}

#[track_caller]
fn refused(response: &Response, status: u16, reason: &str) {
    assert_eq!((response.status, response.reason().as_str()), (status, reason));
}

/// Runs a command of the CLI that must succeed.
fn cli(gateway: &Gateway, arguments: &[&str]) {
    let output = gateway.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_blacklist_that_a_service_writes_is_honoured_and_shared() {
    let around = Around::new(Algorithm::HS256);
    around.schema("token-blacklist");
    let secret = String::from_utf8(around.issuer.verifier().to_vec()).unwrap();
    let gateway = around.start("token-blacklist", &[("JWT_SECRET", &secret)]);
    let (redis, database) = (&around.redis, &around.database);

    // As the service does it: Redis first, then the table.
    let ended = around.issuer.good("42");
    passes(&gateway, &ended);
    let value = r#"{"userId":42,"expiresAt":"2027-01-01T00:00:00Z","blacklistedAt":"2026-12-31T23:50:00Z"}"#;
    redis.cmd(&["SET", &format!("blacklist:{ended}"), value, "EX", "600"]);
    becomes_refused(&gateway, &ended, 401, "token_revoked");
    database.psql(&format!(
        "INSERT INTO blacklisted_tokens (token, user_id, expires_at) VALUES ('{ended}', 42, now() + interval '10 minutes')"
    ));
    redis.cmd(&["FLUSHALL"]);
    becomes_refused(&gateway, &ended, 401, "token_revoked");

    // As the gateway does it: the service finds the key and the row.
    let revoked = around.issuer.good("43");
    passes(&gateway, &revoked);
    gateway.revoke_token(&revoked);
    becomes_refused(&gateway, &revoked, 401, "token_revoked");
    let Reply::Text(written) = redis.cmd(&["GET", &format!("blacklist:{revoked}")]) else { panic!("no key") };
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["userId"], 43);
    assert!(written["expiresAt"].is_string() && written["blacklistedAt"].is_string(), "{written}");
    let row = format!("SELECT user_id FROM blacklisted_tokens WHERE token = '{revoked}'");
    assert_eq!(database.psql(&row), "43");

    // A refresh token, the same way.
    let refresh = around.issuer.good("43");
    let (key, alive) = (format!("refresh_token:{refresh}"), r#"{"userId":43,"isRevoked":false}"#);
    redis.cmd(&["SET", &key, alive, "EX", "600"]);
    database.psql(&format!(
        "INSERT INTO refresh_tokens (token, user_id, expires_at) VALUES ('{refresh}', 43, now() + interval '7 days')"
    ));
    passes(&gateway, &refresh);
    gateway.revoke_token(&refresh);
    let Reply::Text(written) = redis.cmd(&["GET", &key]) else { panic!("no key") };
    assert!(written.contains("\"isRevoked\":true"), "{written}");
    assert_eq!(database.psql("SELECT is_revoked FROM refresh_tokens"), "t");

    cli(&gateway, &["user", "ban", "44"]);
    refused(&gateway.get("/x", Some(&around.issuer.good("44"))), 403, "user_banned");
    assert_eq!(gateway.get("/login", None).status, 200);
}

#[test]
fn the_list_of_users_that_a_service_keeps_is_honoured_and_shared() {
    let mut around = Around::new(Algorithm::RS256);
    around.schema("invalid-users");
    around.database.psql("INSERT INTO users (user_id) VALUES (42), (43), (44)");
    let key = around.issuer.key_file().display().to_string();
    let gateway = around.start("invalid-users", &[("JWT_PUBLIC_KEY", &key)]);
    let token = |user: &str| around.issuer.good(user);
    let (redis, database) = (&around.redis, &around.database);

    // As the service does it.
    let token_42 = token("42");
    passes(&gateway, &token_42);
    database.psql("UPDATE users SET status = 'banned', status_updated_at = now() WHERE user_id = 42");
    redis.cmd(&["SET", "invalid_user:42", "banned", "EX", "604800"]);
    becomes_refused(&gateway, &token_42, 403, "user_banned");
    redis.cmd(&["FLUSHALL"]);
    becomes_refused(&gateway, &token_42, 403, "user_banned");
    refused(&gateway.get("/x", Some(&token("7"))), 403, "user_unknown");

    // As the gateway does it: the service finds the key and the row.
    cli(&gateway, &["user", "deactivate", "43"]);
    refused(&gateway.get("/x", Some(&token("43"))), 403, "user_deactivated");
    assert_eq!(redis.cmd(&["GET", "invalid_user:43"]), Reply::Text("deactivated".into()));
    assert_eq!(database.psql("SELECT status FROM users WHERE user_id = 43"), "deactivated");
    cli(&gateway, &["user", "activate", "43"]);
    assert_eq!(redis.cmd(&["EXISTS", "invalid_user:43"]), Reply::Integer(0));
    assert_eq!(gateway.get("/x", Some(&token("43"))).status, 200);

    // A logout blocks nobody.
    let before = token("44");
    cli(&gateway, &["user", "logout", "44"]);
    becomes_refused(&gateway, &before, 401, "issued_before_cutoff");
    let after = around.issuer.token("44", |claims| claims["iat"] = json!(crate::support::now() + 1));
    eventually("a new login passes", || match gateway.get("/x", Some(&after)) {
        passed if passed.status == 200 => Ok(()),
        not_yet => Err(not_yet.text()),
    });
    assert_eq!(
        database.psql("SELECT status, last_security_action IS NOT NULL FROM users WHERE user_id = 44"),
        "active|t"
    );

    // Without Redis the table answers.
    around.redis.kill();
    becomes_refused(&gateway, &token_42, 403, "user_banned");
    assert_eq!(gateway.get("/x", Some(&around.issuer.good("43"))).status, 200);
}

#[test]
fn the_flag_that_a_service_caches_is_honoured_and_shared() {
    let around = Around::new(Algorithm::RS256);
    around.schema("active-flag-cache");
    around.database.psql("INSERT INTO users (user_id) VALUES (42), (43)");
    let key = around.issuer.key_file().display().to_string();
    let gateway = around.start("active-flag-cache", &[("JWT_PUBLIC_KEY", &key)]);
    let (redis, database) = (&around.redis, &around.database);
    let active = |user: &str| redis.cmd(&["GET", &format!("user:{user}:active")]);

    // As the service does it.
    let token = around.issuer.good("42");
    redis.cmd(&["SET", "user:42:active", "true", "EX", "300"]);
    passes(&gateway, &token);
    database.psql("UPDATE users SET is_active = false WHERE user_id = 42");
    redis.cmd(&["SET", "user:42:active", "false", "EX", "300"]);
    becomes_refused(&gateway, &token, 403, "user_deactivated");
    redis.cmd(&["FLUSHALL"]);
    becomes_refused(&gateway, &token, 403, "user_deactivated");
    database.psql("UPDATE users SET is_active = true WHERE user_id = 42");
    redis.cmd(&["DEL", "user:42:active"]);
    passes(&gateway, &token);

    // As the gateway does it: the service finds the key and the column.
    let token = around.issuer.good("43");
    cli(&gateway, &["user", "ban", "43", "--reason", "chargeback"]);
    becomes_refused(&gateway, &token, 403, "user_banned");
    assert_eq!(active("43"), Reply::Text("false".into()));
    assert_eq!(database.psql("SELECT is_active FROM users WHERE user_id = 43"), "f");
    cli(&gateway, &["user", "activate", "43"]);
    assert_eq!(active("43"), Reply::Nil);
    passes(&gateway, &token);
    cli(&gateway, &["user", "logout", "43"]);
    becomes_refused(&gateway, &token, 401, "issued_before_cutoff");
    assert_eq!(database.psql("SELECT is_active FROM users WHERE user_id = 43"), "t");
}

#[test]
fn the_users_that_a_service_caches_are_honoured_found_and_told() {
    let around = Around::new(Algorithm::RS256);
    around.schema("user-cache");
    around.database.psql(
        "INSERT INTO users (id, email, username, phone_number, hashed_password) \
         VALUES (42, 'alice@example.com', 'alice', '+491701234567', '$2b$12$secretsecret')",
    );
    let key = around.issuer.key_file().display().to_string();
    let gateway = around.start("user-cache", &[("JWT_PUBLIC_KEY", &key)]);
    let (redis, database) = (&around.redis, &around.database);

    // As the service does it.
    let cached = r#"{"id":42,"email":"alice@example.com","is_active":true}"#;
    redis.cmd(&["SET", "user:email:alice@example.com", "42", "EX", "300"]);
    redis.cmd(&["SET", "user:id:42", cached, "EX", "300"]);
    let tokens = ["42", "alice@example.com", "alice", "+491701234567"].map(|name| around.issuer.good(name));
    for token in &tokens {
        passes(&gateway, token);
    }
    for request in around.origin.requests() {
        assert_eq!(
            (request.values("x-user-id"), request.values("x-user-email")),
            (vec!["42".to_owned()], vec!["alice@example.com".to_owned()])
        );
    }
    database.psql("UPDATE users SET is_active = false WHERE id = 42");
    redis.cmd(&["SET", "user:id:42", &cached.replace("true", "false"), "EX", "300"]);
    becomes_refused(&gateway, &tokens[1], 403, "user_deactivated");
    database.psql("UPDATE users SET is_active = true WHERE id = 42");
    redis.cmd(&["SET", "user:id:42", cached, "EX", "300"]);
    passes(&gateway, &tokens[1]);

    // As the gateway does it: the service finds no key, and the column.
    cli(&gateway, &["user", "ban", "alice@example.com"]);
    for token in &tokens {
        becomes_refused(&gateway, token, 403, "user_banned");
    }
    assert_eq!(database.psql("SELECT is_active FROM users WHERE id = 42"), "f");
    cli(&gateway, &["user", "activate", "alice"]);
    passes(&gateway, &tokens[3]);
    // Kept again as the service keeps it, less the secret.
    let kept = eventually("the row is cached", || match redis.cmd(&["GET", "user:id:42"]) {
        Reply::Text(text) => Ok(text),
        other => Err(other),
    });
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!((&kept["username"], &kept["is_active"]), (&json!("alice"), &json!(true)));
    assert!(kept.get("hashed_password").is_none());
}

#[test]
fn the_sessions_that_a_service_keeps_are_honoured_and_shared() {
    let around = Around::new(Algorithm::HS256);
    around.schema("session-store");
    let secret = String::from_utf8(around.issuer.verifier().to_vec()).unwrap();
    let gateway = around.start("session-store", &[("JWT_SECRET", &secret)]);
    let (redis, database) = (&around.redis, &around.database);
    let login = |user: &str| {
        let token = around.issuer.good(user);
        database.psql(&format!(
            "INSERT INTO sessions (token, user_id, expires_at) VALUES ('{token}', {user}, now() + interval '15 minutes')"
        ));
        redis.cmd(&["SADD", &format!("user:tokens:{user}"), &token]);
        redis.cmd(&["EXPIRE", &format!("user:tokens:{user}"), "86400"]);
        redis.cmd(&["SET", &format!("session:{user}"), "{}", "EX", "86400"]);
        token
    };
    let holds = |user: &str, token: &str| redis.cmd(&["SISMEMBER", &format!("user:tokens:{user}"), token]);
    let active =
        |token: &str| database.psql(&format!("SELECT is_active FROM sessions WHERE token = '{token}'"));

    // As the service does it.
    let [first, second] = std::array::from_fn(|_| login("42"));
    passes(&gateway, &first);
    refused(&gateway.get("/x", Some(&around.issuer.good("42"))), 401, "session_revoked");
    redis.cmd(&["SREM", "user:tokens:42", &first]);
    database.psql(&format!("UPDATE sessions SET is_active = false WHERE token = '{first}'"));
    becomes_refused(&gateway, &first, 401, "session_revoked");
    redis.cmd(&["FLUSHALL"]);
    passes(&gateway, &second);
    eventually("the set holds it again", || match holds("42", &second) {
        Reply::Integer(1) => Ok(()),
        other => Err(other),
    });

    // As the gateway does it: the service finds neither member nor row.
    gateway.revoke_token(&second);
    becomes_refused(&gateway, &second, 401, "token_revoked");
    assert_eq!((holds("42", &second), active(&second)), (Reply::Integer(0), "f".to_owned()));
    let [third, fourth] = std::array::from_fn(|_| login("43"));
    cli(&gateway, &["user", "logout", "43"]);
    for token in [&third, &fourth] {
        becomes_refused(&gateway, token, 401, "issued_before_cutoff");
        assert_eq!(active(token), "f");
    }
    assert_eq!(redis.cmd(&["EXISTS", "user:tokens:43", "session:43"]), Reply::Integer(0));
    let fifth = login("44");
    cli(&gateway, &["user", "ban", "44"]);
    becomes_refused(&gateway, &fifth, 403, "user_banned");
    cli(&gateway, &["user", "activate", "44"]);
    passes(&gateway, &fifth);
}

#[test]
fn a_service_without_revocation_gets_it() {
    let mut around = Around::new(Algorithm::ES256);
    let keys = JwksServer::serving(&around.issuer.jwks());
    let gateway = around.start("native", &[("JWKS_URL", &keys.url())]);
    let issuer = &around.issuer;

    let session = issuer.claims("42")["sid"].clone();
    let token = issuer.token("42", |claims| claims["sid"] = session.clone());
    passes(&gateway, &token);
    assert_eq!(around.origin.requests()[0].values("x-user-id"), ["42"]);
    refused(&gateway.get("/x", None), 401, "token_missing");
    refused(&gateway.get("/admin/x", Some(&token)), 403, "insufficient_scope");
    assert_eq!(gateway.get("/public/x", None).status, 200);

    cli(&gateway, &["user", "ban", "42", "--reason", "chargeback"]);
    becomes_refused(&gateway, &token, 403, "user_banned");
    cli(&gateway, &["user", "activate", "42"]);
    passes(&gateway, &token);
    cli(&gateway, &["session", "revoke", session.as_str().unwrap()]);
    becomes_refused(&gateway, &token, 401, "session_revoked");
    let token = issuer.good("43");
    gateway.revoke_token(&token);
    becomes_refused(&gateway, &token, 401, "token_revoked");
    let other = issuer.good("44");
    cli(&gateway, &["user", "logout", "44"]);
    becomes_refused(&gateway, &other, 401, "issued_before_cutoff");

    around.redis.cmd(&["FLUSHALL"]);
    becomes_refused(&gateway, &token, 401, "token_revoked");
    around.redis.kill();
    becomes_refused(&gateway, &token, 401, "token_revoked");
    becomes_refused(&gateway, &other, 401, "issued_before_cutoff");
}

#[test]
fn the_compose_file_gives_the_gateway_every_variable_and_secret_it_names() {
    let compose: Value = serde_yaml::from_str(&read("docker-compose/compose.yaml")).unwrap();
    let services = compose["services"].as_object().unwrap();
    let gateway = &services["gateway"];
    let mount = gateway["volumes"][0].as_str().unwrap();
    let (file, inside) = mount.strip_suffix(":ro").unwrap().split_once(':').unwrap();
    let toml = fs::read_to_string(path("docker-compose").join(file)).unwrap();

    let given: BTreeSet<&str> =
        gateway["environment"].as_object().unwrap().keys().map(String::as_str).collect();
    let named: BTreeSet<&str> =
        toml.split("${").skip(1).map(|it| it.split([':', '}']).next().unwrap()).collect();
    assert!(given.is_subset(&named), "nobody reads {:?}", given.difference(&named));
    // The listeners' defaults are right for a container.
    let missing: Vec<_> = named.difference(&given).filter(|it| !it.ends_with("LISTEN")).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (other, until) in gateway["depends_on"].as_object().unwrap() {
        let healthy = until["condition"] == "service_healthy";
        assert_eq!(services[other]["healthcheck"].is_object(), healthy, "{other}");
    }
    let dockerfile = fs::read_to_string(path("../Dockerfile")).unwrap();
    assert!(dockerfile.contains(&format!("PORTCULLIS_CONFIG={inside}")), "the image reads another file");
}
