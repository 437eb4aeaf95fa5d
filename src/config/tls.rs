//! `[[server.tls]]`: listeners with certificates. Every file is read here, so that a bad one is refused with its place.

use std::time::Duration;

use super::kinds::{boolean, file, list, parsed, placed, secret_file, socket, word};
use super::problem::Span;
use super::reader::{Placed, Reader, Table};
use super::upstreams::is_host_name;
use crate::time::Timestamp;
use crate::tls::certificate::Wrong;
use crate::tls::settings::{ClientCertificates, MinVersion, TlsSettings};
use crate::tls::{Certificate, Roots};

/// Renewals come weeks before the end; who is this near it has missed one.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// One `[[server.tls]]`, with the place of its address.
pub fn listener(table: &mut Table<'_>) -> Option<Placed<TlsSettings>> {
    let listen = table.need("listen", placed(socket));
    let certificates = table.tables("certificates", None, certificate);
    if certificates.is_empty() {
        let message =
            "a listener with TLS needs `certificates`, such as [{ cert = \"api.crt\", key = \"api.key\" }]";
        table.reader.problem(&table.at, message);
    }
    let certificates: Option<Vec<_>> = certificates.into_iter().map(|one| one.value).collect();
    distinct(table.reader, certificates.as_deref().unwrap_or_default());
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    let min_version = table.or("min_version", word(&versions), "1.2");
    let http2 = table.or("http2", boolean, true);
    let strict_sni = table.or("strict_sni", boolean, false);
    let clients = clients(table);
    let certificates = certificates?.into_iter().map(|one| one.value).collect::<Vec<_>>();
    let Placed { at, value: listen } = listen?;
    let settings = TlsSettings {
        listen,
        certificates: if certificates.is_empty() { return None } else { certificates },
        clients: clients?,
        min_version: min_version?,
        http2: http2?,
        strict_sni: strict_sni?,
    };
    Some(Placed { at, value: settings })
}

/// `client_ca` and `client_auth`.
fn clients(table: &mut Table<'_>) -> Option<ClientCertificates> {
    let written = table.has("client_ca");
    let roots = table.maybe("client_ca", placed(file)).map(|Placed { at, value }| {
        let roots = Roots::read(&value);
        roots.map_err(|error| table.reader.problem(&at, error.to_string())).ok()
    });
    if !written {
        if table.has("client_auth") {
            let message =
                "`client_auth` needs `client_ca`: the authorities whose certificates clients may show";
            table.reader.problem(&table.place("client_auth"), message);
        }
        table.exists("client_auth");
        return Some(ClientCertificates::NotAsked);
    }
    type Make = fn(Roots) -> ClientCertificates;
    let words: [(&str, Make); 2] =
        [("required", ClientCertificates::Required), ("optional", ClientCertificates::Optional)];
    let make = table.or("client_auth", word(&words), "required");
    Some(make?(roots??))
}

fn certificate(table: &mut Table<'_>) -> Option<Placed<Certificate>> {
    let written = table.has("hosts");
    let hosts = table.maybe("hosts", list(placed(parsed(host))));
    let cert = table.need("cert", placed(file));
    let key = table.need("key", placed(secret_file));
    let (Placed { at: cert_at, value: cert }, Placed { at: key_at, value: key }) = (cert?, key?);
    let named = if written { Some(hosts?) } else { None };
    let hosts = named.as_ref().map(|hosts| hosts.iter().map(|host| host.value.clone()).collect());
    let read = Certificate::read(&cert, &key, hosts);
    let read = read.map_err(|wrong| match wrong {
        Wrong::Chain(error) => table.reader.problem(&cert_at, error.to_string()),
        Wrong::Key(error) => table.reader.problem(&key_at, error.to_string()),
    });
    let certificate = read.ok()?;
    let shown: Vec<_> = certificate.hosts().iter().map(|host| toml::Value::from(&**host)).collect();
    table.in_effect("hosts", shown);
    warnings(table.reader, &certificate, &cert_at, named.as_deref().unwrap_or_default());
    Some(Placed { at: cert_at, value: certificate })
}

/// What a gateway can serve with, and clients will complain of.
fn warnings(reader: &Reader<'_>, certificate: &Certificate, at: &Span, named: &[Placed<Box<str>>]) {
    let now = Timestamp::now();
    if certificate.not_after() <= now {
        reader.warn(at, "this certificate has expired: clients will refuse it");
    } else if certificate.not_after() <= now.plus(SOON) {
        reader.warn(at, "this certificate expires within a week");
    }
    if certificate.not_before() > now {
        reader.warn(at, "this certificate is not valid yet: clients will refuse it");
    }
    if certificate.hosts().is_empty() {
        reader.warn(
            at,
            "this certificate names no host, and clients will refuse it; `hosts` says whom it is shown to",
        );
    }
    for Placed { at, value } in named.iter().filter(|host| !certificate.covers(&host.value)) {
        reader.warn(
            at,
            format!("the certificate is not for `{value}`: clients that ask for it will refuse it"),
        );
    }
}

/// Two certificates for one host are a choice only where their keys are of different kinds.
fn distinct(reader: &Reader<'_>, certificates: &[Placed<Certificate>]) {
    for (index, Placed { at, value }) in certificates.iter().enumerate() {
        let clash = certificates.iter().take(index).find_map(|other| {
            let shared = value.hosts().iter().find(|host| other.value.hosts().contains(host));
            shared.filter(|_| value.same_algorithm(&other.value))
        });
        if let Some(host) = clash {
            reader.problem(at, format!("another certificate with this kind of key is for `{host}` already"));
        }
    }
}

/// A name that clients can ask for: no address, no port.
fn host(text: &str) -> Result<Box<str>, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let address = name.parse::<std::net::IpAddr>().is_ok();
    if address || !is_host_name(name) {
        return Err("expected the name of a host, such as \"api.example.com\" or \"*.example.org\"".into());
    }
    Ok(text.to_ascii_lowercase().into())
}
