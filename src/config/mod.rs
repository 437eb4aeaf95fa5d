//! `gateway.toml` into [`Config`]: as written (`raw`) and as run are two types; all problems are told at once.

use std::path::Path;

use crate::admin::settings::AdminSettings;
use crate::identity::IdentitySettings;
use crate::ledger::LedgerSettings;
use crate::proxy::settings::ServerSettings;
use crate::report::settings::LogSettings;
use crate::route::RouteSettings;
use crate::token::Place;
use crate::upstream::UpstreamSettings;
use crate::verify::IssuerSettings;

/// Everything Portcullis is told, validated whole.
#[derive(Clone, PartialEq)]
pub struct Config {
    pub server: ServerSettings,
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

/// Everything that is wrong with a configuration, each problem with its place.
pub struct Problems {/* … */}

impl Config {
    pub fn load(path: &Path) -> Result<Self, Problems> {
        todo!()
    }
}
