//! The assembly: the only file that knows all the others. Configuration in, a serving gateway out.

mod current;
mod files;
mod handover;
mod inherit;
mod listen;
mod living;
mod makers;
mod notify;
mod reload;
mod snapshot;
mod succession;
mod upgrade_socket;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminState, Life};
use crate::cause::Chain;
use crate::config::{Checked, Config, Files};
use crate::gate::Gate;
use crate::ledger::Mode;
use crate::proxy::Connections;
use crate::report::{self, Audit};
use crate::tasks;
use crate::time::Timestamp;
use current::Current;
use inherit::Inherited;
use listen::Listeners;
use living::{Serving, Signals};
use makers::Makers;
use notify::Manager;
use reload::Reloader;
use succession::{Ready, Succession, SuccessionError};
use upgrade_socket::UpgradeSocket;

pub use succession::Beginning;

/// How long a successor waits for a store to answer before it takes a place.
const FIT_WITHIN: Duration = Duration::from_secs(30);
/// How long it waits for memory to follow Redis, so that no request asks more than it did before.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(3);

/// Why a gateway does not start, or not serve a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// Which key of the configuration named it.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A service manager has passed something else than listening TCP sockets.
    #[error("a socket that the service manager has passed cannot be used")]
    Inherited(#[source] std::io::Error),
    /// The place of a running process cannot be taken, or nobody could take ours.
    #[error(transparent)]
    Succession(#[from] SuccessionError),
    /// The ledger's database cannot be used.
    #[error("the ledger cannot be opened")]
    Ledger(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The audit file cannot be written.
    #[error("the audit file cannot be opened")]
    Audit(#[source] std::io::Error),
    /// A thread, a signal handler, a metric that exists already.
    #[error("the process cannot be set up")]
    Process(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StartError {
    pub(crate) fn process(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Process(cause.into())
    }
}

/// Reads the configuration and serves it until told to stop. To be called before there is a second thread.
pub fn run(path: &Path, beginning: &Beginning) -> ExitCode {
    let inherited = Inherited::from_service_manager().map_err(StartError::Inherited);
    let limit = files::raise_limit();
    let Checked { config, warnings, files, .. } = match Config::check(path) {
        Ok(checked) => checked,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(if problems.unreadable { 2 } else { 1 });
        }
    };
    let served = runtime(config.server.threads).and_then(|runtime| {
        report::log::start(&config.log).map_err(StartError::process)?;
        for warning in warnings.lines() {
            tracing::warn!("{warning}");
        }
        files::compare(limit, &config.server);
        let manager = Manager::from_environment();
        runtime.block_on(async {
            tokio::spawn(manager.clone().keep_alive());
            let start = Start { path, files, inherited: inherited?, beginning, manager };
            Gateway::begin(config, start).await?.serve().await
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis: {}", Chain(&error));
            ExitCode::from(2)
        }
    }
}

/// One runtime for everything: a look-up in Redis is answered on the thread that waits for it. Where there is one thread,
/// it is this one, and nothing is made ready for others to take.
pub fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, StartError> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .worker_threads(threads.max(1))
        .thread_name("portcullis")
        .enable_all()
        .build()
        .map_err(StartError::process)
}

/// How a gateway comes into being.
struct Start<'a> {
    path: &'a Path,
    files: Files,
    inherited: Inherited,
    beginning: &'a Beginning,
    manager: Manager,
}

/// A gateway that serves.
pub struct Gateway {
    /// Where the proxy listens, plain listeners first, then those with TLS, then those of forward-auth: port 0 has become
    /// a number.
    pub proxy: Vec<SocketAddr>,
    /// Where the control door listens.
    pub admin: SocketAddr,
    serving: Serving,
    reloader: Reloader,
    files: Files,
    signals: Signals,
    /// Successors that are.
    ready: mpsc::Receiver<Ready>,
}

impl Gateway {
    /// Opens the stores, fetches keys, and only then listens.
    pub async fn start(config: Config, path: &Path) -> Result<Self, StartError> {
        let (files, inherited, manager) = (Files::new(), Inherited::default(), Manager::default());
        Self::begin(config, Start { path, files, inherited, beginning: &Beginning::Anew, manager }).await
    }

    async fn begin(config: Config, start: Start<'_>) -> Result<Self, StartError> {
        let Start { path, files, mut inherited, beginning, manager } = start;
        // With two of them linked, rustls takes neither by itself, and whoever asks first panics. A second gateway in the
        // same process finds it done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let upgrade_socket = config.server.upgrade_socket.clone();
        let mut predecessor = beginning.predecessor(upgrade_socket.as_deref()).await?;
        if let Some(predecessor) = &mut predecessor {
            predecessor.sockets(&mut inherited).await?;
        }
        let mut listeners = Listeners::none();
        let plan = listeners.plan(&config, &mut inherited)?;
        for address in inherited.unclaimed() {
            tracing::warn!(%address, "A socket was passed for an address that the configuration does not name");
        }
        let takes_over = predecessor.is_some();
        let bind = |path: &Path| UpgradeSocket::bind(path, takes_over).map(Arc::new);
        // A predecessor's is replaced only once its place is ours.
        let early = upgrade_socket.as_deref().filter(|_| !takes_over).map(bind).transpose()?;
        let (registry, background) = (Registry::new(), CancellationToken::new());
        let makers = Makers::register(&registry, &config, background.clone()).map_err(StartError::Process)?;
        report::log::watch_panics(&makers.metrics);
        let audit =
            Audit::open(config.log.audit_file.as_deref(), &makers.metrics).map_err(StartError::Audit)?;
        let audit = Arc::new(audit);
        let connections = Connections::new(config.server.limits.connections, files::for_clients());
        let admin_settings = config.admin.clone();
        let current = Arc::new(Current::assemble(config, makers, Arc::clone(&audit)).await?);
        let (settled, watched) = (Arc::clone(&current), Arc::clone(&current));
        tasks::keep("settle", &background, move || Arc::clone(&settled).settle_forever());
        tasks::keep("streams", &background, move || watched.warden().keep());

        let life = Arc::new(Life::default());
        let handles = current.admin_handles(registry, Arc::clone(&audit), Arc::clone(&life));
        let state = Arc::new(AdminState::new(&admin_settings, handles));
        let door = Arc::new(current.door(connections.clone()));
        if predecessor.is_some() {
            fit(&current).await?;
        }
        // From here on a signal is an order to a gateway that serves. Before, it ends a process that does not yet.
        let signals = Signals::install().map_err(StartError::process)?;
        listeners.carry_out(plan, &door, &state);
        life.serving();
        if let Some(predecessor) = predecessor {
            predecessor.relieve().await?;
            tracing::info!("The predecessor's place is taken");
        }
        let upgrade_socket = match early {
            Some(bound) => Some(bound),
            None => upgrade_socket.as_deref().map(bind).transpose()?,
        };
        manager.ready();
        let proxy = listeners.proxy();
        let admin = listeners.admin().unwrap_or(admin_settings.listen);
        let listeners = Arc::new(Mutex::new(listeners));
        let (succession, ready) = Succession::new(Arc::clone(&listeners));
        let reloader = Reloader {
            path: path.to_owned(),
            current: Arc::clone(&current),
            listeners: Arc::clone(&listeners),
            door: Arc::clone(&door),
            state,
            audit,
            manager: manager.clone(),
        };
        let serving = Serving {
            current,
            listeners,
            door,
            connections,
            life,
            manager,
            succession,
            upgrade_socket,
            reloading: background.child_token(),
            background,
        };
        Ok(Self { proxy, admin, serving, reloader, files, signals, ready })
    }
}

/// Waits until requests can be judged here as well as by the predecessor.
async fn fit(current: &Current) -> Result<(), SuccessionError> {
    let judges = current.becomes(FIT_WITHIN, |gate| gate.ledger.health().mode != Mode::Blind);
    judges.await.map_err(|_| SuccessionError::Blind)?;
    let keyless = |gate: &Gate| {
        let status = gate.verifiers.status(Timestamp::now());
        status.into_iter().find(|issuer| issuer.keys == 0).map(|issuer| issuer.issuer)
    };
    let keys = current.becomes(FIT_WITHIN, |gate| keyless(gate).is_none()).await;
    keys.map_err(|_| SuccessionError::Keyless(current.gate(keyless).unwrap_or_default()))?;
    if current.gate(|gate| gate.ledger.health().redis.is_some_and(|redis| redis.up)) {
        // Some ways to reach Redis never come that far, and are as good as they get.
        let _ = current.becomes(FOLLOWS_WITHIN, |gate| gate.ledger.health().mode == Mode::Coherent).await;
    }
    Ok(())
}
