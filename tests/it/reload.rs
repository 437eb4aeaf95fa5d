//! Everything that a reload may change, while clients ask; and files as people and machines replace them.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};

use jsonwebtoken::Algorithm;

use crate::ledger_common::patient_redis;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::load::{Load, Target};
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};
use crate::support::raw::{self, Raw};
use crate::support::redis::Redis;
use crate::support::reloads::{APPLIED, REFUSED, counted, reload};
use crate::support::{eventually, free_port};

fn guarding(issuer: &Issuer, origin: &Origin) -> Setup {
    Gateway::guarding(issuer, origin)
}

fn refuse(gateway: &Gateway, toml: &str) {
    let before = gateway.metric(REFUSED).unwrap();
    gateway.rewrite_config(toml);
    gateway.signal("HUP");
    counted(gateway, REFUSED, before + 1.0);
}

fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Not where everybody takes free ports: given up for a moment, it is still ours.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 3, 7], port))
}

/// `listen = ["127.0.0.1:0", …]`
fn listening(setup: &Setup, more: &[SocketAddr]) -> String {
    let more: String = more.iter().map(|address| format!(", \"{address}\"")).collect();
    setup.toml().replacen("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"127.0.0.1:0\"{more}]"), 1)
}

#[test]
fn fifty_reloads_of_everything_lose_neither_a_request_nor_a_connection() {
    let origins = [Origin::start(), Origin::answering(|_| Answer::new(200, "the other"))];
    let (issuer, other) = (Issuer::new(Algorithm::ES256), Issuer::new(Algorithm::EdDSA));
    let (authority, shelf, more) = (Authority::new(), Shelf::new(), local(free_port()));
    shelf.put("a", &authority.server(&["a.test"]));
    let tls = shelf.listener(&[shelf.entry("a", &["a.test"])], "");
    let toml = |round: usize| {
        let setup = guarding(&issuer, &origins[round % 2]).section(&tls);
        let setup = match round % 5 {
            0 => setup,
            // A second issuer, each with a realm of its own.
            1 => Setup::new()
                .section(&(issuer.config_toml() + "realm = \"one\"\n"))
                .section(&(other.config_toml() + "realm = \"two\"\n"))
                .upstream("app", &origins[round % 2])
                .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
                .route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"")
                .section("[identity]\nheaders = { x-who = \"{sub}\" }")
                .section(&tls),
            2 => setup.section("[ledger]\npresets = [\"native\", \"token-blacklist\"]"),
            3 => setup.section("[ledger.memory]\nanswers = 1000").log("level = \"info\""),
            _ => setup
                .server("drain = \"0s\"\nlimits = { idle_timeout = \"50s\", body_bytes = \"1MiB\" }")
                .section("[token]\nmax_bytes = \"8KiB\""),
        };
        if round.is_multiple_of(3) { listening(&setup, &[more]) } else { setup.toml() }
    };
    let gateway = Gateway::start(&toml(1));
    let load = Load::on(&Target {
        plain: gateway.addr(),
        tls: Some((gateway.tls_addr(), "a.test")),
        token: issuer.good("alice"),
        ends: false,
    });
    load.goes_on(20);
    for round in 2..52_usize {
        if round.is_multiple_of(4) {
            shelf.put("a", &authority.server(&["a.test"]));
        }
        reload(&gateway, &toml(round));
        if round.is_multiple_of(10) {
            load.goes_on(20);
        }
    }
    let (answered, told) = load.end();
    assert!(answered > 100, "{answered}");
    assert_eq!(told, 0, "no connection was given up");
    assert_eq!(gateway.metric(REFUSED), Some(0.0));
    assert!(origins.iter().all(|origin| !origin.requests().is_empty()));
    assert_eq!(gateway.get("/x", Some(&other.good("bob"))).status, 200, "the last one names its issuer");
}

