//! The assembly: the only file that knows all the others. Configuration in, a serving gateway out.

mod current;
mod listen;
mod reload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use prometheus::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState, Life};
use crate::cause::Chain;
use crate::config::Config;
use crate::proxy::{Connections, Entrance};
use crate::report::{self, Audit};
use crate::tls::settings::TlsSettings;
use crate::upstream::UpstreamSettings;
use current::{Current, Makers};
use listen::Socket;

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

/// Reads the configuration and serves it until told to stop.
pub fn run(path: &Path) -> ExitCode {
    let (config, warnings) = match Config::load(path) {
        Ok(loaded) => loaded,
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
        runtime.block_on(async { Gateway::start(config, path).await?.serve().await })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis: {}", Chain(&error));
            ExitCode::from(2)
        }
    }
}

/// One runtime for everything: a look-up in Redis is answered on the thread that waits for it.
pub fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name("portcullis")
        .enable_all()
        .build()
        .map_err(StartError::process)
}

/// A gateway that serves.
pub struct Gateway {
    /// Where the proxy listens, plain listeners first, then those with TLS, then those of forward-auth: port 0 has become
    /// a number.
    pub proxy: Vec<SocketAddr>,
    /// Where the control door listens.
    pub admin: SocketAddr,
    path: PathBuf,
    current: Arc<Current>,
    state: Arc<AdminState>,
    audit: Arc<Audit>,
    life: Arc<Life>,
    connections: Connections,
    /// Told once: stop listening.
    closing: watch::Sender<bool>,
    listening: JoinHandle<()>,
    control: Control,
    /// Cancelled last: the ledger must answer until the last request, and the last control call, is through.
    background: CancellationToken,
    signals: Signals,
}

/// The control door's listener.
struct Control {
    closing: CancellationToken,
    serving: TaskTracker,
}

impl Control {
    /// Lets running calls end: a change that was begun is made, audited and answered.
    async fn close(self) {
        self.closing.cancel();
        self.serving.close();
        self.serving.wait().await;
    }
}

/// What an operator can tell a running process.
struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

impl Gateway {
    /// Opens the stores, fetches keys, and only then listens.
    pub async fn start(config: Config, path: &Path) -> Result<Self, StartError> {
        // With two of them linked, rustls takes neither by itself, and whoever asks first panics. A second gateway in the
        // same process finds it done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sockets = listen::bind(&config.server.listen, "server.listen")?;
        let encrypted: Vec<_> = config.server.tls.iter().map(|listener| listener.listen).collect();
        let encrypted = listen::bind(&encrypted, "server.tls.listen")?;
        let questions = config.forward_auth.as_ref().map(|it| it.listen.as_slice()).unwrap_or_default();
        let questions = listen::bind(questions, "forward_auth.listen")?;
        let admin_socket = listen::bind(&[config.admin.listen], "admin.listen")?;
        let registry = Registry::new();
        let background = CancellationToken::new();
        let makers = Makers::register(&registry, &config, background.clone()).map_err(StartError::Process)?;
        report::log::watch_panics(&makers.metrics);
        let audit =
            Audit::open(config.log.audit_file.as_deref(), &makers.metrics).map_err(StartError::Audit)?;
        let audit = Arc::new(audit);
        let connections = Connections::new(config.server.limits.connections);
        let admin_settings = config.admin.clone();
        let current = Arc::new(Current::assemble(config, makers, Arc::clone(&audit)).await?);
        let settling = Arc::clone(&current).settle_forever();
        tokio::spawn(background.clone().run_until_cancelled_owned(settling));
        tokio::spawn(background.clone().run_until_cancelled_owned(current.warden().keep()));

        let life = Arc::new(Life::default());
        let handles = current.admin_handles(registry, Arc::clone(&audit), Arc::clone(&life));
        let state = Arc::new(AdminState::new(&admin_settings, handles));
        // From here on a signal is an order to a gateway that serves. Before, it ends a process that does not yet.
        let signals = Signals::install().map_err(StartError::process)?;
        let (closing, closed) = watch::channel(false);
        let plain = sockets.into_iter().map(|socket| Socket { socket, entrance: Entrance::Plain });
        let encrypted = encrypted.into_iter().zip(current.tls_entrances());
        let encrypted = encrypted.map(|(socket, entrance)| Socket { socket, entrance });
        let questions =
            questions.into_iter().map(|socket| Socket { socket, entrance: Entrance::ForwardAuth });
        let [count, with_tls] = [plain.len(), plain.len() + current.config().server.tls.len()];
        let door = current.door(connections.clone());
        let (proxy, listening) =
            listen::serve(door, plain.chain(encrypted).chain(questions).collect(), &closed)?;
        let mut admin = admin_settings.listen;
        let control = Control { closing: CancellationToken::new(), serving: TaskTracker::new() };
        for socket in admin_socket {
            admin = socket.local_addr().map_err(StartError::process)?;
            control.serving.spawn(admin::serve(socket, Arc::clone(&state), control.closing.clone()));
        }
        life.serving();
        for (index, address) in proxy.iter().enumerate() {
            let listener = match index {
                plain if plain < count => "proxy",
                encrypted if encrypted < with_tls => "tls",
                _ => "forward_auth",
            };
            tracing::info!(listener, %address, "Listening");
        }
        tracing::info!(listener = "admin", address = %admin, "Listening");
        let path = path.to_owned();
        Ok(Self {
            proxy,
            admin,
            path,
            current,
            state,
            audit,
            life,
            connections,
            closing,
            listening,
            control,
            background,
            signals,
        })
    }

