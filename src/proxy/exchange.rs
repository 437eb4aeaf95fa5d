//! What one request carries through Pingora's phases.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use pingora::proxy::Session;

use super::Snapshot;
use crate::report::Finished;
use crate::verdict::{Grant, Verdict};

/// Pingora's `CTX`. The verdict is its one `Option`: Pingora makes it before it has a request.
pub struct Exchange {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) verdict: Option<Verdict>,
    pub(super) id: RequestId,
    pub(super) client: IpAddr,
    /// Whether the peer is in `trusted_proxies`.
    pub(super) trusted: bool,
    pub(super) began: Instant,
    pub(super) judgment: Duration,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) forwarded: Option<Instant>,
    /// Connections that were tried in vain.
    pub(super) attempts: usize,
    /// Bytes of the request body seen so far.
    pub(super) body_bytes: u64,
    /// What the client was told.
    pub(super) status: u16,
    told: bool,
}

impl Exchange {
    /// A request that is about to be read.
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            verdict: None,
            id: RequestId::random(),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            trusted: false,
            began: Instant::now(),
            judgment: Duration::ZERO,
            upstream: None,
            forwarded: None,
            attempts: 0,
            body_bytes: 0,
            status: 0,
            told: false,
        }
    }

    /// The permission to reach the upstream; without it there is no way there.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.verdict.as_ref().and_then(|verdict| verdict.as_ref().ok())
    }

    /// Tells the fact, once.
    pub(super) fn finish(&mut self, session: &Session) {
        let header = session.req_header();
        // What is told apart from the path is never the query: it may hold a token.
        let target = std::str::from_utf8(header.raw_path()).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let bytes = u64::try_from(session.body_bytes_sent()).unwrap_or(u64::MAX);
        self.tell(&header.method, path, bytes);
    }

    fn tell(&mut self, method: &Method, path: &str, bytes: u64) {
        self.told = true;
        let Some(verdict) = &self.verdict else { return };
        self.snapshot.report.finished(&Finished {
            method,
            path,
            status: self.status,
            verdict,
            upstream: self.upstream,
            total: self.began.elapsed(),
            upstream_time: self.forwarded.map(|since| since.elapsed()),
            judgment: self.judgment,
            request_id: self.id.as_str(),
            client: self.client,
            bytes,
        });
    }
}

/// Pingora does not come to `logging` when a hook panics or the exchange is dropped from outside: the fact is told here.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.told && self.verdict.is_some() {
            self.tell(&Method::default(), "", 0);
        }
    }
}

/// 128 random bits in hex: what logs, upstreams and problem documents call a request.
#[derive(Clone, Copy)]
pub(super) struct RequestId([u8; 32]);

impl RequestId {
    fn random() -> Self {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 0xf)).copied().unwrap_or(b'0');
        let mut text = [b'0'; 32];
        // `format!` would take longer than all the rest of the exchange.
        for (pair, byte) in text.chunks_exact_mut(2).zip(rand::random::<[u8; 16]>()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
        }
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
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
}
