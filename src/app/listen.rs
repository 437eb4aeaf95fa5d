//! Listening sockets, bound before anything else is begun: an address that is taken is told at once.

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::listeners::TcpSocketOptions;
use pingora::server::Fds;
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::StartError;
use crate::upstream::KEEPALIVE;

/// Connections that wait to be accepted. More than the standard library's 128: a restart of clients comes at once.
const BACKLOG: u32 = 4096;

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

/// Serves the sockets with Pingora's own accept loop. The task ends once `closed` was told and idle connections are gone.
pub(super) fn serve<A>(
    mut service: Service<A>,
    sockets: Vec<std::net::TcpListener>,
    closed: watch::Receiver<bool>,
) -> Result<(Vec<SocketAddr>, JoinHandle<()>), StartError>
where
    A: ServerApp + Send + Sync + 'static,
{
    let mut descriptors = Fds::new();
    let mut options = TcpSocketOptions::default();
    options.tcp_keepalive = Some(KEEPALIVE);
    let mut addresses = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let address = socket.local_addr().map_err(StartError::process)?;
        // Pingora takes a listener over by its address, and owns the descriptor from here on.
        descriptors.add(address.to_string(), socket.into_raw_fd());
        service.add_tcp_with_settings(&address.to_string(), options.clone());
        addresses.push(address);
    }
    let descriptors = Arc::new(Mutex::new(descriptors));
    let listening = tokio::spawn(async move { service.start_service(Some(descriptors), closed, 1).await });
    Ok((addresses, listening))
}
