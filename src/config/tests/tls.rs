//! `[[server.tls]]`: what is wrong with a file is said at its place, before anybody shakes hands.

use super::*;
use crate::route::ClientCertificate;
use crate::tls::settings::{ClientCertificates, MinVersion};

/// A certificate for these names, and its key.
pub fn pair(names: &[&str]) -> (String, String) {
    pair_with(names, |_| {})
}

fn pair_with(names: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    change(&mut params);
    let key = rcgen::KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// A directory with `a.crt` and `a.key` for `a.test`, and more.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        files.pair("a", &pair(&["a.test", "*.a.test"]));
        files
    }

    fn pair(&self, name: &str, (certificate, key): &(String, String)) {
        self.put(&format!("{name}.crt"), certificate);
        self.put(&format!("{name}.key"), key);
    }

    fn put(&self, name: &str, content: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("a file");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a file of ours");
    }

    fn read(&self, text: &str) -> Result<Checked, Problems> {
        Config::parse(&format!("{text}\n{UPSTREAM}{ROUTE}"), "gateway.toml", self.0.path(), &environment)
    }

    /// A listener with these certificates and lines.
    fn listener(&self, certificates: &str, lines: &str) -> Result<Checked, Problems> {
        self.read(&format!(
            "[[server.tls]]\nlisten = \"127.0.0.1:8443\"\ncertificates = [{certificates}]\n{lines}"
        ))
    }

    fn good(&self, certificates: &str, lines: &str) -> Checked {
        self.listener(certificates, lines).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The one problem holds `message`.
    #[track_caller]
    fn refused(&self, certificates: &str, lines: &str, message: &str) {
        let told = told(self.listener(certificates, lines));
        assert!(told.len() == 1 && told[0].contains(message), "{certificates} {lines}\n{told:#?}");
    }

    fn warned(&self, certificates: &str) -> Vec<String> {
        let checked = self.good(certificates, "");
        checked.warnings.list().iter().map(|warning| warning.message.clone()).collect()
    }
}

const A: &str = "{ cert = \"a.crt\", key = \"a.key\" }";

