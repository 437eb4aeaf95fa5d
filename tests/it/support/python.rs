//! Python with the distribution's gRPC and WebSocket libraries: clients and services that we have not written.

use std::process::Command;
use std::sync::OnceLock;

use super::server::{Directory, Launch, Server};

/// The first interpreter that has the libraries; another one may come first in `PATH`.
pub fn program() -> &'static str {
    static PROGRAM: OnceLock<&str> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let has = |it: &&str| {
            let output = Command::new(it).args(["-c", "import grpc, websockets"]).output();
            output.is_ok_and(|it| it.status.success())
        };
        ["/usr/bin/python3", "python3"]
            .into_iter()
            .find(has)
            .unwrap_or_else(|| panic!("no Python with grpcio and websockets: run `scripts/setup --test`"))
    })
}

/// A program that runs until it is dropped.
pub struct Script {
    // Dropped in this order: first the process, then what it wrote.
    server: Server,
    _directory: Directory,
}

impl Script {
    pub fn start(text: &str, arguments: &[&str]) -> Self {
        let directory = Directory::for_user(None, "portcullis-python-");
        let path = directory.path().join("script.py");
        std::fs::write(&path, text).unwrap();
        let mut command = vec![program().to_owned(), path.display().to_string()];
        command.extend(arguments.iter().map(|it| (*it).to_owned()));
        let log = directory.path().join("said.log");
        let server = Server::launch(&Launch { command, user: None, log, signal: "KILL" });
        Self { server, _directory: directory }
    }

    /// The lines it has printed so far; a program that has ended fails the test.
    pub fn said(&self) -> Vec<String> {
        self.server.alive().unwrap_or_else(|log| panic!("it has ended: {log}"));
        self.server.log().lines().map(str::to_owned).collect()
    }
}
