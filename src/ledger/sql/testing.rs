//! Database servers for tests: each its own, on a socket in a temporary folder, gone with the guard.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::SqlStore;
use crate::ledger::settings::DatabaseSettings;

/// A store, and whatever keeps its server alive.
pub(in crate::ledger) struct Server {
    pub sql: SqlStore,
    pub url: String,
    _process: Option<Process>,
    _folder: Option<TempDir>,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(in crate::ledger) fn store(url: &str) -> SqlStore {
    let settings = DatabaseSettings {
        url: url.to_owned(),
        max_connections: 8,
        timeout: Duration::from_secs(5),
        migrate: true,
        poll: Duration::from_secs(1),
    };
    SqlStore::open(&settings).expect("the URL is good")
}

impl Server {
    pub fn sqlite() -> Self {
        let folder = TempDir::new().expect("a folder");
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        Self { sql: store(&url), url, _process: None, _folder: Some(folder) }
    }

    pub fn memory() -> Self {
        let url = "sqlite::memory:".to_owned();
        Self { sql: store(&url), url, _process: None, _folder: None }
    }

    pub async fn postgres() -> Self {
        let binaries =
            newest("/usr/lib/postgresql").expect("PostgreSQL is installed (apt: postgresql)").join("bin");
        let folder = TempDir::new().expect("a folder");
        let path = folder.path();
        // PostgreSQL refuses to run as root.
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        if root {
            run(Command::new("chown").arg("postgres").arg(path));
        }
        let command = |program: &str| {
            let program = binaries.join(program);
            if !root {
                return Command::new(program);
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        };
        let data = path.join("data");
        run(command("initdb")
            .args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data));
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(path).args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let process = start(&mut server, path);
        let url = format!("postgres://postgres@localhost/postgres?host={}", path.display());
        Self::ready(url, process, folder).await
    }

    pub async fn mariadb() -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path();
        let (data, socket) = (path.join("data"), path.join("socket"));
        let user = Command::new("id").arg("-un").output().expect("id runs").stdout;
        let user = String::from_utf8(user).expect("a name");
        let mut install = Command::new("mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--user={}", user.trim()));
        install.arg("--auth-root-authentication-method=normal").arg(format!("--datadir={}", data.display()));
        // A server that starts clears away what it takes for leftovers in a folder shared with others.
        let temporary = format!("--tmpdir={}", path.display());
        install.arg(&temporary);
        run(&mut install);
        let mut server = Command::new("/usr/sbin/mariadbd");
        server.arg("--no-defaults").arg(format!("--user={}", user.trim())).arg("--skip-networking");
        server.arg(&temporary);
        server.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}", socket.display()));
        let process = start(&mut server, path);
        let url = format!("mysql://root@localhost/test?socket={}", socket.display());
        Self::ready(url, process, folder).await
    }

    async fn ready(url: String, process: Process, folder: TempDir) -> Self {
        let sql = store(&url);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = sql.ping().await {
            assert!(std::time::Instant::now() < deadline, "the server does not come up: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { sql, url, _process: Some(process), _folder: Some(folder) }
    }
}

fn newest(folder: impl AsRef<Path>) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).max()
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be run, is it installed? {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn start(command: &mut Command, folder: &Path) -> Process {
    let log = std::fs::File::create(folder.join("log")).expect("a log");
    let errors = log.try_clone().expect("a log");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    Process(
        command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be run, is it installed? {error}")),
    )
}
