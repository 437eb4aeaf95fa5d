//! One address of one server: how it is reached, and what requests have made of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pingora::protocols::TcpKeepalive;
use pingora::protocols::tls::ALPN;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};

use super::balance::hash;
use super::settings::{ServerAddress, Timeouts, Tls, TlsName, Transport, Trust, UpstreamSettings};

/// A peer that is gone without a word is noticed within a minute and a half, on either side of the gateway: a WebSocket
/// may be silent, but not dead.
pub const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: std::time::Duration::from_secs(60),
    interval: std::time::Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: std::time::Duration::ZERO,
};

/// Requests at a time on one HTTP/2 connection. What servers commonly allow; more open another connection.
const STREAMS: usize = 100;

/// One address of one server.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// Its place among the settings' servers.
    pub(super) server: usize,
    pub(super) weight: u32,
    /// What its draws in [`super::balance`] are made of.
    pub(super) seed: u64,
    /// Made in advance: choosing looks nothing up and cannot block.
    pub(super) peer: HttpPeer,
    running: AtomicUsize,
    failures: AtomicU32,
}

impl Endpoint {
    pub(super) fn new(settings: &UpstreamSettings, how: &Means, server: usize, address: SocketAddr) -> Self {
        let (weight, peer) = match settings.servers.get(server) {
            Some(written) => (written.weight, how.peer(settings, written, address)),
            // Never: places come from the very list.
            None => (1, HttpPeer::new(address, false, String::new())),
        };
        let seed = hash(address.to_string().as_bytes());
        let (running, failures) = Default::default();
        Self { address, server, weight, seed, peer, running, failures }
    }

    pub(super) fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many requests it would have with `more` of them.
    pub(super) fn load(&self, more: usize) -> u64 {
        u64::try_from(self.running.load(Ordering::Relaxed).saturating_add(more)).unwrap_or(u64::MAX)
    }

    /// Counts a failure; returns how many there were in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(super) fn answered(&self) {
        // Reading alone leaves the cache line shared between the workers.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn for_test(settings: &UpstreamSettings, address: SocketAddr, weight: u32) -> Self {
        Self { weight, ..Self::new(settings, &Means::new(settings), usize::MAX, address) }
    }
}

/// What the peers of one upstream share.
#[derive(Debug)]
pub(super) struct Means {
    /// Keeps connections apart that were made under other settings: Pingora's pool knows an address and a name, but not
    /// which authorities were trusted when the connection was made.
    group: u64,
    authorities: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
}

impl Means {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        static GROUPS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let (mut authorities, mut client) = (None, None);
        if let Transport::Tls(tls) = &settings.transport {
            if let Trust::Only(these) = &tls.trust {
                authorities =
                    Some(these.iter().map(|der| WrappedX509::new(der.clone(), parse_x509)).collect());
            }
            let shown = tls.client.as_ref();
            client = shown.map(|client| Arc::new(CertKey::new(client.chain.clone(), client.key.clone())));
        }
        Self { group: GROUPS.fetch_add(1, Ordering::Relaxed), authorities, client }
    }

    fn peer(&self, settings: &UpstreamSettings, server: &ServerAddress, address: SocketAddr) -> HttpPeer {
        let (tls, name, verify) = match &settings.transport {
            Transport::Plain => (false, String::new(), true),
            Transport::Tls(Tls { name, trust, .. }) => {
                // Never empty: without a name Pingora would verify nothing.
                let name = match name {
                    TlsName::Server => server.host.to_string(),
                    TlsName::Given(name) => name.to_string(),
                };
                (true, name, *trust != Trust::Nobody)
            }
        };
        let mut peer = HttpPeer::new(address, tls, name);
        peer.group_key = self.group;
        peer.client_cert_key = self.client.clone();
        let options = &mut peer.options;
        options.ca = self.authorities.clone();
        options.verify_cert = verify;
        options.verify_hostname = verify;
        options.alpn = match (settings.http2, tls) {
            (false, _) => ALPN::H1,
            (true, true) => ALPN::H2H1,
            // Nothing is negotiated in the open: what is said is what will be spoken.
            (true, false) => ALPN::H2,
        };
        options.max_h2_streams = STREAMS;
        let Timeouts { connect, idle, patience } = &settings.timeouts;
        options.connection_timeout = Some(*connect);
        options.total_connection_timeout = Some(*connect);
        options.read_timeout = Some(patience.read);
        options.write_timeout = Some(patience.write);
        options.idle_timeout = Some(*idle);
        options.tcp_keepalive = Some(KEEPALIVE);
        peer
    }
}
