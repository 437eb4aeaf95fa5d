//! The services in front of which Portcullis stands.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::HttpPeer;

/// One group of interchangeable servers, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// What routes call it.
    pub name: Arc<str>,
    /// Never empty. Chosen in turn, by weight.
    pub servers: Vec<ServerAddress>,
    /// How long is waited for what.
    pub timeouts: Timeouts,
    /// How many other attempts are made when no connection can be had; nothing has been sent then.
    pub retries: usize,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerAddress {
    /// IP address or DNS name; names are resolved in the background.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// At least 1.
    pub weight: u32,
}

/// How long an upstream may take. Pingora's own default for each is for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// Between two reads.
    pub read: Duration,
    /// For one write.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

/// A peer that is gone without a word is noticed within a minute and a half, on either side of the gateway: a WebSocket
/// may be silent, but not dead.
pub const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// How often names are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(15);

/// An upstream as run: peers made in advance, so that choosing one looks nothing up and cannot block.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    /// One entry for each unit of weight.
    peers: ArcSwap<Vec<HttpPeer>>,
    turn: AtomicUsize,
}

impl Upstream {
    /// Makes the peers of every server whose address needs no look-up.
    pub fn new(settings: UpstreamSettings) -> Self {
        let upstream = Self { settings, peers: ArcSwap::default(), turn: AtomicUsize::new(0) };
        let literal = |server: &ServerAddress| {
            let ip: IpAddr = server.host.trim_matches(['[', ']']).parse().ok()?;
            Some(vec![SocketAddr::new(ip, server.port)])
        };
        let addresses = upstream.settings.servers.iter().map(|server| literal(server).unwrap_or_default());
        upstream.publish(addresses.collect());
        upstream
    }

    /// What it was made from.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// The next server in turn; `None` when no name has been resolved yet.
    pub fn next(&self) -> Option<Box<HttpPeer>> {
        let peers = self.peers.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        peers.get(turn.checked_rem(peers.len())?).cloned().map(Box::new)
    }

    /// Whether any server is a DNS name.
    pub fn has_names(&self) -> bool {
        self.settings
            .servers
            .iter()
            .any(|server| server.host.trim_matches(['[', ']']).parse::<IpAddr>().is_err())
    }

    /// Looks the names up once. A name that does not resolve keeps no address, and is logged.
    pub async fn resolve(&self) {
        let mut all = Vec::with_capacity(self.settings.servers.len());
        for server in &self.settings.servers {
            let found = tokio::net::lookup_host((server.host.trim_matches(['[', ']']), server.port)).await;
            match found {
                Ok(addresses) => all.push(addresses.collect()),
                Err(error) => {
                    tracing::warn!(upstream = %self.settings.name, host = %server.host, %error, "Name not resolved");
                    all.push(Vec::new());
                }
            }
        }
        // All names failing at once is the resolver's failure: the last addresses are the better guess.
        if all.iter().any(|addresses: &Vec<SocketAddr>| !addresses.is_empty()) {
            self.publish(all);
        }
    }

    /// Interleaves the servers by weight, so that a heavy one does not get its turns in a row.
    fn publish(&self, addresses: Vec<Vec<SocketAddr>>) {
        let heaviest = self.settings.servers.iter().map(|server| server.weight).max().unwrap_or(1);
        let mut peers = Vec::new();
        for round in 0..heaviest {
            for (server, addresses) in self.settings.servers.iter().zip(&addresses) {
                if round < server.weight {
                    peers.extend(addresses.iter().map(|address| self.peer(*address)));
                }
            }
        }
        self.peers.store(Arc::new(peers));
    }

    fn peer(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, false, String::new());
        let Timeouts { connect, read, write, idle } = self.settings.timeouts;
        peer.options.connection_timeout = Some(connect);
        peer.options.total_connection_timeout = Some(connect);
        peer.options.read_timeout = Some(read);
        peer.options.write_timeout = Some(write);
        peer.options.idle_timeout = Some(idle);
        peer.options.tcp_keepalive = Some(KEEPALIVE);
        peer
    }
}

/// Makes an upstream, looks its names up, and goes on doing so for as long as anybody uses it.
pub async fn start(settings: UpstreamSettings) -> Arc<Upstream> {
    let upstream = Arc::new(Upstream::new(settings));
    if upstream.has_names() {
        upstream.resolve().await;
        let used = Arc::downgrade(&upstream);
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(RESOLVE_EVERY);
            interval.tick().await;
            loop {
                interval.tick().await;
                let Some(upstream) = used.upgrade() else { return };
                upstream.resolve().await;
            }
        });
    }
    upstream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(servers: &[(&str, u32)]) -> Upstream {
        let second = Duration::from_secs(1);
        Upstream::new(UpstreamSettings {
            name: "app".into(),
            servers: servers
                .iter()
                .map(|(host, weight)| ServerAddress { host: (*host).into(), port: 80, weight: *weight })
                .collect(),
            timeouts: Timeouts { connect: second, read: second, write: second, idle: second },
            retries: 0,
        })
    }

    #[test]
    fn servers_take_turns_by_weight() {
        let upstream = upstream(&[("10.0.0.1", 1), ("10.0.0.2", 3)]);
        let turns: Vec<String> = (0..8).map(|_| upstream.next().unwrap()._address.to_string()).collect();
        assert_eq!(turns.iter().filter(|address| address.starts_with("10.0.0.2")).count(), 6);
        assert_eq!(turns.first(), Some(&"10.0.0.1:80".to_owned()));
    }

    #[tokio::test]
    async fn a_name_has_no_address_until_it_is_resolved() {
        let upstream = upstream(&[("localhost", 1)]);
        assert!(upstream.has_names());
        assert!(upstream.next().is_none());
        upstream.resolve().await;
        assert!(upstream.next().is_some());
    }
}
