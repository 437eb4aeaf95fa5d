//! `gateway.toml` into [`Config`]: as written and as run are two types; all problems are told at once.
//!
//! The file is parsed into a tree in which everything knows its place ([`node`]). A [`reader::Table`] is asked for
//! its keys, one after the other, and what nobody asked for is an unknown key. So the set of keys that exist, their
//! defaults and what is in effect are all said once, where the key is read.

mod between_routes;
mod files;
mod forward_auth;
mod handling;
mod issuers;
mod kinds;
mod ledger;
mod mask;
mod node;
mod observers;
mod path;
mod presets;
mod problem;
mod rate;
mod reader;
mod redis;
mod refresh;
mod replies;
mod route_headers;
mod routes;
mod rules;
mod server;
mod upstream_tls;
mod tls;
mod upstreams;
mod variables;
mod within_route;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::admin::settings::AdminSettings;
use crate::identity::IdentitySettings;
use crate::ledger::LedgerSettings;
use crate::proxy::settings::{ForwardAuth, ServerSettings};
use crate::report::settings::LogSettings;
use crate::route::RouteSettings;
use crate::token::Place;
use crate::upstream::UpstreamSettings;
use crate::verify::IssuerSettings;

pub use files::{Files, Stamp};
pub use problem::{Problem, Problems, Warnings};
pub use reader::Environment;

use reader::{Reader, Table};
use upstreams::Upstream;

/// Everything Portcullis is told, validated whole.
#[derive(Clone, PartialEq)]
pub struct Config {
    pub server: ServerSettings,
    pub forward_auth: Option<ForwardAuth>,
    pub admin: AdminSettings,
    pub issuers: Vec<IssuerSettings>,
    pub log: LogSettings,
    /// `[token] from`
    pub places: Vec<Place>,
    pub identity: IdentitySettings,
    pub ledger: LedgerSettings,
    /// `[ledger.memory] tokens`: how many verified tokens are kept.
    pub tokens: usize,
    pub upstreams: Vec<UpstreamSettings>,
    pub routes: Vec<RouteSettings>,
}

/// A configuration that was read, with what is worth knowing about it.
pub struct Checked {
    pub config: Config,
    pub warnings: Warnings,
    /// Every key with its value or default, for `check --print`. Secrets are left out, variables stand unexpanded.
    pub effective: toml::Table,
    /// Every key that was asked for, as a dotted path.
    pub known: BTreeSet<String>,
    /// Every file that was read, the configuration's own first.
    pub files: Files,
}

impl Config {
    /// Reads a configuration from a file, with the variables of this process.
    pub fn load(path: &Path) -> Result<(Self, Warnings), Problems> {
        Self::check(path).map(|checked| (checked.config, checked.warnings))
    }

    /// As [`Config::load`], with all there is to know.
    pub fn check(path: &Path) -> Result<Checked, Problems> {
        let own = (path.to_owned(), Stamp::of(path));
        match Self::read(path) {
            Ok(mut checked) => {
                checked.files.insert(0, own);
                Ok(checked)
            }
            Err(mut problems) => {
                problems.files.insert(0, own);
                Err(problems)
            }
        }
    }

    fn read(path: &Path) -> Result<Checked, Problems> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|cause| Problems::cannot_read(&name, &cause))?;
        let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes);
                let at = error.valid_up_to();
                return Err(Problems::new(&name, &text, vec![(at..at + 1, "this is not UTF-8".into())]));
            }
        };
        Self::parse(text, &name, base, &|name| std::env::var(name).ok())
    }

    /// Reads a configuration from its text. `name` is what problems call it, relative paths start at `base`.
    pub fn parse(
        text: &str,
        name: &str,
        base: &Path,
        environment: Environment<'_>,
    ) -> Result<Checked, Problems> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let found = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message().to_owned()));
            return Err(Problems::new(name, text, found.collect()));
        }
        let reader = Reader::new(base, environment);
        let entries = reader.entries(document.get_ref());
        let (config, effective) = Table::read(&reader, String::new(), 0..0, &entries, read);
        let mut gathered = reader.gathered();
        if config.is_none() && gathered.problems.is_empty() {
            gathered.problems.push((0..0, "a default is not valid; please report this".into()));
        }
        match config {
            Some(config) if gathered.problems.is_empty() => Ok(Checked {
                config,
                warnings: Warnings::new(name, text, gathered.warnings),
                effective,
                known: gathered.known,
                files: gathered.files,
            }),
            _ => Err(Problems::new(name, text, gathered.problems).after_reading(gathered.files)),
        }
    }
}

/// The line on which a key stands, counted from 1: `server.limits.connections`. `None` where it is not written.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut value: Option<&DeValue<'_>> = None;
    let mut at = None;
    for part in key.split('.') {
        let table = match value {
            None => document.get_ref(),
            // Of a list of tables the first is meant.
            Some(value) => {
                value.as_table().or_else(|| value.as_array()?.iter().next()?.get_ref().as_table())?
            }
        };
        let (name, found) = table.iter().find(|(name, _)| name.get_ref() == part)?;
        at = Some(name.span().start);
        value = Some(found.get_ref());
    }
    Some(text.get(..at?)?.matches('\n').count() + 1)
}

