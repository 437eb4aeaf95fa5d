//! The real gateway as a process of its own. Dropped, it is stopped, and everything it ever said is searched for
//! tokens and secrets.

mod control;
mod setup;
mod succession;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::issuer::Issuer;
use super::origin::Origin;
use super::raw::{self, Raw, Response};
use super::server::send_signal;
use super::{DEADLINE, eventually, leaks, unique, within};

pub use setup::Setup;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// The database of a test that is not about databases. It is waited for: the file of a busy machine may be slow.
pub const PATIENT_DATABASE: &str = "[database]\nurl = \"sqlite://ledger.db\"\ntimeout = \"5s\"\n";

/// A running gateway.
pub struct Gateway {
    child: Child,
    directory: TempDir,
    proxy: SocketAddr,
    admin: SocketAddr,
    admin_token: String,
    /// A process that has taken the place of `child` by itself.
    successor: Option<u32>,
    /// Whether it has been stopped and searched already.
    finished: bool,
}

impl Gateway {
    /// One required route to everything: what most tests start from.
    pub fn guarding(issuer: &Issuer, origin: &Origin) -> Setup {
        Setup::new()
            .issuer(issuer)
            .upstream("app", origin)
            .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
    }

    /// Runs `portcullis -c gateway.toml` in a directory of its own, with `admin.token` beside the file, until both
    /// listeners are named in the log and `/readyz` says yes.
    pub fn start(toml: &str) -> Self {
        Self::start_in(toml, &[])
    }

    /// As [`Gateway::start`], with these environment variables set.
    pub fn start_in(toml: &str, variables: &[(&str, &str)]) -> Self {
        let mut gateway = Self::start_unready_in(toml, variables);
        eventually("the gateway is ready", || {
            gateway.alive().and_then(|()| match gateway.ready() {
                (200, _) => Ok(()),
                not_yet => Err(format!("{not_yet:?}")),
            })
        });
        gateway
    }

    /// As [`Gateway::start`], without waiting for `/readyz`.
    pub fn start_unready(toml: &str) -> Self {
        Self::start_unready_in(toml, &[])
    }

    /// As [`Gateway::start_unready`], with no more file descriptors than these.
    pub fn start_with_descriptors(toml: &str, most: usize) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\""), BINARY]);
        Self::launch(shell, toml, &[])
    }

    fn start_unready_in(toml: &str, variables: &[(&str, &str)]) -> Self {
        Self::launch(Command::new(BINARY), toml, variables)
    }

    fn launch(program: Command, toml: &str, variables: &[(&str, &str)]) -> Self {
        let (directory, admin_token) = place(toml);
        let child = prepared(program, directory.path())
            .envs(variables.iter().copied())
            .stdout(log_file(directory.path(), "stdout.log"))
            .stderr(log_file(directory.path(), "stderr.log"))
            .spawn()
            .unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self {
            child,
            directory,
            proxy: nowhere,
            admin: nowhere,
            admin_token,
            successor: None,
            finished: false,
        };
        (gateway.proxy, gateway.admin) = eventually("both listeners are named in the log", || {
            gateway.alive()?;
            let log = gateway.log();
            let proxy = listening(&log, "proxy").or_else(|| listening(&log, "tls"));
            let proxy = proxy.or_else(|| listening(&log, "forward_auth"));
            proxy.zip(listening(&log, "admin")).ok_or(log)
        });
        gateway
    }

    /// What `run` says of a configuration that must be refused; it does not start.
    pub fn fails(toml: &str) -> Output {
        let (directory, _) = place(toml);
        let mut child =
            command(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = exit_of(&mut child);
        if status.is_none() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(status.is_some_and(|it| !it.success()), "it started instead of refusing:\n{said}");
        assert_clean(leaks::search("what it said", said.as_bytes()));
        output
    }

    pub fn addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The first listener with TLS.
    pub fn tls_addr(&self) -> SocketAddr {
        listening(&self.log(), "tls").expect("a listener with TLS")
    }

    /// Where proxies ask.
    pub fn asked_at(&self) -> SocketAddr {
        listening(&self.log(), "forward_auth").expect("a listener for forward-auth")
    }

    /// Whether there is a plain listener.
    pub fn listens_plain(&self) -> bool {
        listening(&self.log(), "proxy").is_some()
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Standard output and standard error so far.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        read("stdout.log") + &read("stderr.log")
    }

    /// The lines of the log that are JSON, with the members of `fields` lifted to the top.
    pub fn log_lines(&self) -> Vec<Value> {
        json_lines(&self.log())
    }

    pub fn audit(&self) -> String {
        fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap_or_default()
    }

    /// A connection to the proxy.
    pub fn raw(&self) -> Raw {
        Raw::connect(self.proxy)
    }

    pub fn get(&self, path: &str, token: Option<&str>) -> Response {
        raw::get(self.proxy, path, token)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        raw::request(self.proxy, method, path, headers, body)
    }

    /// How much memory it holds, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The status and the document of `/readyz`.
    pub fn ready(&self) -> (u16, String) {
        let response = raw::get(self.admin, "/readyz", None);
        (response.status, response.text())
    }

    pub fn metrics(&self) -> String {
        raw::get(self.admin, "/metrics", None).text()
    }

    /// The value of a series, named as in the text: `portcullis_requests_total{…}`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        self.metrics().lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    pub fn signal(&self, signal: &str) {
        send_signal(self.pid(), signal);
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        self.successor.unwrap_or_else(|| self.child.id())
    }

    /// Takes effect on SIGHUP, or when the gateway sees that the file has changed. Whole in one step, by a rename.
    pub fn rewrite_config(&self, toml: &str) {
        let path = self.directory.path().join("gateway.toml");
        fs::write(path.with_extension("new"), toml).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// How it ended by itself, or by an earlier signal.
    pub fn wait_exit(&mut self) -> ExitStatus {
        exit_of(&mut self.child).unwrap_or_else(|| panic!("still running; its log:\n{}", self.log()))
    }

    /// Stops it and searches what it left behind; [`Drop`] does so too.
    pub fn finish(mut self) {
        let found = self.stop();
        assert_clean(found);
    }

    fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait().unwrap() {
            None => Ok(()),
            Some(status) => panic!("the gateway ended ({status}); its log:\n{}", self.log()),
        }
    }

    /// SIGTERM, in the end SIGKILL; then every secret that stands where none may.
    fn stop(&mut self) -> Vec<String> {
        self.finished = true;
        let mut found = Vec::new();
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(metrics) = self.last_metrics() {
                found.extend(leaks::search("/metrics", metrics.as_bytes()));
            }
            // A process that a test has stopped cannot hear SIGTERM.
            self.signal("CONT");
            self.signal("TERM");
            if exit_of(&mut self.child).is_none() {
                self.child.kill().unwrap_or_default();
                found.push("the gateway did not end on SIGTERM".to_owned());
            }
            self.child.wait().map(drop).unwrap_or_default();
        }
        found.extend(self.stop_successor());
        found.extend(leaks::search_directory(self.directory.path(), &may_hold_secrets));
        found
    }

    /// Of a gateway that may be stuck: no answer is no fault here.
    fn last_metrics(&self) -> Option<String> {
        if self.admin.port() == 0 || std::thread::panicking() {
            return None;
        }
        let asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = Raw::try_connect(self.admin).and_then(|mut admin| admin.send(asked).try_response());
        answer.ok().map(|it| it.text())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let found = self.stop();
        if std::thread::panicking() {
            // The test has failed already: what the gateway said may tell why.
            eprintln!("--- log of the gateway ---\n{}", self.log());
        } else {
            assert_clean(found);
        }
    }
}

