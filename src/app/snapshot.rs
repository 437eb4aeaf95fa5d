//! What requests are judged by, made of one configuration and of what the last one leaves: stores, key sets and
//! upstreams that stay as they were are kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::StartError;
use super::makers::Makers;
use crate::config::Config;
use crate::gate::Gate;
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::proxy::{LedgerTasks, Snapshot};
use crate::rate::{Limiter, Limits};
use crate::report::{Audit, Report};
use crate::route::{Destination, Route, RouteSettings, RouteTable};
use crate::upstream::{self, Upstream, UpstreamMetrics};
use crate::verify::{TokenCache, Verifiers};

/// A ledger, and what ends its tasks.
pub(super) struct Opened {
    pub(super) ledger: Arc<Ledger>,
    tasks: Arc<LedgerTasks>,
}

impl Opened {
    pub(super) async fn new(config: &Config, makers: &Makers) -> Result<Self, StartError> {
        let tasks = makers.background.child_token();
        let opened = Ledger::open(&config.ledger, makers.ledger.clone(), tasks.clone()).await;
        let ledger = opened.map_err(|error| StartError::Ledger(Box::new(error)))?;
        Ok(Self { ledger, tasks: Arc::new(LedgerTasks::new(tasks)) })
    }

    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self { ledger: Arc::clone(&snapshot.gate.ledger), tasks: Arc::clone(&snapshot.ledger_tasks) }
    }
}

/// Everything a request needs, made of one configuration.
pub(super) async fn snapshot(
    config: &Config,
    makers: &Makers,
    audit: &Arc<Audit>,
    Opened { ledger, tasks }: Opened,
    before: Option<&Snapshot>,
) -> Snapshot {
    let routes = routes(config, before, &makers.upstream).await;
    let previous = before.map(|before| &*before.gate.verifiers);
    let verifiers = Verifiers::start(&config.issuers, previous, &makers.verify, &makers.background).await;
    let reasons: Vec<Arc<str>> = config.ledger.rules.iter().map(|rule| Arc::clone(&rule.reason)).collect();
    let gate = Gate {
        routes: RouteTable::new(&routes),
        places: config.places.clone(),
        verifiers: Arc::new(verifiers),
        ledger,
        identity: Identity::new(config.identity.clone()),
        tokens: TokenCache::new(config.tokens),
    };
    let report = Report::new(&config.log, &makers.metrics, &makers.writer, audit, &routes, &reasons);
    let observing = makers.observing.clone();
    let limits = Limits::new(&"".into(), &config.server.rate_limits);
    let limiter = limiter(config, makers, before);
    let (server, forward_auth) = (config.server.clone(), config.forward_auth.clone());
    let (streams, number) = (Arc::clone(&makers.streams), before.map_or(1, |before| before.number + 1));
    Snapshot {
        gate,
        server,
        forward_auth,
        report,
        routes,
        limiter,
        limits,
        observing,
        ledger_tasks: tasks,
        streams,
        number,
    }
}

/// What has been counted goes on counting, unless there is to be more or less room for it. Where nothing is limited there
/// need be none.
fn limiter(config: &Config, makers: &Makers, before: Option<&Snapshot>) -> Arc<Limiter> {
    let used = !config.server.rate_limits.is_empty()
        || config.routes.iter().any(|route| !route.rate_limits.is_empty());
    let keys = if used { config.server.limits.rate_keys } else { 1 };
    match before.map(|before| &before.limiter) {
        Some(limiter) if limiter.keys() == keys => Arc::clone(limiter),
        _ => Arc::new(Limiter::new(keys, makers.rate.clone())),
    }
}

/// The routes with their upstreams. An upstream that is configured as before is the same one, with its connections and
/// with what is known of its servers.
async fn routes(config: &Config, before: Option<&Snapshot>, metrics: &UpstreamMetrics) -> Vec<Arc<Route>> {
    let before: HashMap<_, _> = before
        .into_iter()
        .flat_map(upstreams_of)
        .map(|upstream| (Arc::clone(&upstream.settings().name), upstream))
        .collect();
    let named = |route: &RouteSettings| match &route.destination {
        Destination::Upstream(name) => Some(Arc::clone(name)),
        Destination::Redirect(_) | Destination::Answer(_) | Destination::Asked => None,
    };
    // One that no route leads to needs neither addresses nor probes.
    let used: HashSet<Arc<str>> = config.routes.iter().filter_map(named).collect();
    let upstreams =
        config.upstreams.iter().filter(|upstream| used.contains(&upstream.name)).map(async |settings| {
            match before.get(&settings.name).filter(|it| it.settings() == settings) {
                Some(kept) => Arc::clone(kept),
                None => upstream::start(settings.clone(), metrics).await,
            }
        });
    let upstreams: Vec<Arc<Upstream>> = join_all(upstreams).await;
    let upstreams: HashMap<_, _> =
        upstreams.into_iter().map(|upstream| (Arc::clone(&upstream.settings().name), upstream)).collect();
    let made = config.routes.iter().enumerate().map(|(index, settings)| {
        // The configuration has seen to it that every route's upstream exists.
        let upstream = named(settings).and_then(|name| upstreams.get(&name).map(Arc::clone));
        let limits = Limits::new(&settings.name, &settings.rate_limits);
        Arc::new(Route { settings: settings.clone(), index, upstream, limits })
    });
    made.collect()
}

/// The upstreams that routes lead to, some of them several times.
pub(super) fn upstreams_of(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Upstream>> {
    snapshot.routes.iter().filter_map(|route| route.upstream.as_ref())
}
