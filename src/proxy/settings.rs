//! `[server]`, resolved.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::rate::RateLimit;
use crate::target::Ambiguous;
use crate::tls::settings::{ClientCertificates, TlsSettings};

#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Plain HTTP. Empty only where there is `tls`. Port 0 is allowed; the log names the port.
    pub listen: Vec<SocketAddr>,
    /// HTTPS.
    pub tls: Vec<TlsSettings>,
    /// Whether HTTP/2 is understood on plain listeners, from clients that know (RFC 9113 section 3.3).
    pub h2c: bool,
    /// Worker threads; 0 in the file has become the number of cores.
    pub threads: usize,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    /// Of all requests, by address; the only kind there is here.
    pub rate_limits: Vec<RateLimit>,
    pub ambiguous: Ambiguous,
    /// `drain`, default 30 s: how long running requests may take after SIGTERM.
    pub drain: Duration,
    /// How long connections are still accepted after readiness has turned false.
    pub shutdown_delay: Duration,
    /// Where a successor asks for the listening sockets.
    pub upgrade_socket: Option<PathBuf>,
}

impl ServerSettings {
    /// Every address that is listened on.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.iter().copied().chain(self.tls.iter().map(|listener| listener.listen))
    }

    /// Whether any listener asks clients for certificates.
    pub fn asks_for_certificates(&self) -> bool {
        self.tls.iter().any(|listener| listener.clients != ClientCertificates::NotAsked)
    }

    /// Whether this is a trusted proxy.
    pub fn trusts(&self, address: &IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub header_bytes: usize,
    pub headers: usize,
    pub body_bytes: u64,
    /// Bytes a second, on the whole, of a body that takes longer than `idle_timeout`. 0: any.
    pub body_min_rate: u64,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub connections: usize,
    /// Connections of one address (or IPv6 network) at a time; `usize::MAX` for as many as there may be.
    pub connections_per_address: usize,
    /// How many bits of an IPv6 address are one client's.
    pub ipv6_prefix: u8,
    /// Allowances of rate limits that are remembered.
    pub rate_keys: usize,
    /// Connections to upstreams that wait for their next request, all upstreams together.
    pub idle_upstreams: usize,
    /// HTTP/2 requests at a time on one connection.
    pub streams: u32,
}

/// `[forward_auth]`: proxies that ask here and forward by themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardAuth {
    /// Where they ask. Port 0 is allowed; the log names the port.
    pub listen: Vec<SocketAddr>,
    pub style: Style,
    /// Who may ask.
    pub allow: Vec<IpNet>,
}

impl ForwardAuth {
    /// Whether this address may ask.
    pub fn allows(&self, address: &IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(address))
    }
}

/// How a proxy asks. One for each gateway, by name: whoever read every style's headers would read those of one that its
/// proxy does not set, and so a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `auth_request`, with the headers that docs/forward-auth.md has it set.
    Nginx,
    /// `ForwardAuth`.
    Traefik,
    /// `forward_auth`.
    Caddy,
    /// `ext_authz` over HTTP: the question is the request itself.
    Envoy,
}

impl Style {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
        }
    }
}
