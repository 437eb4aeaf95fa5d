//! `tls` of an upstream: files are read and looked at here, so that nothing is wrong with them when a connection is made.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::kinds::{boolean, file, parsed, placed, secret_file};
use super::reader::{Placed, Reader, Table};
use crate::upstream::settings::{ClientCertificate, Tls, TlsName, Trust};

pub fn tls(table: &mut Table<'_>) -> Option<Tls> {
    let name = table.maybe("sni", parsed(server_name));
    let named = table.has("sni");
    let ca = table.maybe("ca", placed(file));
    let cert = table.maybe("cert", placed(file));
    let key = table.maybe("key", placed(secret_file));
    let verify = table.or("verify", boolean, true);
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if table.has(one) && !table.has(other) {
            table.reader.problem(&table.place(one), format!("`{one}` needs `{other}` beside it"));
            return None;
        }
    }
    let trust = match (verify?, table.has("ca")) {
        (true, true) => Trust::Only(authorities(table.reader, ca?)?),
        (true, false) => Trust::System,
        (false, false) => {
            let message = "nobody checks who answers: whoever is on the way reads and changes everything, tokens included";
            table.reader.warn(&table.place("verify"), message);
            Trust::Nobody
        }
        (false, true) => {
            table.reader.problem(
                &table.place("verify"),
                "`ca` says whom to trust, and `verify = false` that it does not matter",
            );
            return None;
        }
    };
    let client = match table.has("cert") {
        true => Some(client(table.reader, cert?, key?)?),
        false => None,
    };
    let name = if named { TlsName::Given(name?) } else { TlsName::Server };
    Some(Tls { name, trust, client })
}

/// Whether a certificate can be checked against this name.
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

fn server_name(text: &str) -> Result<Box<str>, String> {
    match is_server_name(text) {
        true => Ok(text.into()),
        false => Err("expected the name in the servers' certificate, such as \"app.internal\"".into()),
    }
}

/// Authorities that connections can be checked against.
fn authorities(reader: &Reader<'_>, file: Placed<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let chain = certificates(reader, &file)?;
    let mut store = rustls::RootCertStore::empty();
    for der in &chain {
        if let Err(error) = store.add(CertificateDer::from(der.as_slice())) {
            reader.problem(&file.at, format!("a certificate in this file cannot be trusted: {error}"));
            return None;
        }
    }
    Some(chain)
}

fn client(reader: &Reader<'_>, cert: Placed<Vec<u8>>, key: Placed<Vec<u8>>) -> Option<ClientCertificate> {
    let chain = certificates(reader, &cert)?;
    let Ok(private) = PrivateKeyDer::from_pem_slice(&key.value) else {
        reader.problem(&key.at, "this file holds no private key in PEM");
        return None;
    };
    let kept = private.secret_der().to_vec();
    let shown = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let provider = rustls::crypto::ring::default_provider();
    if let Err(error) = CertifiedKey::from_der(shown, private, &provider) {
        reader.problem(&key.at, format!("this key and the certificate cannot be used together: {error}"));
        return None;
    }
    // The encodings are told apart by what is in them once more when a connection is made.
    if PrivateKeyDer::try_from(kept.as_slice()).is_err() {
        reader.problem(&key.at, "this key is in an encoding that is not known; PKCS#8 is");
        return None;
    }
    Some(ClientCertificate { chain, key: kept })
}

/// Every certificate of a PEM file, each readable to the parser that will read it again when it is used.
fn certificates(reader: &Reader<'_>, file: &Placed<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.value).collect();
    let read = read.unwrap_or_default();
    let certificates: Vec<Vec<u8>> = read.into_iter().map(|der| der.as_ref().to_vec()).collect();
    let readable = |der: &Vec<u8>| X509Certificate::from_der(der).is_ok();
    if certificates.is_empty() || !certificates.iter().all(readable) {
        reader.problem(&file.at, "this file holds no certificates in PEM, or one that is damaged");
        return None;
    }
    Some(certificates)
}