#[test]
fn a_listener_needs_an_address_and_a_certificate_and_the_rest_has_its_default() {
    let files = Files::new();
    let server = files.good(A, "").config.server;
    assert!(server.listen.is_empty(), "TLS alone is TLS alone");
    assert!(!server.h2c);
    let tls = &server.tls[0];
    assert_eq!((tls.min_version, tls.http2, tls.strict_sni), (MinVersion::Tls12, true, false));
    assert_eq!(tls.clients, ClientCertificates::NotAsked);
    assert_eq!(tls.certificates[0].hosts().join(" "), "a.test *.a.test", "the names in it");

    let both = files.read(&format!("[server]\nlisten = [\"127.0.0.1:80\"]\n[[server.tls]]\nlisten = \"127.0.0.1:443\"\ncertificates = [{A}]"));
    assert_eq!(both.unwrap_or_else(|it| panic!("{it}")).config.server.addresses().count(), 2);
    let same = files.read(&format!("[server]\nlisten = [\"127.0.0.1:443\"]\n[[server.tls]]\nlisten = \"127.0.0.1:443\"\ncertificates = [{A}]"));
    assert_eq!(told(same), ["4:10: this address is listed twice"]);
    assert_eq!(
        told(with("[server]\nlisten = []")),
        ["2:1: without `[[server.tls]]` this list must not be empty"]
    );
    let admin = files.read(&format!("[[server.tls]]\nlisten = \"0.0.0.0:9900\"\ncertificates = [{A}]"));
    assert!(told(admin)[0].contains("the server listens on this address already"));

    assert!(
        told(files.read("[[server.tls]]\nlisten = \"127.0.0.1:443\""))[0].contains("needs `certificates`")
    );
    assert!(
        told(files.read(&format!("[[server.tls]]\ncertificates = [{A}]")))[0].contains("`listen` is missing")
    );
    files.refused("{ cert = \"a.crt\" }", "", "`key` is missing");
    files.refused(A, "min_versoin = \"1.3\"", "did you mean `min_version`?");
    files.refused(A, "min_version = \"1.1\"", "expected one of `1.2`, `1.3`");
    files.refused(
        "{ certificate = \"a.crt\", cert = \"a.crt\", key = \"a.key\" }",
        "",
        "unknown key `certificate`",
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_where_the_file_is_named() {
    let files = Files::new();
    files.pair("b", &pair(&["b.test"]));
    files.put("empty.crt", "");
    files.put("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    files.put(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    files.put("odd.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let entry = |cert: &str, key: &str| format!("{{ cert = \"{cert}\", key = \"{key}\" }}");
    for (cert, key, message) in [
        ("gone.crt", "a.key", "3:26: this file cannot be read"),
        ("a.crt", "gone.key", "3:41: this file cannot be read"),
        ("empty.crt", "a.key", "3:26: there is no certificate in this file"),
        ("a.key", "a.key", "3:26: there is no certificate in this file"),
        ("broken.crt", "a.key", "3:26: a certificate in this file cannot be read"),
        ("a.crt", "a.crt", "3:41: there is no private key in this file"),
        ("a.crt", "locked.key", "3:41: this key is encrypted"),
        ("a.crt", "odd.key", "3:41: this kind of private key cannot be used"),
        ("a.crt", "b.key", "3:41: this key does not belong to the certificate"),
    ] {
        files.refused(&entry(cert, key), "", message);
    }
    // Nothing of a key is ever said.
    let (_, key) = pair(&["c.test"]);
    files.put("c.key", &key);
    let said = files.listener(&entry("a.crt", "c.key"), "").err().expect("a mismatch").to_string();
    assert!(
        key.lines().filter(|line| line.len() > 20 && !line.starts_with('-')).all(|line| !said.contains(line))
    );
}

#[test]
fn hosts_are_names_and_each_has_one_certificate_of_a_kind() {
    let files = Files::new();
    files.pair("b", &pair(&["a.test"]));
    let entry = |hosts: &str, name: &str| {
        format!("{{ hosts = [{hosts}], cert = \"{name}.crt\", key = \"{name}.key\" }}")
    };
    let read = files.good(&entry("\"A.Test\", \"*.a.test\"", "a"), "").config;
    assert_eq!(read.server.tls[0].certificates[0].hosts().join(" "), "a.test *.a.test");
    for bad in ["a.test:443", "127.0.0.1", "*", "a.*.test", "", "https://a.test"] {
        files.refused(&entry(&format!("\"{bad}\""), "a"), "", "expected the name of a host");
    }
    files.refused(&format!("{A}, {}", entry("\"a.test\"", "b")), "", "is for `a.test` already");
    // Keys of different kinds are a choice for the client.
    let rsa = include_str!("../../../tests/keys/test-only-rsa.pem");
    let key = rcgen::KeyPair::from_pem(rsa).expect("a key");
    let certificate =
        rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("names").self_signed(&key);
    files.pair("rsa", &(certificate.expect("a certificate").pem(), rsa.to_owned()));
    assert_eq!(
        files.good(&format!("{A}, {}", entry("\"a.test\"", "rsa")), "").config.server.tls[0]
            .certificates
            .len(),
        2
    );
}

#[test]
fn what_clients_will_complain_of_is_warned_of() {
    let files = Files::new();
    assert!(files.warned(A).is_empty());
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    files.pair(
        "old",
        &pair_with(&["a.test"], |params| (params.not_before, params.not_after) = (year(2019), year(2020))),
    );
    files.pair(
        "young",
        &pair_with(&["a.test"], |params| (params.not_before, params.not_after) = (year(2200), year(2201))),
    );
    files.pair("nameless", &pair(&[]));
    let entry = |name: &str| format!("{{ cert = \"{name}.crt\", key = \"{name}.key\" }}");
    let warned = |name: &str| files.warned(&entry(name)).join(" ");
    assert!(warned("old").contains("this certificate has expired"));
    assert!(warned("young").contains("is not valid yet"));
    assert!(warned("nameless").contains("names no host"));
    let other = "{ hosts = [\"a.test\", \"x.a.test\", \"x.y.a.test\", \"b.test\"], cert = \"a.crt\", key = \"a.key\" }";
    let warnings = files.warned(other);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("not for `x.y.a.test`") && warnings[1].contains("not for `b.test`"));
}

#[test]
fn clients_are_asked_by_authorities_and_routes_ask_only_where_a_listener_does() {
    let files = Files::new();
    files.put("clients.pem", &pair(&["authority"]).0);
    let clients = |lines: &str| files.good(A, lines).config.server.tls[0].clients.clone();
    assert!(matches!(clients("client_ca = \"clients.pem\""), ClientCertificates::Required(_)));
    let optional = "client_ca = \"clients.pem\"\nclient_auth = \"optional\"";
    assert!(matches!(clients(optional), ClientCertificates::Optional(_)));
    assert_eq!(files.good(A, optional).files.len(), 3, "all are watched");
    files.refused(A, "client_auth = \"optional\"", "`client_auth` needs `client_ca`");
    files.refused(A, "client_ca = \"a.key\"", "there is no certificate in this file");
    let route = "[[routes]]\npath = \"/inner\"\nupstream = \"app\"\nauth = \"public\"\nclient_certificate = \"required\"\n";
    files.refused(A, route, "no listener asks for client certificates");
    let read = files.good(A, &format!("{optional}\n{route}")).config;
    assert_eq!(read.routes[0].client_certificate, ClientCertificate::Required);
    assert_eq!(read.routes[1].client_certificate, ClientCertificate::Optional);
}
