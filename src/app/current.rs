//! The configuration in force and what was made of it; both are replaced together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use pingora::server::configuration::ServerConf;
use prometheus::Registry;
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use crate::admin::{AdminHandles, Life, SeenSession};
use crate::cause::Chain;
use crate::claims::User;
use crate::config::Config;
use crate::gate::Gate;
use crate::identity::Identity;
use crate::ledger::sessions::StoredSession;
use crate::ledger::{Ledger, LedgerMetrics, StoreError};
use crate::proxy::{Connections, Door, LedgerTasks, Snapshot, Streams, Warden};
use crate::rate::{Limiter, Limits, RateMetrics};
use crate::report::{AccessWriter, Audit, Metrics, Report};
use crate::route::{Destination, Route, RouteSettings, RouteTable};
use crate::time::Timestamp;
use crate::tls::TlsMetrics;
use crate::token::{Fingerprint, Token};
use crate::upstream::{self, Upstream, UpstreamMetrics};
use crate::verdict::{Credential, DenyReason};
use crate::verify::{TokenCache, Verifiers, VerifyMetrics};

/// How long the tasks of a ledger that was replaced go on for requests that still ask it.
const AT_LEAST: Duration = Duration::from_secs(10);

/// How often it is looked whether something has become so.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often a ledger that was opened without its database is looked at.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// How long clients are given to hear that the gateway goes away.
const FAREWELL: Duration = Duration::from_secs(1);

/// What outlives every configuration.
pub(super) struct Makers {
    pub(super) metrics: Metrics,
    writer: AccessWriter,
    verify: VerifyMetrics,
    ledger: LedgerMetrics,
    upstream: UpstreamMetrics,
    rate: RateMetrics,
    tls: TlsMetrics,
    background: CancellationToken,
    /// Changes that observers are making.
    pub(super) observing: TaskTracker,
    /// What is open.
    pub(super) streams: Arc<Streams>,
}

impl Makers {
    /// Registers every metric there is.
    pub(super) fn register(
        registry: &Registry,
        config: &Config,
        background: CancellationToken,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let metrics = Metrics::register(registry)?;
        Ok(Self {
            writer: AccessWriter::start(config.log.format, &metrics)?,
            metrics,
            verify: VerifyMetrics::register(registry)?,
            ledger: LedgerMetrics::register(registry)?,
            upstream: UpstreamMetrics::register(registry)?,
            rate: RateMetrics::register(registry)?,
            tls: TlsMetrics::register(registry)?,
            background,
            observing: TaskTracker::new(),
            streams: Streams::register(registry)?,
        })
    }
}

/// The configuration in force, and the snapshot that requests are judged by.
pub(super) struct Current {
    pub(super) makers: Makers,
    audit: Arc<Audit>,
    config: ArcSwap<Config>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Held by whoever replaces: a reload, or a database that has come up.
    replacing: Mutex<()>,
}

impl Current {
    /// Makes the first snapshot.
    pub(super) async fn assemble(
        config: Config,
        makers: Makers,
        audit: Arc<Audit>,
    ) -> Result<Self, StartError> {
        makers.tls.in_use(&config.server.tls);
        let ledger = Opened::new(&config, &makers).await?;
        let snapshot = snapshot(&config, &makers, &audit, ledger, None).await;
        Ok(Self {
            makers,
            audit,
            config: ArcSwap::from_pointee(config),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            replacing: Mutex::new(()),
        })
    }

    /// Puts another configuration in force. What it leaves unchanged is kept: stores, key sets, addresses.
    pub(super) async fn replace(&self, config: Config) -> Result<(), StartError> {
        let _alone = self.replacing.lock().await;
        let (before, old) = (self.snapshot.load_full(), self.config.load_full());
        let ledger =
            if config.ledger == old.ledger { Opened::of(&before) } else { self.open_anew(&config).await? };
        self.makers.tls.in_use(&config.server.tls);
        self.put_in_force(Arc::new(config), ledger, &before).await;
        Ok(())
    }

