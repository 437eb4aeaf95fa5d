//! `[admin]`, resolved.

use std::net::SocketAddr;

/// Bytes of a control token from which on nobody finds it by trying.
pub const UNGUESSABLE: usize = 16;

#[derive(Clone, PartialEq)]
pub struct AdminSettings {
    pub listen: SocketAddr,
    /// Without one, `/v1` does not exist. The configuration refuses a non-loopback `listen` without one.
    pub token: Option<Box<str>>,
}
