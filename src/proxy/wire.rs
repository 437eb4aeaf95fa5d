//! A client's connection as Pingora takes it: TCP, or TLS over it, with an eye on the frames where HTTP/2 is spoken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora::tls::ServerTlsStream;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};

use super::frames::Frames;
use super::head::{Head, TOO_LONG};
use super::tcp::Tcp;

/// What lies over a TCP connection, or is one.
pub(super) trait OverTcp: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug {
    fn tcp(&self) -> &Tcp;
    fn tcp_mut(&mut self) -> &mut Tcp;
    /// For Pingora: what has been agreed on, where anything has.
    fn digest(&self) -> Option<SslDigest>;
}

impl OverTcp for Tcp {
    fn tcp(&self) -> &Tcp {
        self
    }
    fn tcp_mut(&mut self) -> &mut Tcp {
        self
    }
    fn digest(&self) -> Option<SslDigest> {
        None
    }
}

impl OverTcp for ServerTlsStream<Tcp> {
    fn tcp(&self) -> &Tcp {
        self.get_ref().0
    }
    fn tcp_mut(&mut self) -> &mut Tcp {
        self.get_mut().0
    }
    fn digest(&self) -> Option<SslDigest> {
        let session = self.get_ref().1;
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let version = session.protocol_version().and_then(|version| version.as_str());
        Some(SslDigest::new(cipher.unwrap_or_default(), version.unwrap_or_default(), None, None, Vec::new()))
    }
}

/// As much as one segment holds: a head and a short body leave together, in one system call and one TLS record. Pingora
/// does so for the connections it accepts itself, and flushes where an answer ends.
const BUFFER: usize = 1460;

/// One connection.
#[derive(Debug)]
pub(super) struct Wire<S: OverTcp> {
    inner: BufWriter<S>,
    digest: Option<Arc<SslDigest>>,
    watched: Watched,
}

/// What is looked for in what a client sends.
#[derive(Debug)]
enum Watched {
    /// HTTP/1.1: a head that never ends.
    Head(Arc<Head>),
    /// HTTP/2: floods of frames.
    Frames(Box<Frames>),
}

impl<S: OverTcp> Wire<S> {
    /// HTTP/1.1 is spoken on it.
    pub(super) fn http1(inner: S, head: Arc<Head>) -> Self {
        Self::new(inner, Watched::Head(head))
    }

    /// HTTP/2 is spoken on it; a client that floods it is cut off, and `floods` counts that.
    pub(super) fn http2(inner: S, floods: IntCounter) -> Self {
        Self::new(inner, Watched::Frames(Box::new(Frames::new(floods))))
    }

    fn new(inner: S, watched: Watched) -> Self {
        let digest = inner.digest().map(Arc::new);
        Self { inner: BufWriter::with_capacity(BUFFER, inner), digest, watched }
    }

    /// HTTP/2: how much was written, for which the client may answer.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Watched::Frames(frames), Poll::Ready(Ok(bytes))) = (&mut self.watched, written) {
            frames.wrote(*bytes);
        }
    }
}

/// An exchange that breaks off is dropped: of its answer the client sees what there was, as far as it can be written now.
impl<S: OverTcp> Drop for Wire<S> {
    fn drop(&mut self) {
        if !self.inner.buffer().is_empty() {
            let _ = Pin::new(&mut self.inner).poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl<S: OverTcp> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if !matches!(read, Poll::Ready(Ok(()))) {
            return read;
        }
        match &mut this.watched {
            Watched::Head(head) => {
                if !head.read(buf.filled().len() - before) {
                    // As far as the client takes it at once; nothing else is on its way to it.
                    let _ = Pin::new(&mut this.inner).poll_write(cx, TOO_LONG);
                    let _ = Pin::new(&mut this.inner).poll_flush(cx);
                    return Poll::Ready(Err(io::Error::other("the head of a request does not end")));
                }
            }
            Watched::Frames(frames) => {
                if let Err(flood) = frames.follow(buf.filled().get(before..).unwrap_or_default()) {
                    return Poll::Ready(Err(io::Error::other(flood)));
                }
            }
        }
        read
    }
}

impl<S: OverTcp> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.wrote(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl<S: OverTcp> Shutdown for Wire<S> {
    async fn shutdown(&mut self) {
        // A client that is gone need not be told.
        let _ = AsyncWriteExt::shutdown(&mut self.inner).await;
    }
}

impl<S: OverTcp> UniqueID for Wire<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().tcp().id()
    }
}

impl<S: OverTcp> Ssl for Wire<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.digest.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(match self.watched {
            Watched::Frames(_) => ALPN::H2,
            Watched::Head(_) => ALPN::H1,
        })
    }
}

/// Nobody asks.
impl<S: OverTcp> GetTimingDigest for Wire<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

/// A client's connection leads through no proxy that was asked for it.
impl<S: OverTcp> GetProxyDigest for Wire<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S: OverTcp> GetSocketDigest for Wire<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(self.inner.get_ref().tcp().digest()))
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.get_mut().tcp_mut().set_digest(digest);
    }
}

impl<S: OverTcp> Peek for Wire<S> {}
