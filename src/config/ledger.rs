//! `[database]` and `[ledger]`.

use std::time::Duration;

use super::kinds::{MILLISECOND, SECOND, boolean, duration, integer, list, parsed, placed, text, word};
use super::presets;
use super::reader::{Placed, Table, did_you_mean};
use super::rules;
use crate::ledger::preset::Preset;
use crate::ledger::settings::is_in_memory;
use crate::ledger::{DatabaseSettings, LedgerSettings, RedisSettings, Rule};
use crate::route::OnOutage;
use crate::verify::IssuerSettings;

/// The words of `on_outage`, here and in routes.
pub const ON_OUTAGE: [(&str, OnOutage); 2] = [("deny", OnOutage::Deny), ("allow", OnOutage::Allow)];

/// `[ledger]`, as written; stores and lifetimes come from elsewhere in the file.
pub struct Written {
    pub presets: Option<Vec<Preset>>,
    rules: Option<Vec<Rule>>,
    answers: Option<usize>,
    adopt: Option<bool>,
    max_staleness: Option<Duration>,
    heartbeat: Option<Duration>,
    /// `[ledger.memory] tokens`
    pub tokens: Option<usize>,
    /// What routes do unless they say otherwise.
    pub on_outage: Option<OnOutage>,
}

impl Written {
    pub fn resolve(
        self,
        redis: Option<RedisSettings>,
        database: Option<DatabaseSettings>,
        issuers: &[IssuerSettings],
        profile: Box<[Box<str>]>,
    ) -> Option<LedgerSettings> {
        // With leeway a token lives that much longer; without issuers nothing lives, and the defaults do.
        let longest = |life: fn(&IssuerSettings) -> Duration, default| {
            issuers.iter().map(|issuer| life(issuer) + issuer.leeway).max().unwrap_or(default)
        };
        Some(LedgerSettings {
            presets: self.presets?,
            rules: self.rules?,
            redis,
            database: database?,
            token_lifetime: longest(|issuer| issuer.token_lifetime, 900 * SECOND),
            refresh_lifetime: longest(|issuer| issuer.refresh_lifetime, 7 * super::kinds::DAY),
            leeway: issuers.iter().map(|issuer| issuer.leeway).max().unwrap_or_default(),
            answers: self.answers?,
            profile,
            adopt: self.adopt?,
            max_staleness: self.max_staleness?,
            heartbeat: self.heartbeat?,
        })
    }
}

pub fn database(table: &mut Table<'_>) -> Option<DatabaseSettings> {
    let url = table.or("url", parsed(database_url), "sqlite://portcullis.db");
    let max_connections = table.or("max_connections", integer(1..=10_000), 10);
    let timeout = table.or("timeout", duration(MILLISECOND..=30 * SECOND), "250ms");
    let migrate = table.or("migrate", boolean, false);
    let poll = table.or("poll", duration(50 * MILLISECOND..=60 * SECOND), "1s");
    if url.as_deref().is_some_and(is_in_memory) {
        let message = "a database in memory forgets every revocation when the process ends: name a file";
        table.reader.warn(&table.place("url"), message);
    }
    Some(DatabaseSettings {
        url: url?,
        max_connections: max_connections?,
        timeout: timeout?,
        migrate: migrate?,
        poll: poll?,
    })
}

/// Other names of the same databases become the one the ledger knows.
fn database_url(text: &str) -> Result<String, String> {
    let expected = "expected a URL such as \"sqlite://portcullis.db\", \"postgres://…\" or \"mysql://…\"";
    let (scheme, rest) = text.split_once(':').ok_or(expected)?;
    match scheme {
        "sqlite" => {
            let name = rest.trim_start_matches("//").split('?').next().unwrap_or_default();
            if name.is_empty() { Err("name a file".into()) } else { Ok(text.to_owned()) }
        }
        "postgres" | "postgresql" | "mysql" | "mariadb" => {
            let scheme = if scheme.starts_with('p') { "postgres" } else { "mysql" };
            let url = format!("{scheme}:{rest}");
            let parsed = url::Url::parse(&url).map_err(|_| expected)?;
            // PostgreSQL may name a socket instead: `postgres:///db?host=/run/postgresql`.
            if !rest.starts_with("//") || scheme == "mysql" && !parsed.has_host() {
                return Err(expected.into());
            }
            Ok(url)
        }
        _ => Err(expected.into()),
    }
}

pub fn ledger(table: &mut Table<'_>, redis: bool) -> Written {
    let names = table.or("presets", list(placed(text)), ["native"]);
    let on_outage = table.or("on_outage", word(&ON_OUTAGE), "deny");
    let adopt = table.or("adopt", boolean, true);
    let max_staleness = table.or("max_staleness", duration(100 * MILLISECOND..=5 * SECOND), "500ms");
    let heartbeat = table.or("heartbeat", duration(10 * MILLISECOND..=5 * SECOND), "100ms");
    if let (Some(patience), Some(beat)) = (max_staleness, heartbeat)
        && beat >= patience
    {
        let at = table.place("heartbeat");
        table.reader.problem(&at, "`heartbeat` must be shorter than `max_staleness`");
    }
    let (tokens, answers) = table.table("memory", |memory| {
        let tokens = memory.or("tokens", integer(1..=100_000_000), 100_000);
        (tokens, memory.or("answers", integer(1..=100_000_000), 1_000_000))
    });
    let names = names.map(|names| known(table, names)).unwrap_or_default();
    let presets = table.table("preset", |table| presets::presets(table, &names));
    let rules = table.tables("rules", None, |rule| {
        let name = rule.place("name");
        rules::rule(rule, redis).map(|rule| (name, rule))
    });
    let rules: Option<Vec<_>> = rules.into_iter().map(|rule| rule.value).collect();
    let rules = rules.map(|rules| {
        rules.into_iter().fold(Vec::<Rule>::new(), |mut seen, (at, rule)| {
            if seen.iter().any(|other| other.name == rule.name) {
                table.reader.problem(&at, "two rules have this name");
            }
            seen.push(rule);
            seen
        })
    });
    if names.is_empty() && rules.as_ref().is_some_and(Vec::is_empty) {
        table.reader.warn(&table.place("presets"), "no presets and no rules: nothing can be revoked");
    }
    Written { presets, rules, answers, adopt, max_staleness, heartbeat, tokens, on_outage }
}

/// The presets that exist, each once.
fn known(table: &Table<'_>, names: Vec<Placed<String>>) -> Vec<&'static str> {
    names.into_iter().fold(Vec::new(), |mut seen, Placed { at, value }| {
        match presets::NAMES.into_iter().find(|name| *name == value) {
            Some(name) if seen.contains(&name) => table.reader.problem(&at, "this preset is listed twice"),
            Some(name) => seen.push(name),
            None => {
                let all = presets::NAMES.join("`, `");
                let hint = did_you_mean(&value, presets::NAMES.into_iter());
                table.reader.problem(&at, format!("unknown preset (there are `{all}`){hint}"));
            }
        }
        seen
    })
}
