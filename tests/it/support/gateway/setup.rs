//! The configuration of a gateway that a test is about to start.

use super::{Gateway, PATIENT_DATABASE};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;

/// A configuration in the making: what every test needs is there, the rest is added as TOML.
pub struct Setup {
    server: String,
    log: String,
    database: Option<String>,
    sections: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// Listeners on free ports of loopback, a control token, JSON logs of everything, [`PATIENT_DATABASE`].
    pub fn new() -> Self {
        Self {
            server: String::new(),
            log: "level = \"debug\"\n".to_owned(),
            database: Some(PATIENT_DATABASE.to_owned()),
            sections: Vec::new(),
        }
    }

    /// Lines for `[server]`; `limits` and `paths` inline.
    pub fn server(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Lines for `[log]` instead of the level `debug`.
    pub fn log(self, lines: &str) -> Self {
        Self { log: format!("{lines}\n"), ..self }
    }

    pub fn issuer(self, issuer: &Issuer) -> Self {
        self.section(&issuer.config_toml())
    }

    pub fn upstream(self, name: &str, origin: &Origin) -> Self {
        self.section(&origin.config_toml(name))
    }

    /// Lines of a `[[routes]]`: `name`, `path`, `upstream`, ….
    pub fn route(self, lines: &str) -> Self {
        self.section(&format!("[[routes]]\n{lines}\n"))
    }

    /// Any other section. One of `[database]` takes the place of the SQLite file.
    pub fn section(mut self, toml: &str) -> Self {
        if toml.contains("[database]") {
            self.database = None;
        }
        self.sections.push(toml.to_owned());
        self
    }

    pub fn toml(&self) -> String {
        let mut toml = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n{}\n{}\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n\n\
             [log]\nformat = \"json\"\naccess = \"all\"\naudit_file = \"audit.jsonl\"\n{}\n",
            Self::threads(),
            self.server,
            self.log
        );
        for section in self.database.iter().chain(&self.sections) {
            toml.push_str(section);
            toml.push('\n');
        }
        toml
    }

    /// One thread and several are two ways to run: every test keeps to one of them, and half of the tests to each.
    pub fn threads() -> &'static str {
        let thread = std::thread::current();
        let sum: u32 = thread.name().unwrap_or_default().bytes().map(u32::from).sum();
        if sum.is_multiple_of(2) { "threads = 1" } else { "threads = 2" }
    }

    pub fn start(&self) -> Gateway {
        Gateway::start(&self.toml())
    }
}
