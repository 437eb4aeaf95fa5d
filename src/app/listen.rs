//! Listening sockets, bound before anything else is begun: an address that is taken is told at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::StartError;
use crate::proxy::{Door, Entrance};

/// Connections that wait to be accepted. More than the standard library's 128: a restart of clients comes at once.
const BACKLOG: u32 = 4096;

/// How long accepting rests when there are no descriptors left: it would fail again at once, and go on failing.
const REST: Duration = Duration::from_millis(200);

/// Binds every address that `key` names.
pub(super) fn bind(
    addresses: &[SocketAddr],
    key: &'static str,
) -> Result<Vec<std::net::TcpListener>, StartError> {
    let bound = |address: &SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(*address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    let failed = |address: SocketAddr| move |source| StartError::Listen { key, address, source };
    addresses.iter().map(|address| bound(address).map_err(failed(*address))).collect()
}

/// A bound socket, and what is spoken on it.
pub(super) struct Socket {
    pub(super) socket: std::net::TcpListener,
    pub(super) entrance: Entrance,
}

/// Serves the sockets. The task ends once `closed` was told and idle connections are gone.
pub(super) fn serve(
    door: Door,
    sockets: Vec<Socket>,
    closed: &watch::Receiver<bool>,
) -> Result<(Vec<SocketAddr>, JoinHandle<()>), StartError> {
    let door = Arc::new(door);
    let mut accepting = JoinSet::new();
    let mut addresses = Vec::with_capacity(sockets.len());
    for Socket { socket, entrance } in sockets {
        addresses.push(socket.local_addr().map_err(StartError::process)?);
        let listener = TcpListener::from_std(socket).map_err(StartError::process)?;
        accepting.spawn(accept(Arc::clone(&door), listener, Arc::new(entrance), closed.clone()));
    }
    let listening = tokio::spawn(async move {
        accepting.join_all().await;
        door.close().await;
    });
    Ok((addresses, listening))
}

/// Accepts until told to stop; the connections live on.
async fn accept(
    door: Arc<Door>,
    listener: TcpListener,
    entrance: Arc<Entrance>,
    closed: watch::Receiver<bool>,
) {
    let mut told = closed.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = told.wait_for(|closed| *closed) => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let Some(place) = door.place(&tcp, peer, &entrance) else { continue };
                let (door, entrance, closed) = (Arc::clone(&door), Arc::clone(&entrance), closed.clone());
                tokio::spawn(async move { door.serve(place, tcp, peer, &entrance, closed).await });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "Connections cannot be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether the next one may do better at once.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
