//! What a service manager gives (sockets) and is told (ready, reloading, stopping); and its unit files.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use crate::support::gateway::{BINARY, Gateway};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::server::{program, send_signal};
use crate::support::{DEADLINE, eventually, leaks, raw, unique};

/// What the manager has heard. It listens all the time: its queue is short.
struct Manager {
    states: mpsc::Receiver<String>,
    heard: Vec<String>,
    done: Arc<AtomicBool>,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (tell, states) = mpsc::channel();
        let done = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&done);
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while !ended.load(Ordering::SeqCst) {
                // Nothing, or interrupted.
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let _ = tell.send(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        Self { states, heard: Vec::new(), done }
    }

    /// The next state that says this.
    fn hear(&mut self, wanted: &str) -> String {
        loop {
            let state = self.states.recv_timeout(DEADLINE);
            let state = state.unwrap_or_else(|_| panic!("{wanted} was not said: {:?}", self.heard));
            let says = state.lines().any(|line| line.starts_with(wanted));
            if state != "WATCHDOG=1" {
                self.heard.push(state.clone());
            }
            if says {
                return state;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
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
        let script =
            "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b exec \"$0\" run";
        Self::by(script, toml, sockets.map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()))))
    }

    /// Begun by a shell, with these for its standard input and output.
    fn by(script: &str, toml: &str, [input, output]: [Stdio; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("gateway.toml"), toml).unwrap();
        let token = unique("control-");
        leaks::secret(&token);
        fs::write(directory.path().join("admin.token"), token).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", script, BINARY])
            .current_dir(&directory)
            .stdin(input)
            .stdout(output)
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

#[test]
fn the_limit_of_open_files_is_raised_and_told_of_where_it_is_low() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let toml = |connections: usize| {
        let limits = format!("limits = {{ connections = {connections}, idle_upstreams = 44 }}");
        Gateway::guarding(&issuer, &origin).server(&limits).toml()
    };
    for (connections, warned) in [(350, false), (351, true)] {
        let script = "ulimit -S -n 100 && ulimit -H -n 1000 && exec \"$0\" run 1>&2";
        let mut gateway = Activated::by(script, &toml(connections), [Stdio::null(), Stdio::null()]);
        eventually("it serves", || {
            let log = gateway.log();
            if log.contains("\"listener\":\"admin\"") { Ok(()) } else { Err(log) }
        });
        let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.child.id())).unwrap();
        let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let limits: Vec<&str> = open_files.split_whitespace().skip(3).take(2).collect();
        assert_eq!(limits, ["1000", "1000"]);
        assert_eq!(gateway.log().contains("The limit of open files is lower"), warned, "{}", gateway.log());
        gateway.stop();
    }
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
