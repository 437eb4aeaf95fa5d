//! `[[server.tls]]`, resolved.

use std::net::SocketAddr;

use super::{Certificate, Roots};

/// One listener that speaks TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// Port 0 is allowed; the log names the port.
    pub listen: SocketAddr,
    /// Never empty. The first one is shown to whoever asks for a name that none has, unless `strict_sni`.
    pub certificates: Vec<Certificate>,
    pub clients: ClientCertificates,
    pub min_version: MinVersion,
    /// Whether HTTP/2 is offered (ALPN, RFC 7301).
    pub http2: bool,
    /// Whether a handshake for a name that no certificate has is refused.
    pub strict_sni: bool,
}

/// What is asked of clients.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientCertificates {
    /// Nothing; a certificate could not be sent.
    NotAsked,
    /// A certificate of these authorities, or none.
    Optional(Roots),
    /// A certificate of these authorities.
    Required(Roots),
}

impl ClientCertificates {
    /// The authorities, where any is believed.
    pub(super) fn roots(&self) -> Option<&Roots> {
        match self {
            Self::NotAsked => None,
            Self::Optional(roots) | Self::Required(roots) => Some(roots),
        }
    }
}

/// RFC 8996 leaves two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    Tls12,
    Tls13,
}
