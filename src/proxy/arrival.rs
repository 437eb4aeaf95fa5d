//! How a request came: what its connection tells it, and what it tells of how it goes on.
//!
//! Pingora hands a request no word of its connection. So the connection's [`Arrival`] lies at hand while it polls Pingora
//! for a request whose head has not been read, and the request takes it when it has ([`Arrival::at_hand`]).

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use http::HeaderValue;
use tokio_util::task::TaskTracker;

use super::entrance::Scheme;
use super::head::Head;
use super::parting::Parting;

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
    /// The turn that is to end before its time: no other one on this connection does.
    cut: AtomicU32,
    /// Of the task that serves it: the same from beginning to end.
    waker: OnceLock<Waker>,
    /// What is said when it does, where it can be said at all.
    pub(super) parting: Arc<Parting>,
}

/// No request is served in an odd turn.
const NONE: u32 = u32::MAX;

thread_local! {
    /// Lies here for the length of one poll. Tokio's own kind of value would be put here and taken away in every poll of every
    /// request, which takes longer than finding a route.
    static AT_HAND: Cell<Option<Arc<Arrival>>> = const { Cell::new(None) };
}

impl Arrival {
    pub(super) fn new(scheme: Scheme, peer: Peer, head: Arc<Head>, parting: Arc<Parting>) -> Self {
        let [turn, pieces, cut] = [0, 0, NONE].map(AtomicU32::new);
        let (said, waker) = (AtomicBool::new(false), OnceLock::new());
        Self { scheme, peer, head, turn, pieces, said, cut, waker, parting }
    }

    /// That of the request whose head has just been read. Without one, in a test say, it came from nowhere.
    pub(super) fn at_hand() -> Arc<Self> {
        AT_HAND.take().unwrap_or_else(Self::nowhere)
    }

    pub(super) fn nowhere() -> Arc<Self> {
        let peer = Peer::new(SocketAddr::from(([0, 0, 0, 0], 0)));
        Arc::new(Self::new(Scheme::Http, peer, Arc::default(), Parting::new(TaskTracker::new())))
    }

    /// From now on the head of a request is waited for, of so many bytes at most.
    pub(super) fn head_is_waited_for(&self, bytes: usize) {
        self.head.expect(bytes);
        self.request_is_waited_for();
    }

    /// As [`Arrival::head_is_waited_for`], where heads come as frames.
    pub(super) fn request_is_waited_for(&self) {
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

    /// The request of this turn is to end now, if it is served still.
    pub(super) fn cut(&self, Turn(turn): Turn) {
        self.cut.store(turn, Ordering::Release);
        // Nothing has been polled yet that could be served, where there is none.
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Does the work of a request until it is done, or until its turn is cut: then nothing comes of it.
    pub(super) fn unless_cut<'a, T: 'a>(
        self: &'a Arc<Self>,
        mut work: Pin<Box<dyn Future<Output = Option<T>> + Send + 'a>>,
    ) -> impl Future<Output = Option<T>> + Unpin + Send + 'a {
        std::future::poll_fn(move |cx| {
            self.waker.get_or_init(|| cx.waker().clone());
            let turn = self.turn();
            if self.cut.load(Ordering::Acquire) == turn.0 {
                return Poll::Ready(None);
            }
            if !turn.waits() {
                return work.as_mut().poll(cx);
            }
            AT_HAND.set(Some(Arc::clone(self)));
            let polled = work.as_mut().poll(cx);
            drop(AT_HAND.take());
            polled
        })
    }

    /// A piece of the body has come. `over`: it was the last, or the answer has begun: what follows may be a conversation.
    pub(super) fn body_moved(&self, over: bool) {
        self.pieces.store(self.pieces.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if over {
            self.said.store(true, Ordering::Relaxed);
        }
    }

    /// A 101 is about to be written: what follows are the frames of a WebSocket.
    pub(super) fn switched(&self) {
        self.parting.switch();
    }

    /// How many pieces of the body have come, and whether more are expected before the client hears something.
    pub(super) fn body(&self) -> (u32, bool) {
        (self.pieces.load(Ordering::Relaxed), !self.said.load(Ordering::Relaxed))
    }
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
        let arrival = Arrival::nowhere();
        assert!(!arrival.turn().waits());
        arrival.head_is_waited_for(1024);
        assert!(arrival.turn().waits() && arrival.turn().is_first());
        arrival.head_was_read();
        assert!(!arrival.turn().waits());
        let served = arrival.turn();
        arrival.head_is_waited_for(1024);
        assert!(arrival.turn().waits() && !arrival.turn().is_first() && arrival.turn() != served);
    }

    #[tokio::test]
    async fn only_the_turn_that_was_cut_ends() {
        let arrival = Arrival::nowhere();
        let serve = async || arrival.unless_cut(Box::pin(std::future::ready(Some(())))).await.is_some();
        arrival.head_is_waited_for(1024);
        arrival.head_was_read();
        let served = arrival.turn();
        assert!(serve().await);
        arrival.cut(served);
        assert!(!serve().await);
        // Too late: the next one is waited for.
        arrival.head_is_waited_for(1024);
        assert!(serve().await);
        arrival.head_was_read();
        assert!(serve().await);
    }

    #[test]
    fn a_mapped_ipv4_address_is_told_as_ipv4() {
        let peer = Peer::new("[::ffff:192.0.2.7]:80".parse().expect("an address"));
        assert_eq!(peer.text, "192.0.2.7");
    }
}