/// The configuration and the control token in a new directory.
fn place(toml: &str) -> (TempDir, String) {
    let directory = tempfile::Builder::new().prefix("portcullis-it-").tempdir().unwrap();
    let token = unique("control-");
    leaks::secret(&token);
    fs::write(directory.path().join("admin.token"), &token).unwrap();
    fs::write(directory.path().join("gateway.toml"), toml).unwrap();
    (directory, token)
}

/// Appended to: two processes may write to it at a time.
fn log_file(directory: &Path, name: &str) -> File {
    File::options().append(true).create(true).open(directory.join(name)).unwrap()
}

fn command(directory: &Path) -> Command {
    prepared(Command::new(BINARY), directory)
}

fn prepared(mut command: Command, directory: &Path) -> Command {
    command.args(["-c", "gateway.toml"]).current_dir(directory).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn exit_of(child: &mut Child) -> Option<ExitStatus> {
    let start = std::time::Instant::now();
    within(DEADLINE * 2, "an exit", || match child.try_wait().unwrap() {
        Some(status) => Ok(Some(status)),
        None if start.elapsed() > DEADLINE => Ok(None),
        None => Err("running"),
    })
}

/// Keys and configuration hold secrets by their nature; the ledger holds what it was told to remember.
fn may_hold_secrets(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name == "gateway.toml"
        || [".token", ".key", ".pem", ".db", ".db-wal", ".db-shm", ".db-journal"]
            .iter()
            .any(|ending| name.ends_with(ending))
}

fn assert_clean(found: Vec<String>) {
    assert!(found.is_empty(), "a token or secret got out:\n{}", found.join("\n"));
}

fn listening(log: &str, listener: &str) -> Option<SocketAddr> {
    json_lines(log).iter().find_map(|line| {
        let named = line["message"] == "Listening" && line["listener"] == listener;
        if named { line["address"].as_str()?.parse().ok() } else { None }
    })
}

fn json_lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .map(|mut line| {
            if let Some(Value::Object(fields)) = line.get_mut("fields").map(Value::take) {
                line.as_object_mut().unwrap().extend(fields);
            }
            line
        })
        .collect()
}

/// For the test of the search itself.
pub fn plant(gateway: &Gateway, name: &str, content: &str) -> PathBuf {
    let path = gateway.directory().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// For the test of the search itself: what a stop would complain of, instead of the complaint.
pub fn stop_and_tell(mut gateway: Gateway) -> Vec<String> {
    gateway.stop()
}
