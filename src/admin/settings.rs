//! `[admin]`, resolved.

use std::net::SocketAddr;

#[derive(Clone, PartialEq)]
pub struct AdminSettings {
    pub listen: SocketAddr,
    /// Without one, `/v1` does not exist. The configuration refuses a non-loopback `listen` without one.
    pub token: Option<Box<str>>,
}
