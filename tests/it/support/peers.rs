//! The proxies that people keep in front: nginx, Traefik, Caddy, Envoy. Each is started by the very files of
//! examples/forward-auth, with other ports.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use super::server::{Directory, Launch, Server};
use super::{eventually, free_port};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Traefik,
    Caddy,
    Envoy,
}

/// Dropped, it is gone.
pub struct Peer {
    address: SocketAddr,
    // Dropped in this order: first the server, then its files.
    server: Server,
    _directory: Directory,
}

impl Kind {
    /// As the configuration says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
        }
    }

    /// Where `scripts/setup --test` puts it.
    fn program(self) -> Option<PathBuf> {
        let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
        let places = match self {
            Self::Nginx => {
                let path = std::env::var("PATH").unwrap_or_default();
                let path = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
                path.map(|place| place.join("nginx")).collect()
            }
            Self::Traefik => vec![pinned.join("bin/traefik")],
            Self::Caddy => vec![pinned.join("bin/caddy")],
            Self::Envoy => vec![pinned.join("envoy/_bin/envoy")],
        };
        places.into_iter().find(|place| place.is_file())
    }

    /// Whether there is one to be tested with. In CI there has to be.
    pub fn is_here(self) -> bool {
        let here = self.program().is_some();
        if !here {
            let word = self.word();
            let needed = std::env::var("CI").is_ok_and(|it| !it.is_empty());
            assert!(!needed, "{word} is not here, and CI is to test with it: run `scripts/setup --test`");
            eprintln!("SKIPPED: {word} is not here; `scripts/setup --test` gets it");
        }
        here
    }

    fn command(self, directory: &str) -> Vec<String> {
        let program = self.program().expect("is_here was asked").display().to_string();
        let arguments: &[&str] = match self {
            Self::Nginx => &["-e", "stderr", "-p", directory, "-c", "nginx.conf"],
            Self::Traefik => &["--configFile=traefik.yaml"],
            Self::Caddy => &["run", "--config", "Caddyfile"],
            // Several at a time share memory by their id; what is told of hot restarts is not needed.
            Self::Envoy => &["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "-l", "warn"],
        };
        // In its directory, which is its home: Caddy keeps things there.
        let shell = ["sh", "-c", "cd \"$0\" && HOME=$0 exec \"$@\"", directory, &program];
        shell.iter().chain(arguments).map(|it| (*it).to_owned()).collect()
    }
}

impl Peer {
    /// Asks `portcullis`, forwards to `service`.
    pub fn start(kind: Kind, portcullis: SocketAddr, service: SocketAddr) -> Self {
        // The port may be taken between finding and using it.
        for _ in 0..5 {
            if let Some(peer) = Self::try_start(kind, portcullis, service) {
                return peer;
            }
        }
        panic!("{} did not start on any of five ports", kind.word())
    }

    fn try_start(kind: Kind, portcullis: SocketAddr, service: SocketAddr) -> Option<Self> {
        let directory = Directory::for_user(None, "portcullis-peer-");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let ports =
            [(8000, address), (9902, portcullis), (3000, service)].map(|(port, it)| (port, it.port()));
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/forward-auth").join(kind.word());
        let mut replaced = 0;
        for file in fs::read_dir(example).unwrap().map(|it| it.unwrap().path()) {
            let mut text = fs::read_to_string(&file).unwrap();
            for (port, instead) in ports {
                let own = [format!(":{port}"), format!("port_value: {port}")];
                replaced += own.iter().map(|it| text.matches(it).count()).sum::<usize>();
                text = text.replace(&own[0], &format!(":{instead}"));
                text = text.replace(&own[1], &format!("port_value: {instead}"));
            }
            fs::write(directory.path().join(file.file_name().unwrap()), text).unwrap();
        }
        assert!(replaced >= ports.len(), "the example of {} names other ports", kind.word());
        let log = directory.path().join("log");
        let command = kind.command(&directory.path().display().to_string());
        let server = Server::launch(&Launch { command, user: None, log, signal: "KILL" });
        let peer = Self { address, server, _directory: directory };
        let listens = eventually("the proxy listens", || match peer.server.alive() {
            Err(log) => {
                eprintln!("{} has ended: {log}", kind.word());
                Ok(false)
            }
            Ok(()) => TcpStream::connect(address).map(|_| true),
        });
        listens.then_some(peer)
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    pub fn log(&self) -> String {
        self.server.log()
    }
}