#[test]
fn stores_are_replaced_under_load_and_no_answer_is_lost() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let redis = [Redis::start(), Redis::start()];
    let setup = || guarding(&issuer, &origin);
    let toml = |round: usize| match round % 3 {
        2 => setup().toml(),
        one => setup().section(&patient_redis(&redis[one])).toml(),
    };
    let gateway = Gateway::start(&toml(0));
    gateway.ban("mallory");
    let (mallory, load) = (issuer.good("mallory"), Load::on(&plainly(&gateway, &issuer)));
    load.goes_on(20);
    for round in 1..10 {
        reload(&gateway, &toml(round));
        // A Redis that has never heard of the ban is not believed.
        assert_eq!(gateway.get("/x", Some(&mallory)).reason(), "user_banned", "round {round}");
        load.goes_on(10);
    }
    let (_, told) = load.end();
    assert_eq!(told, 0);
}

fn plainly(gateway: &Gateway, issuer: &Issuer) -> Target {
    Target { plain: gateway.addr(), tls: None, token: issuer.good("alice"), ends: false }
}

#[test]
fn listeners_come_and_go_and_what_is_kept_is_not_touched() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = guarding(&issuer, &origin);
    let gateway = setup.start();
    let (more, token) = (local(free_port()), issuer.good("alice"));
    let ask = |raw: &mut Raw| {
        raw.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"))
            .response()
    };
    let mut kept = gateway.raw();
    assert_eq!(ask(&mut kept).status, 200);

    reload(&gateway, &listening(&setup, &[more]));
    assert_eq!(raw::get(more, "/x", Some(&token)).status, 200);
    let mut on_the_new_one = Raw::connect(more);
    assert_eq!(ask(&mut on_the_new_one).status, 200);

    reload(&gateway, &setup.toml());
    eventually("the new one is gone", || if accepts(more) { Err("accepted") } else { Ok(()) });
    let last = (0..2).map(|_| ask(&mut on_the_new_one)).find(|it| it.header("connection") == Some("close"));
    assert_eq!(last.expect("the end is announced").status, 200);
    on_the_new_one.assert_closed();
    assert_eq!(ask(&mut kept).status, 200);

    // The same address for another purpose: the port is not given up in between.
    let shelf = Shelf::new();
    shelf.put("a", &Authority::new().server(&["a.test"]));
    let tls = |address: SocketAddr| {
        let listener = shelf.listener(&[shelf.entry("a", &["a.test"])], "");
        setup.toml() + &listener.replace("127.0.0.1:0", &address.to_string())
    };
    reload(&gateway, &listening(&setup, &[more]));
    reload(&gateway, &tls(more));
    let client = crate::support::https::Client::blind();
    let bearer = format!("Authorization: Bearer {token}");
    eventually("TLS is spoken there", || match client.get(more, "a.test", "/x", &[&bearer]) {
        Ok(response) if response.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(ask(&mut kept).status, 200);
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_reload() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = guarding(&issuer, &origin);
    let gateway = setup.start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let with_route =
        guarding(&issuer, &origin).route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"");
    refuse(&gateway, &listening(&with_route, &[taken.local_addr().unwrap()]));
    let log = gateway.log();
    assert!(log.contains("cannot listen on") && log.contains("server.listen"), "{log}");
    assert_eq!(gateway.get("/open", None).status, 401, "no part of it is in force");
    assert_eq!(gateway.get("/x", Some(&issuer.good("alice"))).status, 200);
    drop(taken);
    reload(&gateway, &with_route.toml());
    assert_eq!(gateway.get("/open", None).status, 200);
}

