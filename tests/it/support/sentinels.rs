//! A primary, its replica, and three sentinels that watch them: real processes with short time-outs.

use super::redis::{Redis, Reply, program};
use super::redis_tls::Authority;
use super::server::{Directory, Launch, Server, Stopped};
use super::{eventually, free_port};

/// What the sentinels call the primary.
pub const SERVICE: &str = "ledger";

/// Dropped, all are gone.
pub struct Sentinels {
    sentinels: Vec<Sentinel>,
    servers: Vec<Redis>,
    /// The ports by which the sentinels know the servers.
    known: Vec<u16>,
}

struct Sentinel {
    port: u16,
    tls: Option<u16>,
    server: Option<Server>,
    directory: Directory,
}

impl Sentinels {
    /// With these options on the command line of both servers.
    pub fn start(options: &[&str]) -> Self {
        Self::start_all([options, options], [None, None], None)
    }

    /// All speak TLS to gateways and to each other; the servers speak plainly to the test.
    pub fn start_over_tls(authority: &Authority) -> Self {
        let ports = [free_port(), free_port()];
        let options = ports.map(|port| {
            let mut options = authority.options(port);
            options.extend(["--tls-replication".to_owned(), "yes".to_owned()]);
            options
        });
        let options = options.each_ref().map(|it| it.iter().map(String::as_str).collect::<Vec<_>>());
        Self::start_all(options.each_ref().map(Vec::as_slice), ports.map(Some), Some(authority))
    }

    fn start_all(options: [&[&str]; 2], tls: [Option<u16>; 2], authority: Option<&Authority>) -> Self {
        let primary = Redis::start_with(options[0]);
        let port = tls[0].unwrap_or_else(|| primary.port());
        let text = port.to_string();
        let more: Vec<_> = ["--replicaof", "127.0.0.1", &text, "--repl-diskless-sync-delay", "0"]
            .into_iter()
            .chain(options[1].iter().copied())
            .collect();
        let replica = Redis::start_with(&more);
        let servers = vec![primary, replica];
        let known =
            servers.iter().zip(tls).map(|(server, tls)| tls.unwrap_or_else(|| server.port())).collect();
        let mut topology = Self { sentinels: Vec::new(), servers, known };
        eventually("the replica follows", || match topology.servers[1].cmd(&["ROLE"]) {
            Reply::List(role) if role.get(3) == Some(&Reply::Text("connected".into())) => Ok(()),
            other => Err(other),
        });
        topology.sentinels = (0..3).map(|_| Sentinel::start(port, authority)).collect();
        for sentinel in &topology.sentinels {
            eventually("the sentinels know of each other and of the replica", || {
                let master = sentinel.master();
                match master.get("num-other-sentinels").zip(master.get("num-slaves")) {
                    Some((sentinels, replicas)) if sentinels == "2" && replicas == "1" => Ok(()),
                    _ => Err(master),
                }
            });
        }
        topology
    }

    /// `[redis]` by way of the sentinels.
    pub fn config_toml(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|it| format!("127.0.0.1:{}", it.tls.unwrap_or(it.port))).collect();
        format!("[redis]\nurl = \"redis+sentinel://{}/{SERVICE}/0\"\n", hosts.join(","))
    }

    /// Both servers; the first was the primary at the start.
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// The server that every sentinel calls the primary, once they agree on another than this one.
    pub fn primary_after(&self, old: u16) -> &Redis {
        let place = |port: u16| self.known.iter().position(|it| *it == port).unwrap();
        let old = self.known[self.servers.iter().position(|it| it.port() == old).unwrap()];
        let port = eventually("the sentinels agree on another primary", || {
            let ports: Vec<_> = self.sentinels.iter().map(Sentinel::primary).collect();
            let agreed = ports.iter().all(|port| *port == ports[0] && *port != old);
            if agreed { Ok(ports[0]) } else { Err(ports) }
        });
        &self.servers[place(port)]
    }

    /// As an operator asks for it.
    pub fn fail_over(&self) {
        let words = ["SENTINEL", "FAILOVER", SERVICE];
        eventually("a failover begins", || match Redis::ask(self.sentinels[0].port, &words).unwrap() {
            Reply::Text(_) => Ok(()),
            other => Err(other),
        });
    }

    /// One command to each sentinel; no errors.
    pub fn each(&self, words: &[&str]) -> Vec<Reply> {
        let ask = |it: &Sentinel| match Redis::ask(it.port, words).unwrap() {
            Reply::Error(error) => panic!("{words:?}: {error}"),
            reply => reply,
        };
        self.sentinels.iter().map(ask).collect()
    }

    pub fn stop_sentinel(&self, index: usize) -> Stopped<'_> {
        Stopped::new(self.sentinels[index].server.as_ref().expect("it was killed"))
    }
}

impl Sentinel {
    fn start(primary: u16, authority: Option<&Authority>) -> Self {
        let directory = Directory::for_user(None, "portcullis-sentinel-");
        let tls = authority.map(|_| free_port());
        let mut sentinel = Self { port: free_port(), tls, server: None, directory };
        let options = authority.zip(tls).map(|(authority, port)| authority.options(port)).unwrap_or_default();
        let words = options.chunks_exact(2).map(|pair| format!("{} {}\n", &pair[0][2..], pair[1]));
        let secured: String = words.chain(authority.map(|_| "tls-replication yes\n".to_owned())).collect();
        let path = sentinel.directory.path();
        let (config, log) = (path.join("sentinel.conf"), path.join("sentinel.log"));
        std::fs::write(
            &config,
            format!(
                "port {}\n{secured}bind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n",
                sentinel.port,
                path.display()
            ),
        )
        .unwrap();
        let command = vec![program(), config.display().to_string(), "--sentinel".to_owned()];
        sentinel.server = Some(Server::launch(&Launch { command, user: None, log, signal: "KILL" }));
        eventually("a sentinel answers", || Redis::ask(sentinel.port, &["PING"]));
        sentinel
    }

    /// The port of the server that it calls the primary.
    fn primary(&self) -> u16 {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        match Redis::ask(self.port, &words).unwrap() {
            Reply::List(address) => match &address[1] {
                Reply::Text(port) => port.parse().unwrap(),
                other => panic!("no port: {other:?}"),
            },
            other => panic!("no address: {other:?}"),
        }
    }

    fn master(&self) -> std::collections::HashMap<String, String> {
        let Ok(Reply::List(fields)) = Redis::ask(self.port, &["SENTINEL", "MASTER", SERVICE]) else {
            return Default::default();
        };
        let text = |reply: &Reply| match reply {
            Reply::Text(text) => text.clone(),
            other => format!("{other:?}"),
        };
        fields.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    }
}
