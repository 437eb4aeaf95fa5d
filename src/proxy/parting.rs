//! The last words of a connection that is cut: a WebSocket client is told why, where a frame can be sent at all.
//!
//! Cutting drops whatever Pingora was doing, and the connection with it. Whoever drops a [`Tapped`] connection that has
//! something to say takes it out and says it on a task of its own.

mod frames;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::protocols::tls::SslDigest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::task::TaskTracker;

use super::tcp::Tcp;
use super::wire::OverTcp;
use frames::{Frames, close};

/// How long a client has to take its last frame and to close its side. A connection that is closed while bytes of the
/// client lie unread is reset, and a reset may overtake the frame.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection and those who cut it share.
#[derive(Debug)]
pub(super) struct Parting {
    /// An answer of 101 is on its way: what follows it are frames.
    switched: AtomicBool,
    /// The code and the reason of the last frame.
    words: OnceLock<(u16, Box<str>)>,
    farewells: TaskTracker,
}

impl Parting {
    /// `farewells`: what is still being said, for whoever wants to wait for it.
    pub(super) fn new(farewells: TaskTracker) -> Arc<Self> {
        Arc::new(Self { switched: AtomicBool::new(false), words: OnceLock::new(), farewells })
    }

    /// To be called before the head of a 101 is written.
    pub(super) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// What to say when the connection is dropped. The first word counts.
    pub(super) fn say(&self, code: u16, reason: &str) {
        // Said already: then it is being dropped.
        let _ = self.words.set((code, reason.into()));
    }
}

/// A connection whose outgoing bytes are followed once it is a WebSocket's: what goes through here is what the client gets.
#[derive(Debug)]
pub(super) struct Tapped<S: OverTcp + 'static> {
    /// Only dropping takes it out.
    inner: Option<S>,
    parting: Arc<Parting>,
    frames: Option<Frames>,
}

impl<S: OverTcp + 'static> Tapped<S> {
    pub(super) fn new(inner: S, parting: Arc<Parting>) -> Self {
        Self { inner: Some(inner), parting, frames: None }
    }

    fn inner(&self) -> &S {
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("only dropping takes it out"),
        }
    }

    fn inner_mut(&mut self) -> &mut S {
        match &mut self.inner {
            Some(inner) => inner,
            None => unreachable!("only dropping takes it out"),
        }
    }

    fn follow<'a>(&mut self, written: impl Iterator<Item = &'a [u8]>) {
        if self.frames.is_none() && self.parting.switched.load(Ordering::Relaxed) {
            self.frames = Some(Frames::default());
        }
        if let Some(frames) = &mut self.frames {
            written.for_each(|bytes| frames.follow(bytes));
        }
    }
}

impl<S: OverTcp + 'static> Drop for Tapped<S> {
    fn drop(&mut self) {
        let Some((code, reason)) = self.parting.words.get() else { return };
        // Anything else would be read as a part of what it is in the middle of.
        if !self.frames.as_ref().is_some_and(Frames::may_be_closed) {
            return;
        }
        // Without a runtime the process is ending.
        let (Some(stream), Ok(runtime)) = (self.inner.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let frame = close(*code, reason);
        self.parting.farewells.spawn_on(tokio::time::timeout(LINGER, farewell(stream, frame)), &runtime);
    }
}

/// Says the last words and hears the client out, whatever it still has to say.
async fn farewell<S: OverTcp>(mut stream: S, frame: Vec<u8>) -> io::Result<()> {
    stream.write_all(&frame).await?;
    stream.flush().await?;
    stream.shutdown().await?;
    let mut unheard = [0; 1024];
    while stream.read(&mut unheard).await? > 0 {}
    Ok(())
}

impl<S: OverTcp + 'static> AsyncRead for Tapped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner_mut()).poll_read(cx, buf)
    }
}

impl<S: OverTcp + 'static> AsyncWrite for Tapped<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(this.inner_mut()).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &written {
            this.follow(buf.get(..*count).into_iter());
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(this.inner_mut()).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = &written {
            let mut left = *count;
            this.follow(bufs.iter().map(|piece| {
                let taken = left.min(piece.len());
                left -= taken;
                piece.get(..taken).unwrap_or_default()
            }));
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner().is_write_vectored()
    }
}

impl<S: OverTcp + 'static> OverTcp for Tapped<S> {
    fn tcp(&self) -> &Tcp {
        self.inner().tcp()
    }
    fn tcp_mut(&mut self) -> &mut Tcp {
        self.inner_mut().tcp_mut()
    }
    fn digest(&self) -> Option<SslDigest> {
        self.inner().digest()
    }
}