    /// Opens the ledger once more when its database could not be looked at before and now can, for as long as the
    /// gateway runs: until then the presets' tables are only assumed to look as documented.
    pub(super) async fn settle_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SETTLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            let trouble =
                self.settle().await.err().map(|error| Chain(&error).to_string()).unwrap_or_default();
            if !trouble.is_empty() && trouble != told {
                tracing::error!(
                    error = trouble,
                    "The database has come up, and the ledger cannot use it yet"
                );
            }
            told = trouble;
        }
    }

    async fn settle(&self) -> Result<(), StartError> {
        let waits = |ledger: &Ledger| ledger.is_provisional();
        if !waits(&self.snapshot.load().gate.ledger) {
            return Ok(());
        }
        let _alone = self.replacing.lock().await;
        let (before, config) = (self.snapshot.load_full(), self.config.load_full());
        if !waits(&before.gate.ledger) || !before.gate.ledger.database_answers().await {
            return Ok(());
        }
        let ledger = self.open_anew(&config).await?;
        tracing::info!(
            settled = !ledger.ledger.is_provisional(),
            "The database has come up; the ledger is opened anew"
        );
        self.put_in_force(config, ledger, &before).await;
        Ok(())
    }

    async fn open_anew(&self, config: &Config) -> Result<Opened, StartError> {
        let opened = Opened::new(config, &self.makers).await?;
        // Requests that began under the old configuration still ask the old ledger; streams may outlive any patience.
        let before = Arc::clone(&self.snapshot.load().ledger_tasks);
        let patience = config.server.drain.max(AT_LEAST);
        tokio::spawn(async move {
            let weak = Arc::downgrade(&before);
            drop(before);
            tokio::time::sleep(patience).await;
            if let Some(tasks) = weak.upgrade() {
                tasks.end();
            }
        });
        Ok(opened)
    }

    async fn put_in_force(&self, config: Arc<Config>, ledger: Opened, before: &Snapshot) {
        let next = snapshot(&config, &self.makers, &self.audit, ledger, Some(before)).await;
        let kept: HashSet<_> = upstreams_of(&next).map(Arc::as_ptr).collect();
        upstreams_of(before).filter(|it| !kept.contains(&Arc::as_ptr(it))).for_each(|it| it.retire());
        drop(kept);
        self.snapshot.store(Arc::new(next));
        self.makers.streams.ring();
        self.makers.upstream.keep_only(config.upstreams.iter());
        self.config.store(config);
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Lets the changes end that observers are making: a logout that a service has granted is a logout.
    pub(super) async fn end_observing(&self) {
        self.makers.observing.close();
        self.makers.observing.wait().await;
    }

    /// Writes what is still to be written.
    pub(super) fn close(&self) {
        self.makers.writer.close();
    }

    /// Asks something of the gate in force.
    pub(super) fn gate<T>(&self, ask: impl FnOnce(&Gate) -> T) -> T {
        ask(&self.snapshot.load().gate)
    }

    /// Waits until the gate in force is so.
    pub(super) async fn becomes(&self, within: Duration, so: impl Fn(&Gate) -> bool) -> Result<(), Elapsed> {
        let becoming = async {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            while !self.gate(&so) {
                looks.tick().await;
            }
        };
        tokio::time::timeout(within, becoming).await
    }

    /// Who looks after open exchanges, by whatever configuration is in force.
    pub(super) fn warden(&self) -> Warden {
        Warden::new(Arc::clone(&self.snapshot), Arc::clone(&self.makers.streams))
    }

    /// Ends what has outlasted the drain, and tells those who can be told.
    pub(super) async fn dismiss(&self) {
        // Who does not take it is not waited for.
        let _ = tokio::time::timeout(FAREWELL, self.makers.streams.dismiss()).await;
    }

    /// The proxy door, over whatever snapshot is in force.
    pub(super) fn door(&self, connections: Connections) -> Door {
        let conf = ServerConf {
            // Retries are counted by each upstream's own setting.
            max_retries: 64,
            upstream_keepalive_pool_size: self.config().server.limits.idle_upstreams,
            ..ServerConf::default()
        };
        let Makers { metrics, tls, .. } = &self.makers;
        Door::new(&Arc::new(conf), Arc::clone(&self.snapshot), metrics.clone(), tls.clone(), connections)
    }

    /// What the control door asks for.
    pub(super) fn admin_handles(
        self: &Arc<Self>,
        registry: Registry,
        audit: Arc<Audit>,
        life: Arc<Life>,
    ) -> AdminHandles {
        let [ledger, realms, reader, sessions] = std::array::from_fn(|_| Arc::clone(self));
        AdminHandles {
            ledger: Box::new(move || Arc::clone(&ledger.snapshot.load().gate.ledger)),
            realms: Box::new(move || {
                realms.config.load().issuers.iter().map(|issuer| Arc::clone(&issuer.realm)).collect()
            }),
            read_token: Box::new(move |token| {
                reader.snapshot.load().gate.verifiers.unverified_names(token).ok()
            }),
            sessions: Box::new(move |user| {
                let snapshot = sessions.snapshot.load_full();
                Box::pin(async move { all_sessions(&snapshot.gate, &user).await })
            }),
            streams: Box::new({
                let streams = Arc::clone(&self.makers.streams);
                move |user| streams.of_user(user)
            }),
            registry,
            audit,
            life,
        }
    }
}

