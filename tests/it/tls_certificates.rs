//! Which certificate is shown to whom, and what happens when its files change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::eventually;
use crate::support::https::Client;
use crate::support::reloads::{self, APPLIED, REFUSED};
use crate::tls::{Scene, counted};

#[test]
fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let scene = Scene::new();
    let (wild, deep) = (scene.authority.server(&["*.b.test"]), scene.authority.server(&["x.b.test"]));
    scene.shelf.put("wild", &wild);
    scene.shelf.put("deep", &deep);
    let entries = [
        scene.shelf.entry("a", &["a.test"]),
        scene.shelf.entry("wild", &["*.b.test"]),
        scene.shelf.entry("deep", &["x.b.test"]),
    ];
    let strict = scene.shelf.listener(&entries, "strict_sni = true");
    let gateway = scene.setup().section(&scene.shelf.listener(&entries, "")).start();

    let shown = |name: &str| Client::blind().connect(gateway.tls_addr(), name).unwrap().certificate();
    let first = shown("a.test");
    assert_eq!(shown("A.TEST"), first);
    assert_eq!(shown("y.b.test"), wild.der);
    assert_eq!(shown("x.b.test"), deep.der, "the exact name wins");
    for unknown in ["elsewhere.test", "b.test", "127.0.0.1"] {
        assert_eq!(shown(unknown), first, "{unknown}: the first one is for everybody else");
    }
    // And clients that check believe it.
    for name in ["a.test", "y.b.test", "x.b.test"] {
        assert_eq!(scene.client().get(gateway.tls_addr(), name, "/", &[]).unwrap().status, 200);
    }
    assert!(scene.client().connect(gateway.tls_addr(), "elsewhere.test").is_err());
    counted(&gateway, "refused_by_client", 1.0);

    let gateway = scene.setup().section(&strict).start();
    assert!(Client::blind().connect(gateway.tls_addr(), "a.test").is_ok());
    assert!(Client::blind().connect(gateway.tls_addr(), "elsewhere.test").is_err());
    assert!(Client::blind().connect(gateway.tls_addr(), "127.0.0.1").is_err(), "no name at all");
    counted(&gateway, "unknown_name", 2.0);
}

#[test]
fn one_host_may_have_a_certificate_for_each_kind_of_client() {
    let scene = Scene::new();
    let (ecdsa, rsa) = (scene.authority.server(&["a.test"]), scene.authority.rsa_server(&["a.test"]));
    scene.shelf.put("ecdsa", &ecdsa);
    scene.shelf.put("rsa", &rsa);
    let entries = ["ecdsa", "rsa"].map(|name| scene.shelf.entry(name, &["a.test"]));
    let gateway = scene.setup().section(&scene.shelf.listener(&entries, "")).start();
    let shown =
        |client: Client<'_>, name: &str| client.connect(gateway.tls_addr(), name).unwrap().certificate();
    for name in ["a.test", "elsewhere.test"] {
        assert_eq!(shown(Client::blind(), name), ecdsa.der);
        assert_eq!(shown(Client::blind().only_rsa(), name), rsa.der);
        assert_eq!(shown(Client::blind().only_rsa().tls12(), name), rsa.der);
    }
}

#[test]
fn without_hosts_a_certificate_is_shown_for_the_names_in_it() {
    let scene = Scene::new();
    scene.shelf.put("b", &scene.authority.server(&["b.test", "*.c.test"]));
    let path = scene.shelf.path().join("b");
    let named = format!("{{ cert = \"{0}.crt\", key = \"{0}.key\" }}", path.display());
    let entries = [scene.shelf.entry("a", &["a.test"]), named];
    let gateway = scene.setup().section(&scene.shelf.listener(&entries, "")).start();
    for name in ["b.test", "x.c.test"] {
        assert_eq!(scene.client().get(gateway.tls_addr(), name, "/", &[]).unwrap().status, 200);
    }
}

#[test]
fn a_renewed_certificate_is_taken_up_under_load_without_a_request_lost() {
    let scene = Scene::new();
    let gateway = scene.with("").start();
    let address = gateway.tls_addr();
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut kept = scene.client().connect(address, "a.test").unwrap().raw();
    let mut ask = || kept.send("GET /kept HTTP/1.1\r\nHost: a.test\r\n\r\n").response().status;
    assert_eq!(ask(), 200);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let mut connection = scene.client().connect(address, "a.test").unwrap().raw();
                    for _ in 0..5 {
                        connection.send("GET /load HTTP/1.1\r\nHost: a.test\r\n\r\n");
                        assert_eq!(connection.response().status, 200);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let _end = OnDrop(&done);
        let shown = || scene.client().connect(address, "a.test").unwrap().certificate();
        for round in 0..3 {
            let next = scene.authority.server(&["a.test"]);
            scene.shelf.put("a", &next);
            if round == 0 {
                gateway.signal("HUP");
            }
            eventually(
                "the new one is shown",
                || if shown() == next.der { Ok(()) } else { Err(gateway.log()) },
            );
        }
        assert_eq!(ask(), 200, "the connection from before");
    });
    assert!(served.load(Ordering::SeqCst) > 20);
    assert_eq!(gateway.metric(REFUSED), Some(0.0));
}

/// Ends the load, however the test ends.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_bad_certificate_is_refused_with_its_place_and_the_old_one_serves_on() {
    let scene = Scene::new();
    let old = scene.authority.server(&["a.test"]);
    scene.shelf.put("a", &old);
    let gateway = scene.with("").start();
    let shown = || scene.client().connect(gateway.tls_addr(), "a.test").unwrap().certificate();
    let expiry = gateway.metrics();
    let series = format!(
        "portcullis_certificate_expiry_timestamp_seconds{{host=\"a.test\",listener=\"{}\"}}",
        "127.0.0.1:0"
    );
    assert!(expiry.contains(&series), "{expiry}");

    // The certificate of one pair, the key of another.
    let other = scene.authority.server(&["a.test"]);
    let key = scene.shelf.path().join("a.key");
    std::fs::write(&key, &other.key).unwrap();
    reloads::counted(&gateway, REFUSED, 1.0);
    let refusal = eventually("the refusal is told", || {
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains("this key does not belong to the certificate"));
        line.map(str::to_owned).ok_or(log)
    });
    assert!(refusal.contains("gateway.toml:"), "the place: {refusal}");
    assert_eq!(shown(), old.der);

    // Whoever replaces a pair replaces the one and then the other.
    scene.shelf.put("a", &other);
    eventually("the whole pair is taken", || if shown() == other.der { Ok(()) } else { Err(gateway.log()) });
    reloads::counted(&gateway, APPLIED, 1.0);
}

#[test]
fn an_expired_certificate_is_served_and_warned_of() {
    let scene = Scene::new();
    scene.shelf.put("a", &scene.authority.expired(&["a.test"]));
    let gateway = scene.with("").start();
    let log = gateway.log();
    assert!(log.contains("this certificate has expired"), "{log}");
    assert!(Client::blind().connect(gateway.tls_addr(), "a.test").is_ok());
    assert!(scene.client().connect(gateway.tls_addr(), "a.test").is_err());
}