#[test]
fn the_control_door_the_audit_file_and_the_level_of_the_log_move() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = guarding(&issuer, &origin);
    let gateway = setup.start();
    gateway.logout("alice");
    let admin = local(free_port());
    let toml = setup
        .toml()
        .replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{admin}\""))
        .replace("audit.jsonl", "elsewhere.jsonl")
        .replace("level = \"debug\"", "level = \"warn\"");
    gateway.rewrite_config(&toml);
    gateway.signal("HUP");
    eventually("the control door has moved", || {
        if accepts(admin) && !accepts(gateway.admin_addr()) { Ok(()) } else { Err(gateway.log()) }
    });
    let bearer = format!("Authorization: Bearer {}", gateway.admin_token());
    assert_eq!(raw::request(admin, "POST", "/v1/users/bob/logout", &[&bearer], b"").status, 200);
    assert_eq!(gateway.audit().lines().count(), 1);
    let moved = fs::read_to_string(gateway.directory().join("elsewhere.jsonl")).unwrap();
    assert!(moved.contains("bob") && moved.lines().count() == 1, "{moved}");
    let loud = |line: &&serde_json::Value| line["level"] == "INFO" && line["target"] != "access";
    let before = gateway.log_lines().iter().filter(loud).count();
    gateway.signal("HUP");
    let applied = || {
        raw::get(admin, "/metrics", None).text().contains("portcullis_reloads_total{outcome=\"applied\"} 2")
    };
    eventually("another reload", || if applied() { Ok(()) } else { Err(gateway.log()) });
    assert_eq!(gateway.log_lines().iter().filter(loud).count(), before, "{}", gateway.log());
}

#[test]
fn what_needs_a_restart_is_named_with_its_line() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = guarding(&issuer, &origin).server("limits = { connections = 5000, idle_upstreams = 7 }");
    let gateway = setup.start();
    let toml = setup
        .toml()
        .replace(Setup::threads(), "threads = 3")
        .replace("= 5000", "= 6000")
        .replace("= 7", "= 8");
    reload(&gateway, &toml);
    let line_of = |text: &str| toml.lines().position(|line| line.contains(text)).unwrap() + 1;
    for (key, text) in [
        ("server.threads", "threads = 3"),
        ("server.limits.connections", "connections = 6000"),
        ("server.limits.idle_upstreams", "idle_upstreams = 8"),
    ] {
        let place = format!("gateway.toml:{}", line_of(text));
        let told =
            gateway.log_lines().iter().any(|line| line["key"] == key && line["place"] == place.as_str());
        assert!(told, "{key} at {place}: {}", gateway.log());
    }
    assert_eq!(gateway.get("/x", Some(&issuer.good("alice"))).status, 200);
}

#[test]
fn a_request_outlives_the_ledger_it_was_judged_by() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = guarding(&issuer, &origin).server("drain = \"0s\"").route(
        "path = \"/logout\"\nupstream = \"app\"\non_response = [{ status = \"2xx\", revoke = \"token\" }]",
    );
    let gateway = setup.start();
    origin.answer(|seen| match seen.target().as_str() {
        "/logout" => Answer::ok().delayed(std::time::Duration::from_secs(2)),
        _ => Answer::ok(),
    });
    let token = issuer.good("alice");
    let mut running = gateway.raw();
    running.send(format!("GET /logout HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"));
    eventually("the request has reached the service", || match origin.requests().len() {
        1 => Ok(()),
        count => Err(count),
    });
    reload(&gateway, &(setup.toml() + "[ledger]\npresets = [\"native\", \"token-blacklist\"]\n"));
    assert_eq!(running.response().status, 200);
    // The new ledger has been asked about what was open, and finds what the old one writes within `max_staleness`.
    eventually("the old ledger has written it", || match gateway.get("/x", Some(&token)) {
        refused if refused.status == 401 => Ok(refused.reason()),
        passed => Err(passed.status),
    });
}

