//! What the ledger stands on: the tables it needs, and what the presets' tables look like.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::preset::{Preset, PresetContext};
use super::settings::LedgerSettings;
use super::sql::{Dialect, SqlStore};
use super::store::StoreError;
use super::watermark::Ground;
use super::{OpenError, adopt, migrate};
use crate::time::Timestamp;

/// How long a database may take to come up beside the gateway, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

/// What is known of the database's tables.
pub(super) struct Foundation {
    pub context: PresetContext,
    /// Whether it is only assumed that the tables look as documented, because the database did not answer.
    pub provisional: bool,
    /// What Redis's mark is compared with.
    pub ground: Ground,
    /// The version that the database held when this gateway started.
    pub version: i64,
}

/// Makes the tables where that is wanted, and looks at the others. A database that does not answer is waited for a
/// while; then the rules are made as if its tables looked as documented, and `provisional` says so.
pub(super) async fn lay(sql: &SqlStore, settings: &LedgerSettings) -> Result<Foundation, OpenError> {
    let looked = match wait_for(sql).await {
        Ok(()) => look(sql, settings).await,
        Err(error) => Err(error),
    };
    let (context, epoch, version) = match looked {
        Ok(Looked::At { context, epoch, version }) => (context, epoch, version),
        Ok(Looked::NotMigrated) => return Err(OpenError::NotMigrated),
        Err(error) if sql.dialect() == Dialect::Sqlite => return Err(OpenError::Database(error)),
        Err(error) => {
            tracing::warn!(%error, "The database does not answer; its tables are taken to look as documented");
            let LedgerSettings { presets, token_lifetime, refresh_lifetime, leeway, .. } = settings;
            let dialect = sql.dialect();
            let context =
                PresetContext::assumed(dialect, presets, *token_lifetime, *refresh_lifetime, *leeway);
            // Whether Redis is to be believed nobody can say but Redis; it must at least be the server that was filled.
            let ground = Ground::unseen(presets, adopt::wanted(settings));
            return Ok(Foundation { context, provisional: true, ground, version: 0 });
        }
    };
    for preset in &settings.presets {
        if let Some(misfit) = preset.misfit(&context) {
            return Err(OpenError::Table(misfit));
        }
        if let Some(table) = preset.stands_in(&context) {
            tracing::warn!(
                table = table.as_str(),
                "There is no such table; Portcullis's own stands in for it"
            );
        }
    }
    let ground = Ground::of(epoch, &settings.presets, adopt::wanted(settings));
    Ok(Foundation { context, provisional: false, ground, version })
}

/// The rules whose answers stay the same until somebody tells of a change, and whether it takes triggers to be told: the
/// tables of users are services' own, Portcullis's are changed by gateways alone.
pub(super) fn telling(presets: &[Preset], context: &PresetContext) -> HashMap<Arc<str>, bool> {
    let of = |preset: &Preset| {
        let triggers = match preset {
            Preset::Native(_) => Some(false),
            other => other.users().and_then(|layout| layout.watched(context)).map(|_| true),
        };
        let rules = triggers.map(|_| preset.rules(context)).unwrap_or_default();
        rules.into_iter().filter_map(move |rule| Some((rule.name, triggers?))).collect::<Vec<_>>()
    };
    presets.iter().flat_map(of).collect()
}

/// A file either opens or does not; a server may be starting.
async fn wait_for(sql: &SqlStore) -> Result<(), StoreError> {
    let patience = if sql.dialect() == Dialect::Sqlite { Duration::ZERO } else { PATIENCE };
    let deadline = Instant::now() + patience;
    loop {
        match sql.ping().await {
            Ok(_) => return Ok(()),
            // One attempt alone may last as long as `[database] timeout` says.
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

enum Looked {
    At { context: PresetContext, epoch: Option<i64>, version: i64 },
    NotMigrated,
}

async fn look(sql: &SqlStore, settings: &LedgerSettings) -> Result<Looked, StoreError> {
    let LedgerSettings { presets, token_lifetime, refresh_lifetime, leeway, database, .. } = settings;
    if sql.dialect() == Dialect::Sqlite || database.migrate {
        migrate::migrate(sql, presets, Timestamp::now()).await?;
    } else if !presets.is_empty() && !migrate::is_migrated(sql).await? {
        return Ok(Looked::NotMigrated);
    }
    let context = PresetContext::load(sql, presets, *token_lifetime, *refresh_lifetime, *leeway).await?;
    let epoch = migrate::epoch(sql).await?;
    let version = if epoch.is_some() { migrate::version(sql).await? } else { 0 };
    Ok(Looked::At { context, epoch, version })
}
