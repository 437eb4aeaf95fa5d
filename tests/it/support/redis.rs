//! A Redis server of one's own, and the few lines of RESP that tests need.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use super::server::{self, Directory, Launch, Server, Stopped};
use super::{DEADLINE, eventually, free_port};

/// Dropped, it is gone.
pub struct Redis {
    port: u16,
    /// More of the command line.
    options: Vec<String>,
    // Dropped in this order: first the server, then what it wrote.
    server: Option<Server>,
    directory: Directory,
}

/// What Redis said.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Nil,
    Integer(i64),
    Text(String),
    Error(String),
    List(Vec<Reply>),
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more options on its command line, as in `--maxmemory 1mb`.
    pub fn start_with(options: &[&str]) -> Self {
        let mut directory = Directory::for_user(None, "portcullis-redis-");
        let options: Vec<_> = options.iter().map(|it| (*it).to_owned()).collect();
        // The port may be taken between finding and using it.
        for _ in 0..5 {
            let mut redis = Self { port: free_port(), options: options.clone(), directory, server: None };
            if redis.try_launch().is_ok() {
                return redis;
            }
            directory = redis.directory;
        }
        panic!("redis-server did not start on any of five ports")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `[redis]` for it.
    pub fn config_toml(&self) -> String {
        format!("[redis]\nurl = \"{}\"\n", self.url())
    }

    /// Sends one command on a connection of its own; an error reply fails the test.
    pub fn cmd(&self, words: &[&str]) -> Reply {
        match self.try_cmd(words).unwrap() {
            Reply::Error(error) => panic!("{words:?}: {error}"),
            reply => reply,
        }
    }

    pub fn try_cmd(&self, words: &[&str]) -> io::Result<Reply> {
        Self::ask(self.port, words)
    }

    /// One command to whatever speaks RESP on a port of this machine.
    pub fn ask(port: u16, words: &[&str]) -> io::Result<Reply> {
        Ok(Self::ask_all(port, &[words])?.remove(0))
    }

    /// Several commands on one connection.
    pub fn ask_all(port: u16, commands: &[&[&str]]) -> io::Result<Vec<Reply>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut bytes = String::new();
        for words in commands {
            bytes.push_str(&format!("*{}\r\n", words.len()));
            for word in *words {
                bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
        }
        stream.write_all(bytes.as_bytes())?;
        let mut stream = BufReader::new(stream);
        commands.iter().map(|_| read_reply(&mut stream)).collect()
    }

    /// Gone at once, without saving; the port stays known for [`Redis::restart`].
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// On the same port, with an empty memory.
    pub fn restart(&mut self) {
        self.kill();
        std::fs::remove_file(self.directory.path().join("dump.rdb")).unwrap_or_default();
        self.launch_again();
    }

    /// On the same port, with what it held at its last `SAVE`.
    pub fn restart_from_copy(&mut self) {
        self.kill();
        assert!(self.directory.path().join("dump.rdb").exists(), "nothing was saved");
        self.launch_again();
    }

    fn launch_again(&mut self) {
        // Nobody else takes the port but by rare chance; then this fails loudly.
        self.try_launch().unwrap_or_else(|log| panic!("redis-server did not come back: {log}"));
    }

    /// Neither answers nor closes, until the guard is dropped.
    pub fn stop_cont(&self) -> Stopped<'_> {
        Stopped::new(self.server.as_ref().expect("it was killed"))
    }

    fn try_launch(&mut self) -> Result<(), String> {
        let directory = self.directory.path();
        let words = [
            program(),
            "--port".to_owned(),
            self.port.to_string(),
            "--bind".to_owned(),
            "127.0.0.1".to_owned(),
            "--dir".to_owned(),
            directory.display().to_string(),
            "--save".to_owned(),
            String::new(),
            "--appendonly".to_owned(),
            "no".to_owned(),
            "--enable-debug-command".to_owned(),
            "yes".to_owned(),
        ];
        let log = directory.join("redis.log");
        std::fs::remove_file(&log).unwrap_or_default();
        let command = words.into_iter().chain(self.options.iter().cloned()).collect();
        let launch = Launch { command, user: None, log, signal: "KILL" };
        let server = Server::launch(&launch);
        let up = eventually("redis-server answers", || {
            // Somebody else's Redis on the port would answer too: ours says so in its log.
            if !server.log().contains("Ready to accept connections") {
                return server.alive().map_or_else(|log| Ok(Err(log)), |()| Err(server.log()));
            }
            self.try_cmd(&["PING"]).map(|_| Ok(())).map_err(|it| it.to_string())
        });
        up.map(|()| self.server = Some(server))
    }
}

/// `PORTCULLIS_TEST_REDIS` names another server to test against, Valkey's for instance.
pub fn program() -> String {
    std::env::var("PORTCULLIS_TEST_REDIS")
        .unwrap_or_else(|_| server::program(&["redis-server", "valkey-server"], "redis-server"))
}

fn read_reply(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let number = || line[1..].parse::<i64>().map_err(io::Error::other);
    Ok(match line.chars().next() {
        Some('+') => Reply::Text(line[1..].to_owned()),
        Some('-') => Reply::Error(line[1..].to_owned()),
        Some(':') => Reply::Integer(number()?),
        Some('$') => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes)?;
                Reply::Text(String::from_utf8_lossy(&bytes[..length]).into_owned())
            }
        },
        Some('*') => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => Reply::List((0..length).map(|_| read_reply(stream)).collect::<io::Result<_>>()?),
        },
        _ => return Err(io::Error::other(format!("not RESP: {line:?}"))),
    })
}