fn seen(credential: &Credential, revoked: Option<DenyReason>) -> SeenSession {
    let Credential { claims, fingerprint, .. } = credential;
    SeenSession {
        session: claims.session().map(Into::into),
        token_id: claims.token_id().map(Into::into),
        issued_at: claims.issued_at(),
        expires_at: claims.expires_at(),
        fingerprint: *fingerprint,
        revoked: revoked.map(|reason| reason.word().into()),
    }
}

/// Those seen here first; what a table tells of the same token is no second one.
async fn all_sessions(gate: &Gate, user: &User) -> Result<Vec<SeenSession>, StoreError> {
    let (mut sessions, now) = (Vec::new(), Timestamp::now());
    for credential in gate.seen(user) {
        sessions.push(seen(&credential, gate.revoked(&credential, now).await));
    }
    for StoredSession { compact, expires_at } in gate.ledger.sessions(user).await? {
        let token = Token::new(&compact);
        let fingerprint = Fingerprint::of(&token);
        if sessions.iter().any(|seen| seen.fingerprint == fingerprint) {
            continue;
        }
        let names = gate.verifiers.unverified_names(&token).ok();
        let names = names.as_ref();
        sessions.push(SeenSession {
            session: names.and_then(|names| names.session.clone()),
            token_id: names.and_then(|names| names.token_id.clone()),
            issued_at: names.and_then(|names| names.issued_at),
            expires_at,
            fingerprint,
            revoked: None,
        });
    }
    Ok(sessions)
}

/// A ledger, and what ends its tasks.
struct Opened {
    ledger: Arc<Ledger>,
    tasks: Arc<LedgerTasks>,
}

impl Opened {
    async fn new(config: &Config, makers: &Makers) -> Result<Self, StartError> {
        let tasks = makers.background.child_token();
        let opened = Ledger::open(&config.ledger, makers.ledger.clone(), tasks.clone()).await;
        let ledger = opened.map_err(|error| StartError::Ledger(Box::new(error)))?;
        Ok(Self { ledger, tasks: Arc::new(LedgerTasks::new(tasks)) })
    }

    fn of(snapshot: &Snapshot) -> Self {
        Self { ledger: Arc::clone(&snapshot.gate.ledger), tasks: Arc::clone(&snapshot.ledger_tasks) }
    }
}

/// Everything a request needs, made of one configuration.
async fn snapshot(
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
fn upstreams_of(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Upstream>> {
    snapshot.routes.iter().filter_map(|route| route.upstream.as_ref())
}
