//! One process takes the place of another, on the same sockets, and no client notices.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::load::{Load, Target};
use crate::support::origin::{Answer, Origin};
use crate::support::pki::{Authority, Shelf};

const UPGRADE_SOCKET: &str = "upgrade_socket = \"upgrade.sock\"";

struct Scene {
    origin: Origin,
    issuer: Issuer,
    shelf: Shelf,
}

impl Scene {
    fn new() -> Self {
        let shelf = Shelf::new();
        shelf.put("a", &Authority::new().server(&["a.test"]));
        Self { origin: Origin::start(), issuer: Issuer::new(Algorithm::ES256), shelf }
    }

    fn setup(&self) -> Setup {
        let tls = self.shelf.listener(&[self.shelf.entry("a", &["a.test"])], "");
        Gateway::guarding(&self.issuer, &self.origin).server(UPGRADE_SOCKET).section(&tls)
    }

    fn load(&self, gateway: &Gateway) -> Load {
        Load::on(&Target {
            plain: gateway.addr(),
            tls: Some((gateway.tls_addr(), "a.test")),
            token: self.issuer.good("alice"),
            ends: false,
        })
    }
}

/// Whoever asks on `upgrade.sock` as a successor does.
struct Asker {
    line: BufReader<UnixStream>,
}

impl Asker {
    fn new(directory: &Path) -> Self {
        Self { line: BufReader::new(UnixStream::connect(directory.join("upgrade.sock")).unwrap()) }
    }

    fn say(&mut self, word: &str) -> &mut Self {
        self.line.get_mut().write_all(word.as_bytes()).unwrap();
        self
    }

    fn take(&mut self) -> &mut Self {
        self.say("{\"take\":{\"protocol\":1,\"version\":\"test\"}}\n")
    }

    /// Sockets that come beside the bytes are lost here; that is the kernel's way to close them.
    fn hear(&mut self) -> String {
        let mut heard = String::new();
        self.line.read_line(&mut heard).unwrap();
        heard
    }
}

#[test]
fn a_successor_takes_over_under_load_without_a_request_lost() {
    let scene = Scene::new();
    let mut gateway = scene.setup().start();
    let (addr, admin, first) = (gateway.addr(), gateway.admin_addr(), gateway.pid());
    gateway.ban("mallory");
    let load = scene.load(&gateway);
    load.goes_on(50);
    // By its own hand, by the command line, and once more by the hand of a successor.
    gateway.succeed();
    load.goes_on(50);
    gateway.succeed();
    load.goes_on(50);
    let (answered, told) = load.end();
    assert!(answered >= 200 && told >= 6, "{answered} {told}: kept connections were asked to come again");
    assert_ne!(gateway.pid(), first);
    assert_eq!((gateway.addr(), gateway.admin_addr()), (addr, admin));
    assert_eq!(gateway.get("/x", Some(&scene.issuer.good("mallory"))).reason(), "user_banned");
    assert_eq!(gateway.ready().0, 200);
}

