//! A client that speaks TLS as it is told to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use super::DEADLINE;
use super::pki::{Authority, Identity};
use super::raw::{Duplex, Raw, Response};

static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static OLD: [&SupportedProtocolVersion; 1] = [&TLS12];

/// How a client shakes hands.
#[derive(Clone)]
pub struct Client<'a> {
    authority: Option<&'a Authority>,
    identity: Option<&'a Identity>,
    alpn: &'a [&'a [u8]],
    versions: &'static [&'static SupportedProtocolVersion],
    only_rsa: bool,
}

impl<'a> Client<'a> {
    /// Believes any certificate.
    pub fn blind() -> Self {
        Self { authority: None, identity: None, alpn: &[], versions: &BOTH, only_rsa: false }
    }

    /// Believes certificates of this authority, for the name it asks for.
    pub fn of(authority: &'a Authority) -> Self {
        Self { authority: Some(authority), ..Self::blind() }
    }

    pub fn showing(self, identity: &'a Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }

    pub fn alpn(self, alpn: &'a [&'a [u8]]) -> Self {
        Self { alpn, ..self }
    }

    pub fn tls12(self) -> Self {
        Self { versions: &OLD, ..self }
    }

    /// As clients do that are older than ECDSA.
    pub fn only_rsa(self) -> Self {
        Self { only_rsa: true, ..self }
    }

    pub fn config(&self) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(self.versions).unwrap();
        let builder = match self.authority {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone()).unwrap();
                builder.with_root_certificates(roots)
            }
            None => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Blind(provider, self.only_rsa)))
            }
        };
        let mut config = match self.identity {
            Some(identity) => {
                builder.with_client_auth_cert(vec![identity.der.clone()], identity.private_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Shakes hands, asking for this name.
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Https> {
        Https::connect(Arc::new(self.config()), address, name)
    }

    /// One request on a connection of its own.
    pub fn get(&self, address: SocketAddr, host: &str, path: &str, headers: &[&str]) -> io::Result<Response> {
        let mut connection = self.connect(address, host)?.raw();
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"));
        for header in headers {
            connection.send(format!("{header}\r\n"));
        }
        connection.send("\r\n").try_response()
    }
}

/// A connection whose handshake is done.
pub struct Https(StreamOwned<ClientConnection, TcpStream>);

impl Https {
    pub fn connect(config: Arc<ClientConfig>, address: SocketAddr, name: &str) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(config, name).unwrap();
        let tcp = TcpStream::connect_timeout(&address, DEADLINE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let mut stream = StreamOwned::new(session, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    /// What it was shown.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone()
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.conn.alpn_protocol()
    }

    pub fn resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    pub fn raw(self) -> Raw {
        Raw::over(Box::new(self))
    }
}

impl Read for Https {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Https {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Duplex for Https {
    fn tcp(&self) -> &TcpStream {
        &self.0.sock
    }
}

/// Believes whoever holds the key of the certificate it shows.
#[derive(Debug)]
struct Blind(Arc<CryptoProvider>, bool);

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.retain(|scheme| !self.1 || format!("{scheme:?}").starts_with("RSA"));
        schemes
    }
}
