//! What the ledger is told, resolved.

use std::path::PathBuf;
use std::time::Duration;

use super::preset::Preset;
use super::rule::Rule;

#[derive(Clone, PartialEq)]
pub struct LedgerSettings {
    pub presets: Vec<Preset>,
    pub rules: Vec<Rule>,
    pub redis: Option<RedisSettings>,
    pub database: DatabaseSettings,
    /// Longest life of an access token and of a refresh token, over all issuers, leeway included.
    pub token_lifetime: Duration,
    pub refresh_lifetime: Duration,
    /// How long past its `exp` some issuer's token is still accepted.
    pub leeway: Duration,
    /// Whether entries that services keep in Redis alone are copied to the database.
    pub adopt: bool,
    /// How many answers of each store are kept in memory.
    pub answers: usize,
    /// What identity headers tell of a user's profile.
    pub profile: Box<[Box<str>]>,
    /// How long memory may be believed without a sign of life from Redis.
    pub max_staleness: Duration,
    /// How often a sign of life is asked for; shorter than `max_staleness`.
    pub heartbeat: Duration,
}

#[derive(Clone, PartialEq)]
pub struct RedisSettings {
    pub servers: RedisServers,
    pub login: Login,
    pub database: i64,
    /// `None`: in the clear.
    pub tls: Option<RedisTls>,
    pub timeout: Duration,
}

impl RedisSettings {
    /// Which Redis it is, as it is written: the same text for the same one, unless it goes by two names.
    pub(super) fn place(&self) -> String {
        let all = |places: &[HostPort]| {
            let mut all: Vec<String> = places.iter().map(|it| format!("{}:{}", it.host, it.port)).collect();
            all.sort_unstable();
            all.join(",")
        };
        let servers = match &self.servers {
            RedisServers::Single(RedisAddress::Tcp(address)) => all(std::slice::from_ref(address)),
            RedisServers::Single(RedisAddress::Unix(path)) => path.display().to_string(),
            RedisServers::Sentinel { sentinels, service, .. } => format!("{service}@{}", all(sentinels)),
            RedisServers::Cluster { seeds } => all(seeds),
        };
        format!("{servers}/{}", self.database)
    }
}

/// Where Redis is.
#[derive(Clone, PartialEq)]
pub enum RedisServers {
    Single(RedisAddress),
    /// The sentinels say which server is the primary of `service`.
    Sentinel {
        sentinels: Vec<HostPort>,
        service: String,
        login: Login,
    },
    /// Any of these tells of the others.
    Cluster {
        seeds: Vec<HostPort>,
    },
}

#[derive(Clone, PartialEq)]
pub enum RedisAddress {
    Tcp(HostPort),
    Unix(PathBuf),
}

/// Without brackets around IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Who we are to a server. Empty: nobody in particular.
#[derive(Clone, Default, PartialEq)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
}

/// PEM.
#[derive(Clone, PartialEq)]
pub struct RedisTls {
    /// Who signs the servers' certificates; `None`: whom the system trusts.
    pub ca: Option<Vec<u8>>,
    pub client: Option<ClientCertificate>,
}

#[derive(Clone, PartialEq)]
pub struct ClientCertificate {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq)]
pub struct DatabaseSettings {
    /// `sqlite:`, `postgres:` or `mysql:`.
    pub url: String,
    pub max_connections: u32,
    pub timeout: Duration,
    /// Create Portcullis's own tables at start; always done for SQLite.
    pub migrate: bool,
    /// How often changes made elsewhere are looked for.
    pub poll: Duration,
}

/// Whether a URL names a database of SQLite's that lives in memory, and ends with its process.
pub fn is_in_memory(url: &str) -> bool {
    url.contains(":memory:") || url.contains("mode=memory")
}
