//! Certificates and keys as operators have them: PEM files. What is wrong with one is found here, never in a handshake.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::time::Timestamp;

/// With which implementation listeners do their arithmetic. The faster of the two that are linked in, and the one that
/// offers a key exchange which stays secret once there are quantum computers (X25519MLKEM768).
pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// What is wrong with a file. Says nothing of its content.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BadCertificate {
    #[error(
        "there is no certificate in this file: expected PEM, beginning with `-----BEGIN CERTIFICATE-----`"
    )]
    NoCertificate,
    #[error("a certificate in this file cannot be read")]
    Malformed,
    #[error("this key is encrypted: there is nobody to ask for its password; decrypt it with `openssl pkey`")]
    Encrypted,
    #[error("there is no private key in this file: expected PEM, such as `-----BEGIN PRIVATE KEY-----`")]
    NoKey,
    #[error(
        "this kind of private key cannot be used: expected RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519"
    )]
    UnusableKey,
    #[error(
        "this key does not belong to the certificate; the server's own certificate comes first in its file, those that vouch for it follow"
    )]
    KeyMismatch,
}

/// A certificate with its chain and key, fit to be shown.
#[derive(Clone)]
pub struct Certificate {
    /// Lower case: `api.example.com` or `*.example.org`. What clients have to ask for to be shown this one.
    hosts: Vec<Box<str>>,
    key: Arc<CertifiedKey>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Certificate {
    /// Reads the chain from one file's content, the key from another's. Where `hosts` is `None`, they are the names in
    /// the certificate.
    pub fn read(chain: &[u8], key: &[u8], hosts: Option<Vec<Box<str>>>) -> Result<Self, Wrong> {
        let certificates = certificates(chain).map_err(Wrong::Chain)?;
        let own = certificates.first().ok_or(Wrong::Chain(BadCertificate::NoCertificate))?;
        let parsed = parse(own).map_err(Wrong::Chain)?;
        let validity = parsed.validity();
        let not_before = Timestamp::from_seconds(validity.not_before.timestamp());
        let not_after = Timestamp::from_seconds(validity.not_after.timestamp());
        let hosts = hosts.unwrap_or_else(|| names(&parsed));
        let signing = private_key(key).map_err(Wrong::Key)?;
        let certified = CertifiedKey::new(certificates, signing);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(Wrong::Key(BadCertificate::KeyMismatch)),
            Err(_) => return Err(Wrong::Chain(BadCertificate::Malformed)),
        }
        Ok(Self { hosts, key: Arc::new(certified), not_before, not_after })
    }

    /// Whom it is shown to.
    pub fn hosts(&self) -> &[Box<str>] {
        &self.hosts
    }

    /// What metrics call it: its first host.
    pub fn label(&self) -> &str {
        self.hosts.first().map_or("", |host| host)
    }

    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether clients that check names will believe that this is `host`.
    pub fn covers(&self, host: &str) -> bool {
        let own = self.key.cert.first().and_then(|own| parse(own).ok());
        let parent = host.split_once('.').map_or("", |(_, parent)| parent);
        own.is_some_and(|own| {
            names(&own)
                .iter()
                .any(|name| **name == *host || name.strip_prefix("*.").is_some_and(|above| above == parent))
        })
    }

    /// Both kinds of key for one host are one choice more, not a clash.
    pub fn same_algorithm(&self, other: &Self) -> bool {
        self.key.key.algorithm() == other.key.key.algorithm()
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// A key that is not the same does not fit the same certificate.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.hosts == other.hosts && self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// In which of the two files the fault lies.
#[derive(Debug, PartialEq)]
pub enum Wrong {
    Chain(BadCertificate),
    Key(BadCertificate),
}

/// Authorities whose certificates clients may show.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads every certificate of a file.
    pub fn read(content: &[u8]) -> Result<Self, BadCertificate> {
        let certificates = certificates(content)?;
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|_| BadCertificate::Malformed)?;
        }
        Ok(Self { store: Arc::new(store), certificates })
    }

    pub(super) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("count", &self.certificates.len()).finish_non_exhaustive()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadCertificate> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| BadCertificate::Malformed)?;
    if found.is_empty() { Err(BadCertificate::NoCertificate) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<Arc<dyn rustls::sign::SigningKey>, BadCertificate> {
    let holds = |text: &str| pem.windows(text.len()).any(|window| window == text.as_bytes());
    if holds("-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds("Proc-Type: 4,ENCRYPTED") {
        return Err(BadCertificate::Encrypted);
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| BadCertificate::NoKey)?;
    provider().key_provider.load_private_key(key).map_err(|_| BadCertificate::UnusableKey)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, BadCertificate> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(_) => Err(BadCertificate::Malformed),
    }
}

/// The DNS names of a certificate. Its common name has not counted since RFC 6125.
fn names(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = alternatives.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    dns.collect()
}