    /// Serves until SIGTERM or SIGINT, and reloads the configuration on SIGHUP and when its file changes.
    pub async fn serve(mut self) -> Result<(), StartError> {
        let mut files = reload::FileWatch::new(self.watched());
        loop {
            tokio::select! {
                _ = self.signals.hang_up.recv() => {
                    if let Err(error) = self.audit.reopen() {
                        tracing::error!(%error, "Audit file not reopened; the old one stays in use");
                    }
                    files.were_read();
                    self.reload().await;
                    files.watch(self.watched());
                }
                () = files.changed() => {
                    self.reload().await;
                    files.watch(self.watched());
                }
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
            }
        }
        self.drain().await;
        Ok(())
    }

    /// The configuration, and what was read with it and changes by itself: certificates are renewed.
    fn watched(&self) -> Vec<PathBuf> {
        let config = self.current.config();
        let upstreams = config.upstreams.iter().flat_map(UpstreamSettings::files);
        let files = config.server.tls.iter().flat_map(TlsSettings::files).chain(upstreams);
        std::iter::once(self.path.clone()).chain(files.map(Path::to_owned)).collect()
    }

    /// Stops listening, lets running requests end, and at the deadline, or when told again, ends them.
    async fn drain(mut self) {
        self.life.draining();
        let deadline = self.current.config().server.drain;
        tracing::info!(open = self.connections.open(), ?deadline, "Draining");
        self.closing.send_replace(true);
        let drained = async {
            // Ends when nothing is accepted any more and idle connections are closed.
            let _ = self.listening.await;
            self.connections.all_closed().await;
        };
        let Signals { terminate, interrupt, .. } = &mut self.signals;
        let told_again = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let open = || self.connections.open();
        tokio::select! {
            () = drained => tracing::info!("Drained"),
            () = tokio::time::sleep(deadline) => {
                tracing::warn!(open = open(), "Deadline passed; open connections are cut");
            }
            () = told_again => tracing::warn!(open = open(), "Told again; open connections are cut"),
        }
        self.current.dismiss().await;
        self.control.close().await;
        self.current.end_observing().await;
        self.background.cancel();
        self.current.close();
    }

    /// Validated whole, then swapped in; refused whole when anything is wrong with it.
    async fn reload(&self) {
        // A refusal is told and counted where it happens; the old configuration keeps serving.
        if let Ok(config) = self.current.reload(&self.path).await {
            self.state.set_token(config.admin.token.as_deref());
        }
    }
}
