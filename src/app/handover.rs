//! How one process gives its listening sockets to the next: both serve until the next one says that it is ready, and if it
//! never does, nothing has happened. One JSON object a line over a Unix socket; the sockets travel beside it (`SCM_RIGHTS`).
//!
//! ```text
//! successor                        predecessor
//!   take {protocol, version}  ──▶
//!                             ◀──  given {listeners}, then one byte with each socket      or refused {why}
//!   (opens stores, fetches keys, serves)
//!   ready                     ──▶
//!                             ◀──  go: stops accepting and drains                         or stop: is ended itself
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::listen::Wanted;

/// Raised when what is said changes, so that two versions that do not understand each other find out at once.
pub(super) const PROTOCOL: u32 = 1;

/// More listeners than anybody has; no line is longer.
const LONGEST: usize = 64 << 10;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Take { protocol: u32, version: String },
    Given { listeners: Vec<Wanted> },
    Refused { why: String },
    Ready,
    Go,
    Stop,
}

/// One of the two ends.
pub(super) struct Line(UnixStream);

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> io::Result<tokio::net::unix::UCred> {
        self.0.peer_cred()
    }

    pub(super) async fn say(&mut self, word: &Word) -> io::Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }

    /// The next line; `None` when the other end is gone. Reads no byte beyond it: a socket may come with that.
    pub(super) async fn hear(&mut self) -> io::Result<Option<Word>> {
        let mut line = Vec::new();
        loop {
            match self.0.read_u8().await {
                Ok(b'\n') => return Ok(Some(serde_json::from_slice(&line)?)),
                Ok(_) if line.len() >= LONGEST => return Err(io::Error::other("a line without end")),
                Ok(byte) => line.push(byte),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a socket, which stays ours too.
    pub(super) async fn give(&self, socket: &TcpListener) -> io::Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let sockets = [socket.as_fd()];
            if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            sendmsg(&self.0, &[IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Takes one.
    pub(super) async fn take(&self) -> io::Result<TcpListener> {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
            if received.bytes == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut sockets = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                _ => None,
            });
            sockets.next().ok_or_else(|| io::Error::other("a socket was to come and did not"))
        };
        let socket: OwnedFd = self.0.async_io(Interest::READABLE, receive).await?;
        Ok(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::listen::Role;
    use super::*;

    #[tokio::test]
    async fn words_and_sockets_arrive_in_their_order() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut giver, mut taker) = (Line::new(ours), Line::new(theirs));
        let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let wanted = |socket: &TcpListener| Wanted {
            role: Role::Tls,
            address: socket.local_addr().expect("an address"),
        };
        let listeners: Vec<_> = sockets.iter().map(wanted).collect();
        giver.say(&Word::Given { listeners: listeners.clone() }).await.expect("said");
        for socket in &sockets {
            giver.give(socket).await.expect("given");
        }
        giver.say(&Word::Go).await.expect("said");
        let Ok(Some(Word::Given { listeners: heard })) = taker.hear().await else { panic!("not heard") };
        assert_eq!(heard, listeners);
        for listener in &listeners {
            let socket = taker.take().await.expect("taken");
            assert_eq!(socket.local_addr().expect("an address"), listener.address);
        }
        assert!(matches!(taker.hear().await, Ok(Some(Word::Go))));
        drop(giver);
        assert!(matches!(taker.hear().await, Ok(None)));
    }

    #[tokio::test]
    async fn nonsense_and_lines_without_end_are_refused() {
        for nonsense in [b"{}\n".to_vec(), b"\"fly\"\n".to_vec(), vec![b' '; LONGEST + 2]] {
            let (mut ours, theirs) = UnixStream::pair().expect("a pair");
            let writing = tokio::spawn(async move { ours.write_all(&nonsense).await });
            assert!(Line::new(theirs).hear().await.is_err());
            let _ = writing.await;
        }
    }

    #[tokio::test]
    async fn a_byte_without_a_socket_is_no_socket() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        ours.write_all(b"s").await.expect("written");
        assert!(Line::new(theirs).take().await.is_err());
    }
}
