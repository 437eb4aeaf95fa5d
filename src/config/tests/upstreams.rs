//! `[[upstreams]]`, and what routes say of time.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::upstream::UpstreamSettings;
use crate::upstream::settings::{Balance, HashBy, Health, Probe, TlsName, Transport, Trust};

fn written(lines: &str) -> String {
    format!("[[upstreams]]\nname = \"app\"\nservers = [\"app.internal:3000\"]\n{lines}\n{ROUTE}")
}

fn read(lines: &str) -> UpstreamSettings {
    match parse(&written(lines)) {
        Ok(checked) => checked.config.upstreams.into_iter().next().unwrap(),
        Err(problems) => panic!("{problems}"),
    }
}

/// The one problem of an upstream with these lines; they begin on line 4.
#[track_caller]
fn wrong(lines: &str, message: &str) {
    let told = told(parse(&written(lines)));
    assert!(told.len() == 1 && told[0].contains(message), "{lines}\n{told:#?}");
}

#[test]
fn what_is_not_written_is_plain_and_in_turn() {
    let upstream = read("");
    assert_eq!(
        (upstream.balance, upstream.transport, upstream.http2),
        (Balance::RoundRobin, Transport::Plain, false)
    );
    assert_eq!((upstream.health, upstream.retries), (Health::Unasked, 1));
    assert_eq!((upstream.eject.failures, upstream.eject.max_share), (5, 0.5));
    assert_eq!(upstream.timeouts.patience.stream, None);
}

#[test]
fn every_way_to_spread_has_its_word() {
    let balance = |word: &str| read(&format!("balance = \"{word}\"")).balance;
    assert_eq!(balance("least_request"), Balance::LeastRequest);
    assert_eq!(balance("random"), Balance::Random);
    assert_eq!(balance("hash:{sub}"), Balance::Hash(HashBy::Subject));
    assert_eq!(balance("hash:{ip}"), Balance::Hash(HashBy::Ip));
    let tenant = http::HeaderName::from_static("x-tenant");
    assert_eq!(balance("hash:header:X-Tenant"), Balance::Hash(HashBy::Header(tenant)));
    wrong("balance = \"least_requests\"", "4:11: expected `round_robin`, `random`, `least_request`,");
    wrong("balance = \"least_requests\"", "did you mean `least_request`?");
    wrong("balance = \"hash:header:\"", "the name of a header");
}

#[test]
fn a_probe_asks_or_connects() {
    let Health::Checked(check) =
        read("health = { path = \"/up?deep=1\", expect = [\"204\", \"4xx\"] }").health
    else {
        panic!("no health")
    };
    assert_eq!((check.unhealthy_after, check.healthy_after), (3, 2));
    let Probe::Http { path, host, expect } = check.probe else { panic!("no path") };
    assert_eq!((&*path, host, expect), ("/up?deep=1", None, vec![204..=204, 400..=499]));
    assert!(
        matches!(read("health = { tcp = true }").health, Health::Checked(check) if check.probe == Probe::Tcp)
    );
    wrong("health = {}", "needs a `path` to ask for, or `tcp = true`");
    wrong("health = { path = \"/up\", tcp = true }", "4:26: a probe asks for a `path` or only connects");
    wrong("health = { tcp = true, expect = [\"2xx\"] }", "`expect` does nothing where a probe only connects");
    wrong("health = { path = \"up\" }", "expected a path");
    wrong("health = { path = \"/up\", expect = [\"6xx\"] }", "expected a status");
    wrong("health = { path = \"/up\", intervall = \"5s\" }", "did you mean `interval`?");
}

