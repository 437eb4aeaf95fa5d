//! The change from one process to the next, on the same listening sockets: a new binary without a refused connection.
//!
//! A successor is either begun by the running process itself (SIGUSR2; the line is the child's standard input), or by
//! somebody else with `--upgrade`, and then it finds the line at `server.upgrade_socket`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::handover::{Line, PROTOCOL, Word};
use super::inherit::Inherited;
use super::listen::Listeners;
use super::upgrade_socket::UpgradeSocket;
use crate::cause::Chain;

/// Set for a child: its standard input is the line to its predecessor.
const BY_STANDARD_INPUT: &str = "PORTCULLIS_PREDECESSOR";

/// How long a successor may take until it is ready: stores to open, key sets to fetch.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long it may take to tell a successor that it is not needed.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long accepting on the upgrade socket rests after it has failed.
const REST: Duration = Duration::from_millis(200);

/// Why one process does not take another's place.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// `--upgrade` without a place to go to.
    #[error("`--upgrade` needs `server.upgrade_socket`: where the running process is asked for its sockets")]
    NoSocket,
    /// Nobody is there.
    #[error("no process hands over at {path}; without one to take over from, start without `--upgrade`")]
    Nobody {
        /// The upgrade socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path cannot be listened on.
    #[error("cannot listen on {path} (server.upgrade_socket)")]
    Socket {
        /// The upgrade socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The other process will not.
    #[error("the running process does not hand over: {0}")]
    Refused(String),
    /// Something was said that makes no sense here.
    #[error("the other process speaks another language")]
    Confused,
    /// The other process has ended, or the line has.
    #[error("the other process is gone")]
    Gone,
    /// The line cannot be used.
    #[error("the line between the processes is broken")]
    Line(#[from] io::Error),
    /// The stores do not answer.
    #[error("no store answers, and the running process may do better")]
    Blind,
    /// Tokens would meet an outage that they do not meet now.
    #[error("there are no keys of issuer {0} yet, and the running process may have some")]
    Keyless(Arc<str>),
    /// It took too long.
    #[error("not ready within {PATIENCE:?}")]
    Late,
    /// The running process was told to stop, and means its successor too.
    #[error("the running process was told to stop")]
    Stopped,
}

/// Whether a process takes another's place.
pub enum Beginning {
    /// No.
    Anew,
    /// That of the process which listens at `server.upgrade_socket`.
    AtSocket,
    /// That of its parent.
    AsChild,
}

impl Beginning {
    /// By the command line, and by what a parent has said.
    pub fn from_environment(upgrade: bool) -> Self {
        match std::env::var_os(BY_STANDARD_INPUT) {
            Some(_) => Self::AsChild,
            None if upgrade => Self::AtSocket,
            None => Self::Anew,
        }
    }

    pub(super) async fn predecessor(
        &self,
        socket: Option<&Path>,
    ) -> Result<Option<Predecessor>, SuccessionError> {
        let stream = match self {
            Self::Anew => return Ok(None),
            Self::AtSocket => {
                let path = socket.ok_or(SuccessionError::NoSocket)?;
                let nobody = |source| SuccessionError::Nobody { path: path.to_owned(), source };
                UnixStream::connect(path).await.map_err(nobody)?
            }
            Self::AsChild => {
                let stream: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
                let stream = std::os::unix::net::UnixStream::from(stream);
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)?
            }
        };
        Ok(Some(Predecessor(Line::new(stream))))
    }
}

/// The process whose place this one takes.
pub(super) struct Predecessor(Line);

impl Predecessor {
    /// Its listening sockets; it goes on accepting on them.
    pub(super) async fn sockets(&mut self, inherited: &mut Inherited) -> Result<(), SuccessionError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.0.say(&Word::Take { protocol: PROTOCOL, version }).await?;
        let listeners = match self.0.hear().await? {
            Some(Word::Given { listeners }) => listeners,
            Some(Word::Refused { why }) => return Err(SuccessionError::Refused(why)),
            Some(Word::Stop) => return Err(SuccessionError::Stopped),
            Some(_) => return Err(SuccessionError::Confused),
            None => return Err(SuccessionError::Gone),
        };
        for wanted in listeners {
            inherited.add(wanted, self.0.take().await?);
        }
        Ok(())
    }

    /// Says that this process serves; from here on it does so alone.
    pub(super) async fn relieve(mut self) -> Result<(), SuccessionError> {
        // It may be gone, and have left a word: that counts.
        let said = self.0.say(&Word::Ready).await;
        match self.0.hear().await {
            Ok(Some(Word::Go)) => Ok(()),
            Ok(Some(Word::Stop)) => Err(SuccessionError::Stopped),
            Ok(Some(_)) => Err(SuccessionError::Confused),
            // Its sockets are ours, and nobody else serves them now.
            Ok(None) | Err(_) => {
                tracing::warn!(said = said.is_ok(), "The predecessor ended before it was relieved");
                Ok(())
            }
        }
    }
}

/// A successor that is ready.
pub(super) struct Ready {
    line: Line,
    /// Unknown in another namespace.
    pub(super) process: Option<u32>,
}

impl Ready {
    /// It serves alone from now on.
    pub(super) async fn go(mut self) {
        if let Err(error) = self.line.say(&Word::Go).await {
            // Its sockets are its own: what there is to do for us is the same.
            tracing::warn!(%error, "The successor did not hear that it is alone now");
        }
    }