#[test]
fn the_command_line_takes_over_under_load_without_a_request_lost() {
    let scene = Scene::new();
    let mut gateway = scene.setup().start();
    let load = scene.load(&gateway);
    load.goes_on(50);
    gateway.upgrade();
    load.goes_on(50);
    gateway.upgrade();
    load.goes_on(50);
    load.end();
    let mode = std::fs::metadata(gateway.directory().join("upgrade.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let path = gateway.directory().join("upgrade.sock");
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(!path.exists(), "the last one takes it away");
}

#[test]
fn a_running_request_is_answered_by_the_process_that_took_it() {
    let scene = Scene::new();
    let mut gateway = scene.setup().start();
    let first = gateway.pid();
    scene.origin.answer(|_| Answer::new(200, "in the end").delayed(std::time::Duration::from_millis(1500)));
    let mut running = gateway.raw();
    running.send(format!(
        "GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\n\r\n",
        scene.issuer.good("alice")
    ));
    eventually("the request has reached the service", || match scene.origin.requests().len() {
        1 => Ok(()),
        count => Err(count),
    });
    gateway.succeed();
    let response = running.response();
    assert_eq!((response.status, response.text().as_str()), (200, "in the end"));
    assert_ne!(gateway.pid(), first);
    assert_eq!(gateway.get("/x", Some(&scene.issuer.good("alice"))).status, 200);
}

#[test]
fn a_successor_that_does_not_come_up_changes_nothing() {
    let scene = Scene::new();
    let setup = scene.setup();
    let mut gateway = setup.start();
    let load = scene.load(&gateway);
    // It cannot listen where somebody else does.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = format!("listen = [\"{}\"]", taken.local_addr().unwrap());
    std::fs::write(
        gateway.directory().join("gateway.toml"),
        setup.toml().replacen("listen = [\"127.0.0.1:0\"]", &elsewhere, 1),
    )
    .unwrap();
    gateway.signal("USR2");
    eventually("the failure is told", || {
        let log = gateway.log();
        if log.contains("this process goes on as before") && log.contains("cannot listen on") {
            Ok(())
        } else {
            Err(log)
        }
    });
    load.goes_on(30);
    gateway.rewrite_config(&setup.toml());
    gateway.succeed();
    load.goes_on(30);
    load.end();
}

#[test]
fn whoever_asks_for_sockets_and_leaves_changes_nothing() {
    let scene = Scene::new();
    let mut gateway = scene.setup().start();
    let refusals = |gateway: &Gateway| gateway.log().matches("this process goes on as before").count();
    let asks: [fn(&mut Asker); 4] = [
        |_| {},
        |asker| {
            asker.say("{\"fly\":{}}\n");
        },
        |asker| {
            asker.say("{\"take\":{\"protocol\":99,\"version\":\"far ahead\"}}\n");
        },
        |asker| assert!(asker.take().hear().contains("given")),
    ];
    for (count, ask) in asks.iter().enumerate() {
        ask(&mut Asker::new(gateway.directory()));
        eventually("it is told", || match refusals(&gateway) {
            seen if seen > count => Ok(()),
            seen => Err((seen, gateway.log())),
        });
        assert_eq!(gateway.get("/x", Some(&scene.issuer.good("alice"))).status, 200);
    }
    gateway.succeed();
    assert_eq!(gateway.get("/x", Some(&scene.issuer.good("alice"))).status, 200);
}

#[test]
fn one_successor_at_a_time_and_none_when_the_gateway_is_told_to_stop() {
    let scene = Scene::new();
    let mut gateway = scene.setup().start();
    let mut first = Asker::new(gateway.directory());
    assert!(first.take().hear().contains("given"));
    let mut second = Asker::new(gateway.directory());
    assert!(second.hear().contains("refused"));
    gateway.signal("QUIT");
    assert_eq!(gateway.get("/x", Some(&scene.issuer.good("alice"))).status, 200, "an order that is no end");
    gateway.signal("TERM");
    // The bytes that go with the sockets come first.
    assert!(first.hear().ends_with("\"stop\"\n"));
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn without_a_process_to_take_over_from_nothing_is_begun() {
    let scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("admin.token"), "0123456789abcdef0123456789abcdef").unwrap();
    let run = |toml: &str| {
        std::fs::write(directory.path().join("gateway.toml"), toml).unwrap();
        let output = std::process::Command::new(crate::support::gateway::BINARY)
            .args(["run", "--upgrade"])
            .current_dir(&directory)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&scene.setup().toml());
    assert!(code == Some(2) && said.contains("no process hands over at"), "{said}");
    let (code, said) = run(&scene.setup().toml().replace(UPGRADE_SOCKET, ""));
    assert!(code == Some(2) && said.contains("server.upgrade_socket"), "{said}");
}

#[test]
fn two_gateways_do_not_share_an_upgrade_socket() {
    let scene = Scene::new();
    let gateway = scene.setup().start();
    let path = gateway.directory().join("upgrade.sock");
    let output = Gateway::fails(
        &scene.setup().toml().replace("\"upgrade.sock\"", &format!("{:?}", path.display().to_string())),
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("another process hands over here"), "{said}");
    assert_eq!(gateway.get("/x", Some(&scene.issuer.good("alice"))).status, 200);
}
