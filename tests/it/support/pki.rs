//! An authority that vouches for servers and clients, and the files that a gateway is given of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::unique;

/// A certificate authority of one test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
    pub pem: String,
}

/// A certificate with its key.
pub struct Identity {
    pub der: CertificateDer<'static>,
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, unique("authority-"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), der, pem }
    }

    /// For a server with these names.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, |_| {})
    }

    /// The same with an RSA key; always the same one, for making them takes seconds.
    pub fn rsa_server(&self, names: &[&str]) -> Identity {
        let key = KeyPair::from_pem(include_str!("../../keys/test-only-rsa.pem")).unwrap();
        self.sign_with(key, names, ExtendedKeyUsagePurpose::ServerAuth, |_| {})
    }

    /// Was good until 2020.
    pub fn expired(&self, names: &[&str]) -> Identity {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        })
    }

    pub fn client(&self) -> Identity {
        self.sign(&[], ExtendedKeyUsagePurpose::ClientAuth, |_| {})
    }

    /// For who is either, as the nodes of a cluster are to each other.
    pub fn node(&self, names: &[&str]) -> Identity {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, |params| {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        })
    }

    fn sign(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        self.sign_with(KeyPair::generate().unwrap(), names, usage, change)
    }

    fn sign_with(
        &self,
        key: KeyPair,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, unique("name-"));
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { der: certificate.der().clone(), cert: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Identity {
    /// `NAME.crt` and `NAME.key` in this directory, each put in place at once.
    pub fn write(&self, directory: &Path, name: &str) {
        for (ending, content) in [("crt", &self.cert), ("key", &self.key)] {
            let path = directory.join(format!("{name}.{ending}"));
            fs::write(path.with_extension("new"), content).unwrap();
            fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A directory of certificates, and how a configuration speaks of them.
pub struct Shelf(tempfile::TempDir);

impl Shelf {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("portcullis-pki-").tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn put(&self, name: &str, identity: &Identity) {
        identity.write(self.path(), name);
    }

    pub fn put_authority(&self, name: &str, authority: &Authority) {
        fs::write(self.path().join(name), &authority.pem).unwrap();
    }

    /// `{ hosts, cert, key }`
    pub fn entry(&self, name: &str, hosts: &[&str]) -> String {
        let path = self.path().join(name);
        format!("{{ hosts = {hosts:?}, cert = \"{0}.crt\", key = \"{0}.key\" }}", path.display())
    }

    /// `[[server.tls]]` with these entries and more lines.
    pub fn listener(&self, entries: &[String], more: &str) -> String {
        let entries = entries.join(", ");
        format!("[[server.tls]]\nlisten = \"127.0.0.1:0\"\ncertificates = [{entries}]\n{more}\n")
    }
}
