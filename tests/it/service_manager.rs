//! What a service manager gives (sockets) and is told (ready, reloading, stopping); and its unit files.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use jsonwebtoken::Algorithm;

use crate::support::gateway::{BINARY, Gateway};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::server::{program, send_signal};
use crate::support::{DEADLINE, eventually, leaks, raw, unique};

/// What the manager has heard.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, heard: Vec::new() }
    }

    /// The next state that says this; what is said in between is kept.
    fn hear(&mut self, wanted: &str) -> String {
        loop {
            let mut buffer = [0; 1024];
            let length = self.socket.recv(&mut buffer);
            let length = length.unwrap_or_else(|it| panic!("{wanted} was not said ({it}): {:?}", self.heard));
            let state = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.push(state.clone());
            if state.lines().any(|line| line.starts_with(wanted)) {
                return state;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_of_the_whole_life() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let mut manager = Manager::new(&path);
    let setup = Gateway::guarding(&issuer, &origin).server("drain = \"7s\"\nshutdown_delay = \"0s\"");
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut gateway = Gateway::start_in(&setup.toml(), &variables);
    manager.hear("READY=1");
    for _ in 0..3 {
        manager.hear("WATCHDOG=1");
    }
    gateway.signal("HUP");
    let reloading = manager.hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hear("READY=1");

    gateway.succeed();
    // From the old one, which the manager believes; the new one is ready when it is the main one.
    manager.hear(&format!("MAINPID={}", gateway.pid()));
    manager.hear("READY=1");
    manager.hear("WATCHDOG=1");

    gateway.signal("TERM");
    let stopping = manager.hear("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=22000000"), "{stopping}");
    let stops = manager.heard.iter().filter(|state| state.contains("STOPPING=1")).count();
    assert_eq!(stops, 1, "who hands over does not stop the service: {:?}", manager.heard);
}

/// A gateway that is given its sockets as systemd gives them: open from number 3 on.
struct Activated {
    child: Child,
    directory: tempfile::TempDir,
}

impl Activated {
    fn start(toml: &str, sockets: [&TcpListener; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("gateway.toml"), toml).unwrap();
        let token = unique("control-");
        leaks::secret(&token);
        fs::write(directory.path().join("admin.token"), token).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let [one, two] = sockets.map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
        let script =
            "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b exec \"$0\" run";
        let child = Command::new("sh")
            .args(["-c", script, BINARY])
            .current_dir(&directory)
            .stdin(one)
            .stdout(two)
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Stops it and waits.
    fn stop(&mut self) {
        send_signal(self.child.id(), "TERM");
        eventually("it ends", || match self.child.try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            other => Err((other, fs::read_to_string(self.directory.path().join("log")))),
        });
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn sockets_that_a_manager_has_opened_are_served_and_keep_connections_over_a_restart() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let [proxy, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [proxy_addr, admin_addr]: [SocketAddr; 2] = [&proxy, &admin].map(|it| it.local_addr().unwrap());
    let toml = Gateway::guarding(&issuer, &origin)
        .toml()
        .replacen("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{proxy_addr}\"]"), 1)
        .replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"{admin_addr}\""), 1);
    let token = issuer.good("alice");
    // Connections wait in the socket until there is somebody: none is refused, before, between or after.
    let mut early = raw::Raw::connect(proxy_addr);
    early.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"));
    let mut first = Activated::start(&toml, [&proxy, &admin]);
    assert_eq!(early.response().status, 200, "{}", first.log());
    assert_eq!(raw::get(admin_addr, "/readyz", None).status, 200);
    first.stop();
    assert!(TcpStream::connect(proxy_addr).is_ok(), "the manager still listens");
    let mut between = raw::Raw::connect(proxy_addr);
    between.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"));
    let mut second = Activated::start(&toml, [&proxy, &admin]);
    assert_eq!(between.response().status, 200, "{}", second.log());
    second.stop();
}

#[test]
fn a_socket_for_an_address_that_nobody_wants_is_told_and_closed() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let [proxy, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let proxy_addr = proxy.local_addr().unwrap();
    let toml = Gateway::guarding(&issuer, &origin).toml().replacen(
        "listen = [\"127.0.0.1:0\"]",
        &format!("listen = [\"{proxy_addr}\"]"),
        1,
    );
    let mut gateway = Activated::start(&toml, [&proxy, &other]);
    let token = issuer.good("alice");
    assert_eq!(raw::get(proxy_addr, "/x", Some(&token)).status, 200);
    let address = other.local_addr().unwrap().to_string();
    assert!(gateway.log().lines().any(|line| line.contains("does not name") && line.contains(&address)));
    gateway.stop();
}

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist").join(name);
    fs::read_to_string(&path).unwrap_or_else(|it| panic!("{}: {it}", path.display()))
}

/// The values of a key, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_unit_files_say_what_the_program_does() {
    let (service, socket) = (unit("portcullis.service"), unit("portcullis.socket"));
    assert_eq!(values(&service, "Type"), ["notify"]);
    assert_eq!(values(&service, "NotifyAccess"), ["main"]);
    let [start] = values(&service, "ExecStart")[..] else { panic!("one ExecStart") };
    let arguments: Vec<&str> = start.split(' ').skip(1).collect();
    let help = Command::new(BINARY).args(&arguments).arg("--help").output().unwrap();
    assert!(help.status.success(), "{arguments:?}");
    assert_eq!(values(&service, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    for (key, value) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("CapabilityBoundingSet", ""),
        ("KillMode", "mixed"),
        ("Restart", "on-failure"),
    ] {
        assert_eq!(values(&service, key), [value], "{key}");
    }
    let listens = values(&socket, "ListenStream");
    assert!(!listens.is_empty() && listens.iter().all(|it| it.parse::<SocketAddr>().is_ok()), "{listens:?}");
}

#[test]
fn systemd_accepts_the_unit_files() {
    // It says nothing of a program that is not installed here: the units are read with ours in its place.
    let directory = tempfile::tempdir().unwrap();
    for name in ["portcullis.service", "portcullis.socket"] {
        let text = unit(name).replace("/usr/local/bin/portcullis", BINARY);
        fs::write(directory.path().join(name), text).unwrap();
    }
    let program = program(&["systemd-analyze"], "systemd");
    let analyze = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).current_dir(&directory).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (good, said) = analyze(&["verify", "./portcullis.service", "./portcullis.socket"]);
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("portcullis")).collect();
    assert!(good && about_us.is_empty(), "{said}");
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=20", "./portcullis.service"]);
    assert!(good, "{said}");
}
