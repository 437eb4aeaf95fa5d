//! What a Redis that speaks TLS is given, and those who speak to it.

use std::path::PathBuf;

use super::pki::{self, Shelf};

/// An authority, and what it certifies, in files; dropped, they are gone.
pub struct Authority {
    shelf: Shelf,
}

impl Authority {
    /// Makes `ca.pem`, and `NAME.crt` with `NAME.key` for `server` (of 127.0.0.1 and localhost) and for `client`.
    pub fn new() -> Self {
        let (authority, shelf) = (pki::Authority::new(), Shelf::new());
        shelf.put_authority("ca.pem", &authority);
        shelf.put("server", &authority.node(&["localhost", "127.0.0.1"]));
        shelf.put("client", &authority.client());
        Self { shelf }
    }

    /// For a Redis, or a sentinel, that speaks TLS on this port and asks nobody for a certificate.
    pub fn options(&self, port: u16) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let [certificate, key, ca] = ["server.crt", "server.key", "ca.pem"].map(path);
        let named = [
            ("port", port.to_string()),
            ("cert-file", certificate),
            ("key-file", key),
            ("ca-cert-file", ca),
            ("auth-clients", "no".to_owned()),
        ];
        named.into_iter().flat_map(|(option, value)| [format!("--tls-{option}"), value]).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.shelf.path().join(name)
    }
}
