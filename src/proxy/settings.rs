//! `[server]`, resolved.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::target::Ambiguous;

#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Never empty. Port 0 is allowed; the log names the port.
    pub listen: Vec<SocketAddr>,
    /// Worker threads; 0 in the file has become the number of cores.
    pub threads: usize,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    pub ambiguous: Ambiguous,
    /// `drain`, default 30 s: how long running requests may take after SIGTERM.
    pub drain: Duration,
}

impl ServerSettings {
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
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub connections: usize,
    /// Connections to upstreams that wait for their next request, all upstreams together.
    pub idle_upstreams: usize,
}
