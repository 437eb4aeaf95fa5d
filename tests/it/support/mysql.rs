//! MariaDB or MySQL: one server for the whole test process, one database for each test.

use std::process::Command;
use std::sync::OnceLock;

use super::server::{self, Directory, Launch, Server, Stopped};
use super::{eventually, free_port, unique};

const HINT: &str = "mariadb-server";
const SERVERS: [&str; 2] = ["mariadbd", "mysqld"];

/// A server with one user, `root`, without a password, on loopback.
pub struct Mysql {
    port: u16,
    user: Option<&'static str>,
    // Dropped in this order: first the server, then what it wrote.
    server: Option<Server>,
    directory: Directory,
}

impl Mysql {
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Mysql> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        let user = server::unprivileged("mysql");
        let directory = Directory::for_user(user, "portcullis-mysql-");
        initialize(user, &format!("--datadir={}", directory.path().join("data").display()));
        let mut mysql = Self { port: 0, directory, user, server: None };
        for _ in 0..5 {
            mysql.port = free_port();
            if let Ok(server) = mysql.try_launch() {
                mysql.server = Some(server);
                return mysql;
            }
        }
        panic!("{HINT} did not start on any of five ports")
    }

    pub fn create_database(&self) -> Database<'_> {
        let name = unique("t");
        query(self.port, "mysql", &format!("CREATE DATABASE {name}")).unwrap();
        Database { mysql: self, name }
    }

    pub fn stop_cont(&self) -> Stopped<'_> {
        Stopped::new(self.server.as_ref().expect("it runs"))
    }

    fn try_launch(&self) -> Result<Server, String> {
        let directory = self.directory.path().display();
        let command = vec![
            server::program(&SERVERS, HINT),
            "--no-defaults".to_owned(),
            format!("--datadir={directory}/data"),
            format!("--socket={directory}/socket"),
            format!("--pid-file={directory}/pid"),
            format!("--port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--innodb-buffer-pool-size=32M".to_owned(),
        ];
        let log = self.directory.path().join("server.log");
        let server = Server::launch(&Launch { command, user: self.user, log, signal: "KILL" });
        let ready = eventually("the MySQL server answers", || match server.alive() {
            Err(log) => Ok(Err(log)),
            Ok(()) => query(self.port, "mysql", "SELECT 1").map(|_| Ok(())),
        });
        ready.map(|()| server)
    }
}

fn initialize(user: Option<&str>, data: &str) {
    let program = server::program(&SERVERS, HINT);
    let command = match program.ends_with("mariadbd") {
        true => vec![
            server::program(&["mariadb-install-db"], HINT),
            "--no-defaults".to_owned(),
            data.to_owned(),
            "--auth-root-authentication-method=normal".to_owned(),
            "--skip-test-db".to_owned(),
        ],
        false => {
            vec![program, "--no-defaults".to_owned(), data.to_owned(), "--initialize-insecure".to_owned()]
        }
    };
    server::run(user, &command);
}

/// One test's database.
pub struct Database<'a> {
    mysql: &'a Mysql,
    name: String,
}

impl Database<'_> {
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/{}", self.mysql.port, self.name)
    }

    /// Rows as lines, columns parted by tabs.
    pub fn query(&self, sql: &str) -> String {
        query(self.mysql.port, &self.name, sql).unwrap_or_else(|it| panic!("{sql}: {it}"))
    }

    /// `[database]` for it.
    pub fn config_toml(&self) -> String {
        format!("[database]\nurl = \"{}\"\nmigrate = true\n", self.url())
    }
}

fn query(port: u16, database: &str, sql: &str) -> Result<String, String> {
    let output = Command::new(server::program(&["mariadb", "mysql"], "mariadb-client"))
        .args(["--no-defaults", "--protocol=tcp", "-h", "127.0.0.1", "-u", "root", "-N", "-B"])
        .args(["-P", &port.to_string(), "--connect-timeout=5", "-D", database, "-e", sql])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
