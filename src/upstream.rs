//! The services in front of which Portcullis stands.

use std::sync::Arc;
use std::time::Duration;

/// One group of interchangeable servers, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    pub name: Arc<str>,
    /// Never empty. Chosen in turn, by weight.
    pub servers: Vec<ServerAddress>,
    pub timeouts: Timeouts,
    /// How many other attempts are made when no connection can be had; nothing has been sent then.
    pub retries: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServerAddress {
    /// IP address or DNS name; names are resolved in the background.
    pub host: Box<str>,
    pub port: u16,
    /// At least 1.
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    pub read: Duration,
    pub write: Duration,
    pub idle: Duration,
}
