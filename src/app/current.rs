//! The configuration in force and what was made of it; both are replaced together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::server::configuration::ServerConf;
use prometheus::Registry;
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio::time::error::Elapsed;

use super::StartError;
use super::makers::Makers;
use super::snapshot::{Opened, snapshot, upstreams_of};
use crate::admin::{AdminHandles, Life, SeenSession};
use crate::cause::Chain;
use crate::claims::User;
use crate::config::Config;
use crate::gate::Gate;
use crate::ledger::sessions::StoredSession;
use crate::ledger::{Ledger, StoreError};
use crate::proxy::{Connections, Door, Snapshot, Warden};
use crate::report::Audit;
use crate::time::Timestamp;
use crate::token::{Fingerprint, Token};
use crate::verdict::{Credential, DenyReason};

/// How long the tasks of a ledger that was replaced go on for requests that still ask it.
const AT_LEAST: Duration = Duration::from_secs(10);

/// How often it is looked whether something has become so.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often a ledger that was opened without its database is looked at.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// How long clients are given to hear that the gateway goes away.
const FAREWELL: Duration = Duration::from_secs(1);

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
