//! What a service manager is told (`sd_notify`, a datagram to `NOTIFY_SOCKET`): ready, reloading, stopping, who is the
//! main process, and a sign of life. Without one all of this does nothing.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a manager is waited for that does not read: what is said is said a few times in a life.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the manager listens.
#[derive(Clone, Default)]
pub(super) struct Manager {
    socket: Option<OsString>,
    /// How often it wants a sign of life: half of `WATCHDOG_USEC`.
    watchdog: Option<Duration>,
}

impl Manager {
    pub(super) fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        // Of another process: a child of the one that was meant.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&micros| ours && micros > 0);
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: watchdog.map(|micros| Duration::from_micros(micros / 2)),
        }
    }

    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=Serving");
    }

    /// Followed by [`Manager::ready`], whatever comes of it.
    pub(super) fn reloading(&self) {
        // By this systemd tells the answer to one reload from the answer to another.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Reloading"));
    }

    /// `within`: how long it may take. The manager would otherwise lose patience first.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = within.as_micros();
        self.tell(&format!("STOPPING=1\nSTATUS=Draining\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    /// Another process is the main one from now on. Believed only from the one that was.
    pub(super) fn succeeded_by(&self, process: u32) {
        self.tell(&format!("MAINPID={process}"));
    }

    /// Says that this process lives, for as long as it does.
    pub(super) async fn keep_alive(self) {
        let Some(every) = self.watchdog else { return };
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
        loop {
            ticks.tick().await;
            if let Some(socket) = &self.socket {
                // The next one will do.
                let _ = send(socket, "WATCHDOG=1", Duration::ZERO);
            }
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state, PATIENCE) {
            tracing::warn!(%error, state, "The service manager cannot be told");
        }
    }
}

/// `within`: how long a manager may take that does not read at present. Zero: not at all.
fn send(socket: &OsStr, state: &str, within: Duration) -> std::io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    if within.is_zero() {
        datagram.set_nonblocking(true)?;
    } else {
        datagram.set_write_timeout(Some(within))?;
    }
    datagram.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("portcullis-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("a name");
        let sockets = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).expect("bound")),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&abstract_address).expect("bound")),
        ];
        for (socket, listening) in sockets {
            let manager = Manager { socket: Some(socket), watchdog: None };
            manager.succeeded_by(7);
            let mut heard = [0; 64];
            let length = listening.recv(&mut heard).expect("a datagram");
            assert_eq!(heard.get(..length), Some(&b"MAINPID=7"[..]));
        }
        Manager::default().ready();
    }
}