/// The whole file. Everything is read before anything is given up.
fn read(table: &mut Table<'_>) -> Option<Config> {
    let is_asked = table.has("forward_auth");
    let alone = is_asked && !table.has("upstreams");
    let has_redis = table.has("redis");
    let (server, maintenance) =
        table.table("server", |table| (server::server(table, alone, has_redis), replies::maintenance(table)));
    let mut taken = server.as_ref().map(|server| server.addresses().collect::<Vec<_>>()).unwrap_or_default();
    let forward_auth =
        is_asked.then(|| table.table("forward_auth", |table| forward_auth::forward_auth(table, &taken)));
    table.exists("forward_auth");
    taken.extend(forward_auth.iter().flatten().flat_map(|asked| asked.listen.iter().copied()));
    let admin = table.table("admin", |table| server::admin(table, &taken));
    let log = table.table("log", server::log);
    let token = table.table("token", server::token);
    let identity = table.table("identity", server::identity);

    let issuers = table.tables("issuers", None, |table| issuers::issuer(table, token.as_ref()));
    let has_issuers = !issuers.is_empty();
    let issuers: Option<Vec<_>> = issuers.into_iter().map(|issuer| issuer.value).collect();
    issuers::rules_between(table.reader, issuers.as_deref().unwrap_or_default());

    let redis = if has_redis { Some(table.table("redis", redis::redis)) } else { None };
    table.exists("redis");
    let database = table.table("database", ledger::database);
    let ledger = table.table("ledger", |table| ledger::ledger(table, redis.is_some()));

    let told =
        identity.as_ref().map(|it| presets::told(table, it, ledger.presets.as_deref().unwrap_or_default()));

    let upstreams = table.tables("upstreams", None, upstreams::upstream);
    let upstreams: Vec<_> = upstreams.into_iter().filter_map(|upstream| upstream.value).collect();
    let told_names: Vec<_> =
        identity.iter().flat_map(|it| &it.headers).map(|(name, _)| name.clone()).collect();
    let around = routes::Around {
        handling: handling::Around {
            identity: &told_names,
            body_bytes: server.as_ref().map_or(10 << 20, |server| server.limits.body_bytes),
            maintenance: maintenance.iter().flatten().next(),
        },
        upstreams: &upstreams,
        issuers: has_issuers,
        redis: has_redis,
        on_outage: ledger.on_outage,
        client_certificates: server.as_ref().is_none_or(ServerSettings::asks_for_certificates),
        presets: ledger.presets.as_deref().unwrap_or_default(),
        is_asked,
    };
    let routes = table.tables("routes", None, |table| routes::route(table, &around));
    present(table, &upstreams, routes.iter().filter_map(|route| route.value.as_ref()));
    let routes: Vec<_> = routes.into_iter().filter_map(|route| route.value).collect();
    let routes =
        routes::resolve(table.reader, routes, ledger.on_outage, token.as_ref().map(|it| it.body_bytes));
    table.each_in_effect("routes", "name", routes.iter().flatten().map(|route| route.name.to_string()));

    let issuers: Vec<_> = issuers?.into_iter().map(|issuer| issuer.settings).collect();
    let forward_auth = match forward_auth {
        Some(forward_auth) => Some(forward_auth?),
        None => None,
    };
    let redis = match redis {
        Some(redis) => Some(redis?),
        None => None,
    };
    Some(Config {
        server: server?,
        forward_auth,
        admin: admin?,
        log: log?,
        places: token?.places,
        identity: identity?,
        tokens: ledger.tokens?,
        ledger: ledger.resolve(redis, database, &issuers, told?)?,
        issuers,
        upstreams: upstreams.into_iter().map(|upstream| upstream.settings).collect::<Option<_>>()?,
        routes: routes?,
    })
}

/// A gateway without routes or upstreams serves nothing; an upstream without a route is reached by nobody.
fn present<'a>(
    table: &Table<'_>,
    upstreams: &[Upstream],
    routes: impl Iterator<Item = &'a routes::Written> + Clone,
) {
    for key in ["upstreams", "routes"] {
        let others_forward = key == "upstreams" && table.has("forward_auth");
        if !table.has(key) && !others_forward {
            table.reader.problem(&table.at, format!("there are no `[[{key}]]`: nothing could be served"));
        }
    }
    for (index, upstream) in upstreams.iter().enumerate() {
        let reader::Placed { at, value: name } = &upstream.name;
        if upstreams.iter().take(index).any(|other| other.name.value == *name) {
            table.reader.problem(at, "two upstreams have this name");
        } else if !routes.clone().any(|route| route.leads_to(name)) {
            table.reader.warn(at, "no route leads to this upstream");
        }
    }
}
