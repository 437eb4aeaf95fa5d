//! A gateway that serves: until it is told to stop, or another process has taken its place.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::current::Current;
use super::listen::Listeners;
use super::notify::Manager;
use super::reload::Orders;
use super::succession::{Ready, Succession};
use super::upgrade_socket::UpgradeSocket;
use super::{Gateway, StartError};
use crate::admin::Life;
use crate::proxy::{Connections, Door};

/// For what comes after the drain: control calls, audit lines, the way out.
const AFTERWARDS: Duration = Duration::from_secs(15);

/// What an operator can tell a running process.
pub(super) struct Signals {
    hang_up: Signal,
    stop: Stop,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            stop: Stop {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Two ways to say the same.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How serving ends.
enum End {
    Told,
    Succeeded(Ready),
}

/// What is needed to the end.
pub(super) struct Serving {
    pub(super) current: Arc<Current>,
    pub(super) listeners: Arc<Mutex<Listeners>>,
    pub(super) door: Arc<Door>,
    pub(super) connections: Connections,
    pub(super) life: Arc<Life>,
    pub(super) manager: Manager,
    pub(super) succession: Succession,
    pub(super) upgrade_socket: Option<Arc<UpgradeSocket>>,
    /// Cancelled first: a process that ends must not take an address that the next one wants.
    pub(super) reloading: CancellationToken,
    /// Cancelled last: the ledger must answer until the last request, and the last control call, is through.
    pub(super) background: CancellationToken,
}

impl Gateway {
    /// Serves until SIGTERM or SIGINT, or until a successor does.
    pub async fn serve(self) -> Result<(), StartError> {
        let Self { serving, reloader, files, signals, mut ready, .. } = self;
        let Signals { hang_up, user1, mut stop, mut quit, mut user2 } = signals;
        let reloading = reloader.serve_forever(Orders { hang_up, user1 }, files);
        tokio::spawn(serving.reloading.clone().run_until_cancelled_owned(reloading));
        if let Some(socket) = &serving.upgrade_socket {
            serving.in_background(serving.succession.clone().answer_forever(Arc::clone(socket)));
        }
        let end = loop {
            tokio::select! {
                () = stop.told() => break End::Told,
                Some(ready) = ready.recv() => break End::Succeeded(ready),
                _ = user2.recv() => serving.succession.begin(),
                // Pingora's order to hand over. Here whoever takes over says so, and until then there is nothing to do.
                _ = quit.recv() => tracing::info!("SIGQUIT: a successor is welcome; `--upgrade` starts it"),
            }
        };
        let ending = async {
            match end {
                End::Told => serving.stop(&mut ready).await,
                End::Succeeded(ready) => serving.step_back(ready).await,
            }
            serving.drain().await;
        };
        tokio::select! {
            () = ending => {}
            () = stop.told() => {
                tracing::warn!(open = serving.connections.open(), "Told again; open connections are cut");
            }
        }
        serving.end().await;
        Ok(())
    }
}

impl Serving {
    /// For as long as the process lives.
    pub(super) fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.background.clone().run_until_cancelled_owned(task));
    }

    /// Told to: nobody takes our place. Readiness turns false first, so that load balancers have their time to see it.
    async fn stop(&self, ready: &mut mpsc::Receiver<Ready>) {
        self.life.draining();
        let config = self.current.config();
        let (delay, drain) = (config.server.shutdown_delay, config.server.drain);
        self.manager.stopping(delay + drain + AFTERWARDS);
        ready.close();
        while let Ok(ready) = ready.try_recv() {
            ready.stop().await;
        }
        self.succession.end().await;
        if let Some(socket) = &self.upgrade_socket {
            socket.remove();
        }
        if !delay.is_zero() {
            tracing::info!(?delay, "Not ready any more; connections are still accepted");
            tokio::time::sleep(delay).await;
        }
        self.reloading.cancel();
        self.listeners.lock().close_proxy(false);
    }

    /// Another process serves on the same sockets already.
    async fn step_back(&self, successor: Ready) {
        self.life.draining();
        self.reloading.cancel();
        {
            let mut listeners = self.listeners.lock();
            listeners.close_proxy(true);
            listeners.close_admin();
        }
        if let Some(process) = successor.process {
            self.manager.succeeded_by(process);
        }
        tracing::info!(successor = successor.process, "Another process serves from now on");
        successor.go().await;
    }

    /// Lets running requests end, and at the deadline ends them.
    async fn drain(&self) {
        let deadline = self.current.config().server.drain;
        tracing::info!(open = self.connections.open(), ?deadline, "Draining");
        let accepting = self.listeners.lock().accepting();
        let drained = async {
            // Whoever has been accepted has a place; then idle connections are closed.
            accepting.wait().await;
            self.door.close().await;
            self.connections.all_closed().await;
        };
        tokio::select! {
            () = drained => tracing::info!("Drained"),
            () = tokio::time::sleep(deadline) => {
                tracing::warn!(open = self.connections.open(), "Deadline passed; open connections are cut");
            }
        }
    }

    async fn end(&self) {
        let controlled = {
            let mut listeners = self.listeners.lock();
            listeners.close_proxy(false);
            listeners.close_admin();
            listeners.controlled()
        };
        // Who has outlasted the drain hears that it is over, where that can be said.
        self.current.dismiss().await;
        controlled.wait().await;
        self.current.end_observing().await;
        self.background.cancel();
        self.current.close();
    }
}
