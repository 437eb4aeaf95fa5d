//! What the ledger's tests have in common: a gateway over given stores, and its verdict as one line of text.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::postgres::{Database, Postgres};
use crate::support::redis::{Redis, Reply};

pub struct World {
    pub issuer: Issuer,
    pub origin: Origin,
}

impl World {
    pub fn new() -> Self {
        Self { issuer: Issuer::new(Algorithm::HS256), origin: Origin::start() }
    }

    /// One guarded route to everything, with these sections more.
    pub fn setup(&self, sections: &[&str]) -> Setup {
        sections.iter().fold(Gateway::guarding(&self.issuer, &self.origin), |setup, it| setup.section(it))
    }

    pub fn start(&self, sections: &[&str]) -> Gateway {
        self.setup(sections).start()
    }
}

/// `[ledger]` with these presets.
pub fn presets(names: &[&str]) -> String {
    format!("[ledger]\npresets = {names:?}\n")
}

/// `[redis]` that is waited for: a slow machine is no outage.
pub fn patient_redis(redis: &Redis) -> String {
    format!("{}timeout = \"5s\"\n", redis.config_toml())
}

/// `[database]` that is waited for, migrated at start.
pub fn patient(database: &Database<'_>) -> String {
    format!("{}timeout = \"5s\"\n", database.config_toml())
}

/// `200`, or the status and the reason.
pub fn verdict(gateway: &Gateway, token: &str) -> String {
    let response = gateway.get("/x", Some(token));
    match response.status {
        200 => "200".to_owned(),
        status => format!("{status} {}", response.reason()),
    }
}

/// Polls until this is the verdict.
pub fn becomes(gateway: &Gateway, token: &str, expected: &str) {
    eventually(&format!("the verdict is {expected}"), || match verdict(gateway, token) {
        it if it == expected => Ok(()),
        other => Err(other),
    });
}

/// A control call's status and body.
pub fn call(gateway: &Gateway, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let response = gateway.control(method, path, body);
    (response.status, response.json())
}

pub fn set_status(gateway: &Gateway, user: &str, status: &str) -> (u16, Value) {
    call(gateway, "PUT", &format!("/v1/users/{user}/status"), &json!({ "status": status }))
}

/// Answers of a store with this outcome: `portcullis_lookups_total`.
pub fn lookups(gateway: &Gateway, store: &str, outcome: &str) -> f64 {
    metric(gateway, &format!("portcullis_lookups_total{{outcome=\"{outcome}\",store=\"{store}\"}}"))
}

pub fn metric(gateway: &Gateway, series: &str) -> f64 {
    gateway.metric(series).unwrap_or_else(|| panic!("no series {series}:\n{}", gateway.metrics()))
}

/// Polls until a series has this value.
pub fn metric_becomes(gateway: &Gateway, series: &str, expected: f64) {
    eventually(&format!("{series} is {expected}"), || match metric(gateway, series) {
        it if it == expected => Ok(()),
        other => Err(other),
    });
}

/// Polls until `/readyz` has this status and mode.
pub fn readiness_becomes(gateway: &Gateway, code: u16, status: &str, mode: &str) {
    eventually(&format!("/readyz is {code} {status} {mode}"), || {
        let (found, text) = gateway.ready();
        let document: Value = serde_json::from_str(&text).unwrap();
        match found == code && document["status"] == status && document["mode"] == mode {
            true => Ok(()),
            false => Err((found, text)),
        }
    });
}

/// The text under a key; `None` where there is none.
pub fn text(redis: &Redis, key: &str) -> Option<String> {
    match redis.cmd(&["GET", key]) {
        Reply::Text(text) => Some(text),
        Reply::Nil => None,
        other => panic!("{key}: {other:?}"),
    }
}

/// Polls until a key holds this text.
pub fn text_becomes(redis: &Redis, key: &str, expected: &str) {
    eventually(&format!("a key holds {expected}"), || match text(redis, key) {
        Some(found) if found == expected => Ok(()),
        other => Err(other),
    });
}

/// The JSON under a key.
pub fn document(redis: &Redis, key: &str) -> Value {
    serde_json::from_str(&text(redis, key).unwrap_or_else(|| panic!("no key {key}"))).unwrap()
}

/// Seconds left to a key; -1 for ever, -2 without a key.
pub fn ttl(redis: &Redis, key: &str) -> i64 {
    match redis.cmd(&["TTL", key]) {
        Reply::Integer(seconds) => seconds,
        other => panic!("{key}: {other:?}"),
    }
}

pub fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two gateways over one Redis and one PostgreSQL.
pub struct Pair {
    pub world: World,
    pub redis: Redis,
    pub database: Database<'static>,
    pub here: Gateway,
    pub there: Gateway,
}

impl Pair {
    /// `users` makes the services' own table, whose users the presets look at.
    pub fn start(users: &str, names: &[&str]) -> Self {
        let (world, redis) = (World::new(), Redis::start());
        let database = Postgres::shared().create_database();
        database.psql(users);
        let sections = [patient_redis(&redis), patient(&database), presets(names)];
        let setup = world.setup(&sections.each_ref().map(String::as_str));
        let (here, there) = (setup.start(), setup.start());
        Self { world, redis, database, here, there }
    }

    pub fn gateways(&self) -> [&Gateway; 2] {
        [&self.here, &self.there]
    }

    pub fn both(&self, token: &str, expected: &str) {
        for gateway in [&self.here, &self.there] {
            // Where the change was not made it is heard of from Redis.
            becomes(gateway, token, expected);
        }
    }
}
