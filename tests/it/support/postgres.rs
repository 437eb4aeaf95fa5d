//! PostgreSQL: one cluster for the whole test process, one database for each test.

use std::process::Command;
use std::sync::OnceLock;

use super::server::{self, Directory, Launch, Server, Stopped};
use super::{eventually, free_port, unique};

const HINT: &str = "postgresql";
const USER: &str = "portcullis";

/// A cluster. PostgreSQL refuses to run as root; it runs as another user there.
pub struct Postgres {
    port: u16,
    user: Option<&'static str>,
    // Dropped in this order: first the server, then what it wrote.
    server: Option<Server>,
    directory: Directory,
}

impl Postgres {
    /// The cluster that all tests share. Who wants to stop it starts one of his own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        let user = server::unprivileged("postgres");
        let directory = Directory::for_user(user, "portcullis-postgres-");
        let data = directory.path().join("data").display().to_string();
        let initdb = server::program(&["initdb"], HINT);
        let words =
            [&initdb, "-D", &data, "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8", "--no-locale"];
        server::run(user, &words.map(str::to_owned));
        let mut postgres = Self { port: 0, directory, user, server: None };
        postgres.launch();
        postgres
    }

    /// A new, empty database: its URL's last part.
    pub fn create_database(&self) -> Database<'_> {
        let name = unique("t");
        self.psql_in("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        Database { postgres: self, name }
    }

    /// As [`Database::psql`], of a database whose guard had to go before this cluster could be killed.
    pub fn psql_of(&self, database: &str, sql: &str) -> String {
        self.psql_in(database, sql).unwrap_or_else(|it| panic!("{sql}: {it}"))
    }

    pub fn stop_cont(&self) -> Stopped<'_> {
        Stopped::new(self.server.as_ref().expect("it was killed"))
    }

    /// Every connection is cut at once.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// After [`Postgres::kill`]: on the same port, with its data.
    pub fn restart(&mut self) {
        self.kill();
        let server = self.try_launch(self.port);
        self.server = Some(server.unwrap_or_else(|log| panic!("postgres did not come back: {log}")));
    }

    fn launch(&mut self) {
        for _ in 0..5 {
            self.port = free_port();
            if let Ok(server) = self.try_launch(self.port) {
                self.server = Some(server);
                return;
            }
        }
        panic!("postgres did not start on any of five ports")
    }

    fn try_launch(&self, port: u16) -> Result<Server, String> {
        let words = [
            &server::program(&["postgres"], HINT),
            "-D",
            &self.directory.path().join("data").display().to_string(),
            "-p",
            &port.to_string(),
            "-k",
            &self.directory.path().display().to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=200",
        ];
        let log = self.directory.path().join("postgres.log");
        let launch =
            Launch { command: words.map(str::to_owned).to_vec(), user: self.user, log, signal: "QUIT" };
        let server = Server::launch(&launch);
        let ready = eventually("postgres answers", || match server.alive() {
            Err(log) => Ok(Err(log)),
            Ok(()) => psql(port, "postgres", "SELECT 1").map(|_| Ok(())),
        });
        ready.map(|()| server)
    }

    fn psql_in(&self, database: &str, sql: &str) -> Result<String, String> {
        psql(self.port, database, sql)
    }
}

/// One test's database.
pub struct Database<'a> {
    postgres: &'a Postgres,
    name: String,
}

impl Database<'_> {
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{}", self.postgres.port, self.name)
    }

    /// Rows as lines, columns parted by `|`.
    pub fn psql(&self, sql: &str) -> String {
        self.postgres.psql_in(&self.name, sql).unwrap_or_else(|it| panic!("{sql}: {it}"))
    }

    /// `[database]` for it.
    pub fn config_toml(&self) -> String {
        format!("[database]\nurl = \"{}\"\nmigrate = true\n", self.url())
    }
}

fn psql(port: u16, database: &str, sql: &str) -> Result<String, String> {
    let port = port.to_string();
    let output = Command::new(server::program(&["psql"], "postgresql-client"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", USER])
        .args(["-p", &port, "-d", database, "-c", sql])
        .env("PGCONNECT_TIMEOUT", "5")
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
