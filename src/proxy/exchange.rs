//! What one request carries through Pingora's phases.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use pingora::proxy::Session;

use super::Snapshot;
use super::arrival::Arrival;
use super::asked::Original;
use super::attempts::Attempts;
use super::observe::Held;
use crate::rate::Standing;
use crate::report::Finished;
use crate::verdict::{Grant, Verdict};

/// Never sent: there was nobody to answer any more. What nginx calls it.
pub(super) const CLIENT_WENT_AWAY: u16 = 499;

/// Pingora's `CTX`. The verdict is its one `Option`: Pingora makes it before it has a request.
pub struct Exchange {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) verdict: Option<Verdict>,
    pub(super) id: RequestId,
    /// How it came, and from whom.
    pub(super) arrival: Arc<Arrival>,
    /// Whose request it is: the peer, or whom trusted proxies name.
    pub(super) client: IpAddr,
    /// Whether it is a WebSocket handshake.
    pub(super) websocket: bool,
    /// Whether the peer is in `trusted_proxies`.
    pub(super) trusted: bool,
    pub(super) began: Instant,
    pub(super) judgment: Duration,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) forwarded: Option<Instant>,
    pub(super) attempts: Attempts,
    /// What the client is told of rate limits; empty where none counts.
    pub(super) standings: Vec<Standing>,
    /// The token that the body carries, where the route says that it is there.
    pub(super) in_body: Option<String>,
    /// Whether the body was read for that; a client that expects to be asked for it was asked.
    pub(super) body_read: bool,
    /// Bytes of the request body seen so far.
    pub(super) body_bytes: u64,
    /// Whether the body is one side of a conversation.
    pub(super) talks: bool,
    /// The answer, where it is held back until what it opens is stored.
    pub(super) held: Option<Box<Held>>,
    /// What the client was told.
    pub(super) status: u16,
    /// The request that another proxy asks about.
    pub(super) asked: Option<Box<Original>>,
    told: bool,
}

impl Exchange {
    /// A request that is about to be read.
    pub(super) fn new(snapshot: Arc<Snapshot>, arrival: Arc<Arrival>) -> Self {
        let client = arrival.peer.address;
        Self {
            snapshot,
            verdict: None,
            id: RequestId::random(),
            arrival,
            client,
            websocket: false,
            trusted: false,
            began: Instant::now(),
            judgment: Duration::ZERO,
            upstream: None,
            forwarded: None,
            attempts: Attempts::default(),
            standings: Vec::new(),
            in_body: None,
            body_read: false,
            body_bytes: 0,
            talks: false,
            held: None,
            status: 0,
            asked: None,
            told: false,
        }
    }

    /// The permission to reach the upstream; without it there is no way there.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.verdict.as_ref().and_then(|verdict| verdict.as_ref().ok())
    }

    /// Tells the fact, once.
    pub(super) fn finish(&mut self, session: &Session) {
        let bytes = u64::try_from(session.body_bytes_sent()).unwrap_or(u64::MAX);
        if let Some(asked) = self.asked.take() {
            return self.tell(&asked.method, asked.path(), bytes);
        }
        let header = session.req_header();
        // What is told apart from the path is never the query: it may hold a token.
        let target = std::str::from_utf8(header.raw_path()).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        self.tell(&header.method, path, bytes);
    }

    fn tell(&mut self, method: &Method, path: &str, bytes: u64) {
        self.told = true;
        let Some(verdict) = &self.verdict else { return };
        let ended = Instant::now();
        self.snapshot.report.finished(&Finished {
            method,
            path,
            status: self.status,
            verdict,
            upstream: self.upstream,
            total: ended.duration_since(self.began),
            upstream_time: self.forwarded.map(|since| ended.duration_since(since)),
            judgment: self.judgment,
            request_id: self.id.as_str(),
            client: self.client,
            bytes,
            asked_by: self
                .arrival
                .scheme
                .asks()
                .then(|| self.snapshot.forward_auth.as_ref())
                .flatten()
                .map(|it| it.style.word()),
        });
    }
}

/// Pingora does not come to `logging` when a hook panics or the exchange is dropped from outside: the fact is told here.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.told && self.verdict.is_some() {
            if self.status == 0 {
                self.status = if std::thread::panicking() { 500 } else { CLIENT_WENT_AWAY };
            }
            match self.asked.take() {
                Some(asked) => self.tell(&asked.method, asked.path(), 0),
                None => self.tell(&Method::default(), "", 0),
            }
        }
    }
}

/// What logs, upstreams and problem documents call a request: 128 random bits in hex, or a trusted proxy's word.
#[derive(Clone, Copy)]
pub(super) struct RequestId {
    text: [u8; Self::LONGEST],
    length: usize,
}

impl RequestId {
    const LONGEST: usize = 64;

    fn random() -> Self {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 0xf)).copied().unwrap_or(b'0');
        let mut text = [b'0'; Self::LONGEST];
        // `format!` would take longer than all the rest of the exchange.
        for (pair, byte) in text.chunks_exact_mut(2).zip(rand::random::<[u8; 16]>()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
        }
        Self { text, length: 32 }
    }

    /// The id that a proxy in front gave, where it is short and harmless.
    pub(super) fn given(value: &HeaderValue) -> Option<Self> {
        let given = value.as_bytes();
        let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        let mut text = [b'0'; Self::LONGEST];
        text.get_mut(..given.len()).filter(|text| !text.is_empty())?.copy_from_slice(given);
        given.iter().all(harmless).then_some(Self { text, length: given.len() })
    }

    pub(super) fn as_str(&self) -> &str {
        self.text.get(..self.length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_128_bits_of_hex_and_differ() {
        let (a, b) = (RequestId::random(), RequestId::random());
        assert_eq!(a.as_str().len(), 32);
        assert!(a.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(a.as_str(), b.as_str());
    }

    #[test]
    fn an_id_that_was_given_is_kept_where_it_is_harmless() {
        let given = |text: &'static str| {
            RequestId::given(&HeaderValue::from_static(text)).map(|id| id.as_str().to_owned())
        };
        let longest = "x".repeat(64).leak();
        for good in ["1", "01a1fcad-b78a-7352-95fb-85ddd0c4f3cc", "a_b.c:d", longest] {
            assert_eq!(given(good).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a\"b", "a,b", "x".repeat(65).leak()] {
            assert_eq!(given(bad), None, "{bad}");
        }
    }
}
