//! A client's TCP connection, with nothing between it and who reads and writes.
//!
//! Pingora's own stream has a buffer, which [`super::wire`] has too, and looks at the clock before and after every wait:
//! nobody here asks how long was waited, and every request waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::{SocketDigest, UniqueIDType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::upstream::KEEPALIVE;

#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    /// Was read to see what it is, and is read again by whoever comes next.
    unread: Vec<u8>,
    digest: Arc<SocketDigest>,
}

impl Tcp {
    /// With the options that Pingora sets where it accepts.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        set_tcp_keepalive(&stream, &KEEPALIVE).map_err(io::Error::other)?;
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // New: it holds nothing yet.
        let _ = digest.peer_addr.set(Some(peer.into()));
        Ok(Self { stream, unread: Vec::new(), digest: Arc::new(digest) })
    }

    /// Puts back all that was read so far.
    pub(super) fn put_back(&mut self, read: Vec<u8>) {
        self.unread = read;
    }

    pub(super) fn id(&self) -> UniqueIDType {
        self.stream.as_raw_fd()
    }

    pub(super) fn digest(&self) -> &Arc<SocketDigest> {
        &self.digest
    }

    pub(super) fn set_digest(&mut self, digest: SocketDigest) {
        self.digest = Arc::new(digest);
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let fits = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..fits).unwrap_or_default());
        this.unread.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_was_put_back_is_read_first_however_little_is_read_at_a_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("an address")).await.expect("to connect");
        let (stream, peer) = listener.accept().await.expect("a client");
        let mut tcp = Tcp::new(stream, peer).expect("a connection");
        assert_eq!(tcp.digest().peer_addr().and_then(|it| it.as_inet().copied()), Some(peer));

        client.write_all(b"PRI * HTTP/2.0").await.expect("to write");
        let mut seen = vec![0; 5];
        tcp.read_exact(&mut seen).await.expect("a beginning");
        tcp.put_back(seen);
        let mut read = [0; 14];
        for byte in &mut read {
            *byte = tcp.read_u8().await.expect("a byte");
        }
        assert_eq!(&read, b"PRI * HTTP/2.0");
    }
}
