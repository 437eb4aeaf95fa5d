//! The connection to a service on which a WebSocket is asked for: as any other, but that a read lets the writer go first.
//!
//! Pingora 0.9.1 puts the end of a request's (empty) body into a queue and takes whichever comes first, it or the answer.
//! A service that says 101 at once may be heard before the queue is looked at; then the end is taken for the end of the
//! conversation, and the client sees its WebSocket closed as soon as it is open. One in two hundred was, with a service
//! on the same machine. So a read that follows a write waits until the queue was looked at.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::prelude::*;
use pingora::protocols::l4::ext::{connect, set_tcp_keepalive};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Makes this peer one for a WebSocket.
pub(super) fn prepare(peer: &mut HttpPeer) {
    // Bound to no thread and no connection: one for all.
    static DIAL: std::sync::LazyLock<Arc<Dial>> = std::sync::LazyLock::new(|| Arc::new(Dial));
    peer.options.custom_l4 = Some(Arc::<Dial>::clone(&DIAL));
    // Connections made for other requests would not wait, and of ours Pingora cannot tell one from another.
    peer.group_key = !peer.group_key;
    peer.options.idle_timeout = Some(std::time::Duration::ZERO);
}

/// Connects as Pingora does; `total_connection_timeout` is Pingora's to keep.
#[derive(Debug)]
struct Dial;

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let SocketAddr::Inet(address) = address else {
            return Err(Error::explain(ErrorType::ConnectNoRoute, "no address of the internet"));
        };
        let tcp = connect(address, None).await?;
        Ok(Stream::from(VirtualSocketStream::new(Box::new(Patient { tcp, waits: 0 }))))
    }
}

/// Each write makes so many looks at what may be read come to nothing. One would do where Pingora's two halves take
/// turns; they may also be looked at in the other order.
const WAITS: u8 = 2;

#[derive(Debug)]
struct Patient {
    tcp: TcpStream,
    waits: u8,
}

impl AsyncRead for Patient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(left) = this.waits.checked_sub(1) {
            this.waits = left;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut this.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.waits = WAITS;
        Pin::new(&mut this.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.waits = WAITS;
        Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

impl VirtualSocket for Patient {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.tcp.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(&self.tcp, &keepalive).map_err(io::Error::other)
            }
            _ => Ok(()),
        }
    }
}