#[test]
fn routes_may_be_more_patient_than_their_upstream() {
    let route =
        "[[routes]]\npath = \"/long\"\nupstream = \"app\"\nauth = \"public\"\ntimeouts = { read = \"1h\" }\n";
    let text = written("timeouts = { read = \"2s\", write = \"3s\", stream = \"1m\" }") + route;
    let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}")).config;
    let [short, long] = &config.routes[..] else { panic!("two routes") };
    assert_eq!(short.timeouts, config.upstreams[0].timeouts.patience);
    let second = Duration::from_secs(1);
    assert_eq!((long.timeouts.read, long.timeouts.write), (3600 * second, 3 * second));
    assert_eq!(long.timeouts.stream, Some(60 * second));
    wrong("timeouts = { stream = \"for ever\" }", "not a duration");
}

#[test]
fn nothing_is_left_alone_for_longer_the_shorter_it_may_be_or_listed_twice() {
    wrong("eject = { time = \"1m\", max_time = \"10s\" }", "`max_time` is shorter than `time`");
    wrong("eject = { statuses = [404] }", "must lie between 500 and 599");
    wrong("eject = { max_share = 1.5 }", "must lie between 0.0 and 1.0");
    let twice = "[[upstreams]]\nname = \"app\"\nservers = [\"a:1\", { address = \"A:1\" }]\n";
    assert_eq!(
        told(parse(&format!("{twice}{ROUTE}"))),
        ["3:19: this server is listed twice; give it a weight instead"]
    );
}

/// A certificate with its key, another key, and nonsense, in files.
fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let put = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("a.pem", &certificate.pem());
    put("a.key", &key.serialize_pem());
    put("other.key", &other);
    put("nonsense.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    directory
}

fn with_files(lines: &str) -> Result<Checked, Problems> {
    let files = files();
    Config::parse(&written(lines), "gateway.toml", files.path(), &environment)
}

#[test]
fn whom_to_believe_and_what_to_show_is_read_with_the_rest() {
    let tls = |lines: &str| {
        let checked = with_files(lines).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(checked.warnings.list().is_empty(), "{}", checked.warnings);
        match checked.config.upstreams.into_iter().next().unwrap().transport {
            Transport::Tls(tls) => tls,
            Transport::Plain => panic!("plain"),
        }
    };
    let least = tls("tls = {}");
    assert!(least.name == TlsName::Server && least.trust == Trust::System && least.client.is_none());
    let all = tls("tls = { sni = \"a.test\", ca = \"a.pem\", cert = \"a.pem\", key = \"a.key\" }");
    assert!(matches!(&all.trust, Trust::Only(authorities) if authorities.len() == 1));
    assert_eq!(all.name, TlsName::Given("a.test".into()));
    let shown = format!("{:?}", all.client);
    assert!(shown.contains("certificates: 1") && shown.len() < 60, "no key in it: {shown}");
}

#[test]
fn what_is_wrong_with_certificates_is_told_at_its_place() {
    #[track_caller]
    fn wrong(lines: &str, message: &str) {
        let told = told(with_files(lines));
        assert!(told.len() == 1 && told[0].contains(message), "{lines}\n{told:#?}");
    }
    wrong("tls = { sni = \"not a name\" }", "4:15: expected the name in the servers' certificate");
    wrong("tls = { ca = \"none.pem\" }", "4:14: this file cannot be read");
    wrong("tls = { ca = \"a.key\" }", "4:14: this file holds no certificates in PEM, or one that is damaged");
    wrong("tls = { ca = \"nonsense.pem\" }", "or one that is damaged");
    wrong("tls = { cert = \"a.pem\" }", "`cert` needs `key` beside it");
    wrong("tls = { key = \"a.key\" }", "`key` needs `cert` beside it");
    wrong("tls = { cert = \"a.pem\", key = \"a.pem\" }", "no private key in PEM");
    wrong("tls = { cert = \"a.pem\", key = \"other.key\" }", "cannot be used together");
    wrong("tls = { ca = \"a.pem\", verify = false }", "and `verify = false` that it does not matter");
    let blind = with_files("tls = { verify = false }").unwrap_or_else(|problems| panic!("{problems}"));
    assert!(blind.warnings.list()[0].message.contains("nobody checks who answers"), "{}", blind.warnings);
}
