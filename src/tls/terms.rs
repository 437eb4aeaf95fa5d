//! What a listener agrees to with clients, and the handshake that does so.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::tls::{ServerTlsStream, TlsAcceptor};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::certificate::provider;
use super::choose::Chooser;
use super::settings::{ClientCertificates, MinVersion, TlsSettings};

/// Why terms cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The versions do not fit the provider, or there is no randomness.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The authorities for clients.
    #[error("client certificates cannot be checked")]
    Clients(#[from] VerifierBuilderError),
}

/// One set of certificates, versions and demands. Immutable: a connection keeps the ones it began with.
pub struct Terms {
    settings: TlsSettings,
    acceptor: TlsAcceptor,
    asks_for_certificates: bool,
}

impl Terms {
    /// Made anew, no session can be resumed that was agreed on under others: who was let in by an authority that is no
    /// longer believed has to show a certificate again.
    pub fn new(settings: &TlsSettings) -> Result<Self, TermsError> {
        let provider = Arc::new(provider());
        let versions: &[&'static SupportedProtocolVersion] = match settings.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(versions)?;
        let verifier = |roots: &super::Roots| {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots.store()), Arc::clone(&provider))
        };
        let verifier: Option<Arc<dyn ClientCertVerifier>> = match &settings.clients {
            ClientCertificates::NotAsked => None,
            ClientCertificates::Optional(roots) => Some(verifier(roots).allow_unauthenticated().build()?),
            ClientCertificates::Required(roots) => Some(verifier(roots).build()?),
        };
        let asks_for_certificates = verifier.is_some();
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let chooser = Chooser::new(&settings.certificates, settings.strict_sni);
        let mut config = builder.with_cert_resolver(Arc::new(chooser));
        // HTTP/1.1 always: WebSockets need it.
        let offered: &[&[u8]] = if settings.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        // Sessions are kept by clients, sealed: nothing here grows with their number. Early data, which can be replayed,
        // stays off.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self {
            settings: settings.clone(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            asks_for_certificates,
        })
    }
}

/// A listener whose terms can be replaced while it serves.
pub struct Listener {
    terms: ArcSwap<Terms>,
    replaced: Notify,
}

impl Listener {
    pub fn new(terms: Terms) -> Self {
        Self { terms: ArcSwap::from_pointee(terms), replaced: Notify::new() }
    }

    /// Whether its terms are these already; then sessions agreed on under them can still be resumed.
    pub fn agrees_to(&self, settings: &TlsSettings) -> bool {
        self.terms.load().settings == *settings
    }

    /// From the next handshake on.
    pub fn replace(&self, terms: Terms) {
        self.terms.store(Arc::new(terms));
        self.replaced.notify_waiters();
    }

    /// Shakes hands. How long that may take is up to the caller.
    pub async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        tcp: S,
    ) -> Result<(ServerTlsStream<S>, Secured), HandshakeError> {
        let terms = self.terms.load_full();
        let stream = terms.acceptor.accept(tcp).await.map_err(|error| HandshakeError::of(&error))?;
        let (_, session) = stream.get_ref();
        let secured = Secured {
            server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
            client_certificate: session.peer_certificates().is_some_and(|shown| !shown.is_empty()),
            asks_for_certificates: terms.asks_for_certificates,
            under: Some(Under { listener: Arc::clone(self), terms: Arc::clone(&terms) }),
        };
        Ok((stream, secured))
    }
}

/// What a handshake has established.
#[derive(Clone, Debug)]
pub struct Secured {
    /// The name the client asked for (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// Whether the client has shown a certificate of a configured authority.
    pub client_certificate: bool,
    /// Whether the listener asked for one.
    pub asks_for_certificates: bool,
    /// Under which terms; none in a test.
    pub under: Option<Under>,
}

/// The terms of a connection, and who may have others by now.
#[derive(Clone)]
pub struct Under {
    listener: Arc<Listener>,
    terms: Arc<Terms>,
}

impl std::fmt::Debug for Under {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Under(…)")
    }
}

impl Secured {
    /// Whether a handshake would not come to this any more: the authorities have changed for which a certificate was
    /// believed, or one is required and none was shown. However long a connection is kept, it has no more rights than a new one.
    pub fn is_outdated(&self) -> bool {
        let Some(Under { listener, terms }) = &self.under else { return false };
        let now = listener.terms.load();
        if Arc::ptr_eq(&now, terms) {
            return false;
        }
        match &now.settings.clients {
            clients if self.client_certificate => clients.roots() != terms.settings.clients.roots(),
            ClientCertificates::Required(_) => true,
            ClientCertificates::NotAsked | ClientCertificates::Optional(_) => false,
        }
    }

    /// Waits until it is.
    pub async fn outdated(&self) {
        let Some(Under { listener, .. }) = &self.under else { return std::future::pending().await };
        loop {
            let mut replaced = std::pin::pin!(listener.replaced.notified());
            // Before looking, so that nothing slips between.
            replaced.as_mut().enable();
            if self.is_outdated() {
                return;
            }
            replaced.await;
        }
    }
}

/// How a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Plain HTTP was spoken.
    Plaintext,
    /// It took too long.
    Timeout,
    /// The client went away.
    Closed,
    /// The client has nothing in common with the listener: version, cipher, protocol.
    Incompatible,
    /// The client's certificate: none, or not a good one.
    ClientCertificate,
    /// The client refused, most often because it does not believe the certificate it was shown.
    RefusedByClient,
    /// `strict_sni`, and no certificate has the name.
    UnknownName,
    /// Not TLS, or not as it should be.
    Malformed,
}

impl HandshakeError {
    pub const WORDS: [&'static str; 8] = [
        "plaintext",
        "timeout",
        "closed",
        "incompatible",
        "client_certificate",
        "refused_by_client",
        "unknown_name",
        "malformed",
    ];

    /// The word of metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::RefusedByClient => "refused_by_client",
            Self::UnknownName => "unknown_name",
            Self::Malformed => "malformed",
        }
    }

    /// tokio-rustls wraps the error of rustls.
    fn of(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            None => Self::Closed,
            Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
                Self::Incompatible
            }
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::ClientCertificate
            }
            Some(rustls::Error::AlertReceived(
                AlertDescription::UserCanceled | AlertDescription::CloseNotify,
            )) => Self::Closed,
            Some(rustls::Error::AlertReceived(_)) => Self::RefusedByClient,
            // The one `General` of the server's side: the resolver had nothing.
            Some(rustls::Error::General(_)) => Self::UnknownName,
            Some(_) => Self::Malformed,
        }
    }
}
