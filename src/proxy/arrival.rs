//! How a request came: what its connection tells it, and what it tells of how it goes on.
//!
//! Pingora hands a request no word of its connection; a value local to the task does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::HeaderValue;

use super::entrance::Scheme;
use super::head::Head;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// An IPv4 client on a dual-stack socket is still an IPv4 client.
    pub(super) address: IpAddr,
    /// The address as services are told it: written once, not once a request.
    pub(super) text: HeaderValue,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Self {
        let address = address.ip().to_canonical();
        // An address has no byte that a header could not hold.
        let text = HeaderValue::try_from(address.to_string());
        Self { address, text: text.unwrap_or(HeaderValue::from_static("unknown")) }
    }
}

/// One for each connection that speaks HTTP/1.1, where one request follows another; one for each request of HTTP/2.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) scheme: Scheme,
    pub(super) peer: Peer,
    head: Arc<Head>,
    /// Odd while the head of a request is waited for, even while a request is served.
    turn: AtomicU32,
    /// Grows with every piece of the body.
    pieces: AtomicU32,
    /// Whether the client has said all it had to say before it hears something.
    said: AtomicBool,
}

tokio::task_local! {
    pub(super) static ARRIVAL: Arc<Arrival>;
}

impl Arrival {
    pub(super) fn new(scheme: Scheme, peer: Peer, head: Arc<Head>) -> Self {
        let [turn, pieces] = [0, 0].map(AtomicU32::new);
        Self { scheme, peer, head, turn, pieces, said: AtomicBool::new(false) }
    }

    /// That of the request this task serves. Without one, in a test say, it came from nowhere.
    pub(super) fn at_hand() -> Arc<Self> {
        let nowhere = || {
            let peer = Peer::new(SocketAddr::from(([0, 0, 0, 0], 0)));
            Arc::new(Self::new(Scheme::Http, peer, Arc::default()))
        };
        ARRIVAL.try_with(Arc::clone).unwrap_or_else(|_| nowhere())
    }

    /// From now on the head of a request is waited for, of so many bytes at most.
    pub(super) fn head_is_waited_for(&self, bytes: usize) {
        self.head.expect(bytes);
        // Nobody else writes: a connection has one task.
        self.turn.store(self.turn.load(Ordering::Relaxed).wrapping_add(1) | 1, Ordering::Relaxed);
    }

    /// The head has been read.
    pub(super) fn head_was_read(&self) {
        self.head.came();
        self.said.store(false, Ordering::Relaxed);
        self.turn.store(self.turn.load(Ordering::Relaxed).wrapping_add(1) & !1, Ordering::Relaxed);
    }

    /// Which turn it is: [`Turn::waits`] says whose.
    pub(super) fn turn(&self) -> Turn {
        Turn(self.turn.load(Ordering::Relaxed))
    }

    /// How many pieces of the body have come, and whether more are expected before the client hears something.
    pub(super) fn body(&self) -> (u32, bool) {
        (self.pieces.load(Ordering::Relaxed), !self.said.load(Ordering::Relaxed))
    }
}

/// Called with every piece of a body. `over`: it was the last, or the answer has begun: what follows may be a conversation.
pub(super) fn body_moved(over: bool) {
    let _ = ARRIVAL.try_with(|arrival| {
        arrival.pieces.store(arrival.pieces.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if over {
            arrival.said.store(true, Ordering::Relaxed);
        }
    });
}

/// A connection's turns: it waits for a request, serves it, waits for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u32);

impl Turn {
    /// The head of a request is waited for.
    pub(super) fn waits(self) -> bool {
        self.0 & 1 == 1
    }

    /// No request has come before.
    pub(super) fn is_first(self) -> bool {
        self.0 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_and_serves_in_turn() {
        let peer = Peer::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let arrival = Arrival::new(Scheme::Http, peer, Arc::default());
        assert!(!arrival.turn().waits());
        arrival.head_is_waited_for(1024);
        assert!(arrival.turn().waits() && arrival.turn().is_first());
        arrival.head_was_read();
        assert!(!arrival.turn().waits());
        let served = arrival.turn();
        arrival.head_is_waited_for(1024);
        assert!(arrival.turn().waits() && !arrival.turn().is_first() && arrival.turn() != served);
    }

    #[test]
    fn a_mapped_ipv4_address_is_told_as_ipv4() {
        let peer = Peer::new("[::ffff:192.0.2.7]:80".parse().expect("an address"));
        assert_eq!(peer.text, "192.0.2.7");
    }
}