#[test]
fn a_link_that_leads_elsewhere_is_another_file() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = guarding(&issuer, &origin);
    let gateway = setup.start();
    // As a ConfigMap is mounted: gateway.toml → ..data/gateway.toml, and ..data → one of two directories.
    let directory = gateway.directory();
    let open = setup.route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"");
    for (name, toml) in [("..one", guarding(&issuer, &origin).toml()), ("..two", open.toml())] {
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("gateway.toml"), toml).unwrap();
    }
    let link = |to: &str, name: &str| {
        let new = directory.join("new-link");
        std::os::unix::fs::symlink(to, &new).unwrap();
        fs::rename(new, directory.join(name)).unwrap();
    };
    link("..one", "..data");
    link("..data/gateway.toml", "gateway.toml");
    counted(&gateway, APPLIED, 1.0);
    assert_eq!(gateway.get("/open", None).status, 401);
    link("..two", "..data");
    counted(&gateway, APPLIED, 2.0);
    assert_eq!(gateway.get("/open", None).status, 200);
}

#[test]
fn keys_of_issuers_secrets_and_certificates_are_watched_too() {
    let (origin, issuer, next) =
        (Origin::start(), Issuer::new(Algorithm::ES256), Issuer::new(Algorithm::ES256));
    let (authority, shelf) = (Authority::new(), Shelf::new());
    shelf.put("a", &authority.server(&["a.test"]));
    let keys = issuer.config_with(&format!("jwks_file = \"{}\"", issuer.jwks_file().display()));
    let gateway = Setup::new()
        .section(&keys)
        .section(&shelf.listener(&[shelf.entry("a", &["a.test"])], ""))
        .upstream("app", &origin)
        .route("path = \"/{*rest}\"\nupstream = \"app\"")
        .start();
    let of_next = next.sign(&serde_json::json!({ "alg": "ES256", "kid": next.kid }), &issuer.claims("alice"));
    assert_eq!(gateway.get("/x", Some(&of_next)).status, 401);
    fs::write(issuer.jwks_file(), next.jwks().to_string()).unwrap();
    eventually("the new key is believed", || match gateway.get("/x", Some(&of_next)).status {
        200 => Ok(()),
        status => Err((status, gateway.log())),
    });

    // The key first, the certificate much later: until then the old pair is shown.
    let (old, new) = (shelf_certificate(&gateway), authority.server(&["a.test"]));
    let refused = gateway.metric(REFUSED).unwrap();
    fs::write(shelf.path().join("a.key"), &new.key).unwrap();
    counted(&gateway, REFUSED, refused + 1.0);
    assert_eq!(shelf_certificate(&gateway), old);
    fs::write(shelf.path().join("a.crt"), &new.cert).unwrap();
    eventually("the new pair is shown", || match shelf_certificate(&gateway) {
        shown if shown == new.der.to_vec() => Ok(()),
        _ => Err(gateway.log()),
    });

    let secret = crate::support::unique("control-");
    crate::support::leaks::secret(&secret);
    fs::write(gateway.directory().join("admin.token"), &secret).unwrap();
    let bearer = format!("Authorization: Bearer {secret}");
    eventually("the new control token counts", || {
        match raw::request(gateway.admin_addr(), "GET", "/v1/stats", &[&bearer], b"").status {
            200 => Ok(()),
            status => Err((status, gateway.log())),
        }
    });
}

fn shelf_certificate(gateway: &Gateway) -> Vec<u8> {
    let client = crate::support::https::Client::blind();
    client.connect(gateway.tls_addr(), "a.test").unwrap().certificate().to_vec()
}

#[test]
fn a_file_that_is_gone_does_not_hide_a_change_that_no_longer_needs_it() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let shelf = Shelf::new();
    shelf.put("a", &Authority::new().server(&["a.test"]));
    let setup = guarding(&issuer, &origin);
    let with_tls = setup.toml() + &shelf.listener(&[shelf.entry("a", &["a.test"])], "");
    let gateway = Gateway::start(&with_tls);
    fs::remove_file(shelf.path().join("a.crt")).unwrap();
    gateway.rewrite_config(&setup.route("path = \"/open\"\nupstream = \"app\"\nauth = \"public\"").toml());
    eventually("the change is noticed", || match gateway.get("/open", None).status {
        200 => Ok(()),
        status => Err((status, gateway.log())),
    });
}