    /// Nobody is to serve any more.
    pub(super) async fn stop(mut self) {
        let _ = self.line.say(&Word::Stop).await;
    }
}

/// What a running process needs to hand over.
#[derive(Clone)]
pub(super) struct Succession {
    listeners: Arc<Mutex<Listeners>>,
    ready: mpsc::Sender<Ready>,
    /// One successor at a time.
    one: Arc<Semaphore>,
    /// This process ends, and nobody takes its place.
    ending: CancellationToken,
}

impl Succession {
    /// Whoever is ready comes out of the other end.
    pub(super) fn new(listeners: Arc<Mutex<Listeners>>) -> (Self, mpsc::Receiver<Ready>) {
        let (ready, heard) = mpsc::channel(1);
        let one = Arc::new(Semaphore::new(1));
        (Self { listeners, ready, one, ending: CancellationToken::new() }, heard)
    }

    /// Tells a successor that is on its way to end too.
    pub(super) async fn end(&self) {
        self.ending.cancel();
        // Until it has been told, or cannot be.
        let _ = tokio::time::timeout(LAST_WORD, self.one.acquire()).await;
    }

    /// Begins a successor: this program with its own arguments, as it lies on the disk now.
    pub(super) fn begin(&self) {
        if std::process::id() == 1 {
            tracing::error!(
                "Process 1 has no successor: when it ends, its container does. Start a second container with `--upgrade`, \
                 or replace this one"
            );
            return;
        }
        match spawn() {
            Ok((child, line)) => {
                tracing::info!(process = child.id(), "Successor started");
                tokio::spawn(self.clone().wait_for(line, Some(child)));
            }
            Err(error) => tracing::error!(%error, "A successor cannot be started; this process goes on"),
        }
    }

    /// Answers whoever comes to the upgrade socket.
    pub(super) async fn answer_forever(self, socket: Arc<UpgradeSocket>) {
        loop {
            match socket.listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(self.clone().wait_for(Line::new(stream), None))),
                Err(error) => {
                    tracing::error!(%error, "The upgrade socket cannot be accepted on");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn wait_for(self, line: Line, mut child: Option<Child>) {
        let process = match &child {
            Some(child) => child.id(),
            None => line.peer().ok().and_then(|peer| u32::try_from(peer.pid()?).ok()),
        };
        let outcome = tokio::time::timeout(PATIENCE, self.hand_over(line, process)).await;
        let error = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => SuccessionError::Late,
        };
        if let Some(child) = &mut child {
            // It has ended by itself, or is of no use.
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        if !matches!(error, SuccessionError::Stopped) {
            let error = Chain(&error);
            tracing::error!(%error, process, "No successor: this process goes on as before");
        }
    }

    async fn hand_over(&self, mut line: Line, process: Option<u32>) -> Result<(), SuccessionError> {
        let refuse = |why: &str| Word::Refused { why: why.to_owned() };
        let peer = line.peer()?;
        if !may_take_over(peer.uid()) {
            line.say(&refuse("it belongs to another user")).await?;
            return Err(SuccessionError::Refused(format!("user {} is neither ours nor root", peer.uid())));
        }
        let Ok(_alone) = self.one.try_acquire() else {
            line.say(&refuse("it is handing over to somebody else")).await?;
            return Err(SuccessionError::Refused("another successor is on its way".into()));
        };
        match line.hear().await? {
            Some(Word::Take { protocol: PROTOCOL, version }) => {
                tracing::info!(process, version, "A successor prepares");
            }
            Some(Word::Take { .. }) => {
                line.say(&refuse("it speaks another protocol; restart instead")).await?;
                return Err(SuccessionError::Confused);
            }
            Some(_) => return Err(SuccessionError::Confused),
            None => return Err(SuccessionError::Gone),
        }
        let sockets = self.listeners.lock().sockets()?;
        let listeners = sockets.iter().map(|(wanted, _)| wanted.clone()).collect();
        line.say(&Word::Given { listeners }).await?;
        for (_, socket) in &sockets {
            line.give(socket).await?;
        }
        let heard = tokio::select! {
            heard = line.hear() => heard?,
            () = self.ending.cancelled() => {
                line.say(&Word::Stop).await?;
                return Err(SuccessionError::Stopped);
            }
        };
        match heard {
            Some(Word::Ready) => {}
            Some(_) => return Err(SuccessionError::Confused),
            None => return Err(SuccessionError::Gone),
        }
        if let Err(mpsc::error::SendError(ready)) = self.ready.send(Ready { line, process }).await {
            ready.stop().await;
            return Err(SuccessionError::Stopped);
        }
        Ok(())
    }
}

/// Whoever takes the sockets reads what clients send: nobody but the same user, and the one who may do everything.
fn may_take_over(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn spawn() -> io::Result<(Child, Line)> {
    let mut arguments = std::env::args_os();
    // The path as it was called: what `/proc/self/exe` names is the file that has been replaced.
    let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new(program)
        .args(arguments)
        .env(BY_STANDARD_INPUT, "standard input")
        // They name this process.
        .env_remove("WATCHDOG_PID")
        .env_remove("LISTEN_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    Ok((child, Line::new(UnixStream::from_std(ours)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_user_and_root_may_take_over_and_nobody_else() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_take_over(own) && may_take_over(0));
        assert!(!may_take_over(own + 1));
    }
}
