//! A cluster of real servers: three primaries with a third of the slots each, with or without replicas.

use std::io;

use super::redis::{Redis, Reply};
use super::redis_tls::Authority;
use super::{eventually, free_port};

/// Dropped, it is gone.
pub struct Cluster {
    /// The primaries of the start, then the replica of each where there are any.
    pub nodes: Vec<Redis>,
    /// Where gateways connect to; the nodes themselves unless it speaks TLS.
    ports: Vec<u16>,
}

const SLOTS: u16 = 16384;

struct Node {
    redis: Redis,
    bus: String,
    tls: Option<u16>,
}

impl Node {
    fn start(options: &[&str], authority: Option<&Authority>) -> Self {
        let bus = free_port().to_string();
        let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
        let diskless = ["--repl-diskless-sync-delay", "0"];
        let mut options = [cluster.as_slice(), &diskless, options].concat();
        let tls = authority.map(|_| free_port());
        // Clients, replicas and the bus between the nodes all speak TLS; the test speaks plainly.
        let secured = authority.zip(tls).map(|(authority, port)| authority.options(port)).unwrap_or_default();
        options.extend(secured.iter().map(String::as_str));
        if tls.is_some() {
            options.extend(["--tls-cluster", "yes", "--tls-replication", "yes"]);
        }
        Self { redis: Redis::start_with(&options), bus, tls }
    }

    /// By which the others know it.
    fn port(&self) -> u16 {
        self.tls.unwrap_or_else(|| self.redis.port())
    }
}

impl Cluster {
    /// Three primaries without replicas, with these options on their command lines.
    pub fn start(options: &[&str]) -> Self {
        Self::start_all(3, options, None)
    }

    /// Three primaries; `nodes[n + 3]` is the replica of `nodes[n]`.
    pub fn start_with_replicas(options: &[&str]) -> Self {
        Self::start_all(6, options, None)
    }

    /// The same over TLS, by this authority's certificates.
    pub fn start_over_tls(authority: &Authority, options: &[&str]) -> Self {
        Self::start_all(6, options, Some(authority))
    }

    fn start_all(count: usize, options: &[&str], authority: Option<&Authority>) -> Self {
        let nodes: Vec<_> = (0..count).map(|_| Node::start(options, authority)).collect();
        let share = SLOTS / 3 + 1;
        for (place, Node { redis, .. }) in (0..).zip(&nodes[..3]) {
            let (first, last) = (place * share, ((place + 1) * share - 1).min(SLOTS - 1));
            redis.cmd(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            redis.cmd(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        }
        for node in &nodes[1..] {
            nodes[0].redis.cmd(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &node.bus]);
        }
        let ports = nodes.iter().map(Node::port).collect();
        let cluster = Self { nodes: nodes.into_iter().map(|node| node.redis).collect(), ports };
        cluster.is_well();
        for place in 3..count {
            cluster.replicate(place, place - 3);
        }
        cluster
    }

    /// One more node, which serves nothing yet. Gateways are not told of it.
    pub fn join(&mut self) -> usize {
        let node = Node::start(&[], None);
        self.nodes[0].cmd(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &node.bus]);
        self.ports.push(node.port());
        self.nodes.push(node.redis);
        self.is_well();
        self.nodes.len() - 1
    }

    fn replicate(&self, replica: usize, primary: usize) {
        self.nodes[replica].cmd(&["CLUSTER", "REPLICATE", &self.id(primary)]);
        self.follows(replica);
    }

    /// Polls until a node has all that its primary has.
    pub fn follows(&self, replica: usize) {
        eventually("the replica follows", || match self.nodes[replica].try_cmd(&["ROLE"]) {
            Ok(Reply::List(role)) if role.get(3) == Some(&Reply::Text("connected".into())) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Polls until every node says that every slot is served.
    pub fn is_well(&self) {
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        for node in &self.nodes {
            eventually("the cluster is well", || match node.try_cmd(&["CLUSTER", "INFO"]) {
                Ok(Reply::Text(info)) if info.contains("cluster_state:ok") && info.contains(&known) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }

    /// `[redis]` by way of these nodes.
    pub fn config_toml(&self, seeds: &[usize]) -> String {
        let urls: Vec<_> =
            seeds.iter().map(|seed| format!("redis://127.0.0.1:{}", self.ports[*seed])).collect();
        format!("[redis]\ncluster = true\nurls = {urls:?}\n")
    }

    /// The place of the node that holds a key, as long as no slot has moved.
    pub fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key);
        usize::try_from(slot / i64::from(SLOTS / 3 + 1)).unwrap()
    }

    pub fn slot(&self, key: &str) -> i64 {
        match self.nodes[0].cmd(&["CLUSTER", "KEYSLOT", key]) {
            Reply::Integer(slot) => slot,
            other => panic!("no slot: {other:?}"),
        }
    }

    /// The slots that a node serves.
    pub fn slots_of(&self, node: usize) -> Vec<u16> {
        let Reply::Text(nodes) = self.nodes[node].cmd(&["CLUSTER", "NODES"]) else { panic!("no nodes") };
        let mine = nodes.lines().find(|line| line.contains("myself")).unwrap();
        let ranges = mine.split(' ').skip(8).filter(|range| !range.starts_with('['));
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse().unwrap()..=last.parse().unwrap()
        };
        ranges.flat_map(range).collect()
    }

    pub fn id(&self, node: usize) -> String {
        match self.nodes[node].cmd(&["CLUSTER", "MYID"]) {
            Reply::Text(id) => id,
            other => panic!("no id: {other:?}"),
        }
    }

    /// Whether it calls itself a primary.
    pub fn is_primary(&self, node: usize) -> bool {
        matches!(self.nodes[node].try_cmd(&["ROLE"]), Ok(Reply::List(role)) if role[0] == Reply::Text("master".into()))
    }

    /// One command to whoever holds its key, as long as no slot has moved.
    pub fn cmd(&self, words: &[&str]) -> Reply {
        self.nodes[self.owner(words[1])].cmd(words)
    }

    /// As a client of some other service does it: from any node to whoever takes it.
    pub fn try_follow(&self, words: &[&str]) -> io::Result<Reply> {
        let mut last = Err(io::Error::other("no nodes"));
        for node in &self.nodes {
            last = follow(node.port(), words);
            if matches!(&last, Ok(reply) if !matches!(reply, Reply::Error(_))) {
                break;
            }
        }
        last
    }

    /// The same, until somebody takes it.
    pub fn follow(&self, words: &[&str]) -> Reply {
        eventually("somebody takes the command", || match self.try_follow(words) {
            Ok(Reply::Error(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.to_string()),
        })
    }

    /// A slot is on its way from now on.
    pub fn begin_move(&self, slot: &str, from: usize, to: usize) {
        self.nodes[to].cmd(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].cmd(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves what is in it, and calls `between` after each key.
    pub fn move_keys(&self, slot: &str, from: usize, to: usize, mut between: impl FnMut()) {
        let port = self.ports[to].to_string();
        while let Reply::List(keys) = self.nodes[from].cmd(&["CLUSTER", "GETKEYSINSLOT", slot, "100"])
            && !keys.is_empty()
        {
            for key in keys {
                let Reply::Text(key) = key else { panic!("no key: {key:?}") };
                // One that has ended meanwhile is none to move.
                self.nodes[from].cmd(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
                between();
            }
        }
    }

    /// It has arrived: the new owner is told first, as `redis-cli` does.
    pub fn end_move(&self, slot: &str, from: usize, to: usize, mut between: impl FnMut()) {
        let others = (0..self.nodes.len()).filter(|node| *node != from && *node != to);
        for node in [to, from].into_iter().chain(others) {
            if self.is_primary(node) {
                self.nodes[node].cmd(&["CLUSTER", "SETSLOT", slot, "NODE", &self.id(to)]);
                between();
            }
        }
    }

    /// Makes a replica the primary, as an operator asks for it.
    pub fn fail_over(&self, replica: usize) {
        // It is refused while the replica has not heard of its primary yet.
        eventually("a failover begins", || match self.nodes[replica].try_cmd(&["CLUSTER", "FAILOVER"]) {
            Ok(Reply::Text(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.is_promoted(replica);
    }

    /// Polls until a node is a primary.
    pub fn is_promoted(&self, node: usize) {
        eventually("the replica is promoted", || if self.is_primary(node) { Ok(()) } else { Err("no") });
    }
}

fn follow(port: u16, words: &[&str]) -> io::Result<Reply> {
    let (mut port, mut asking) = (port, false);
    for _ in 0..5 {
        let commands = if asking { vec![&["ASKING"][..], words] } else { vec![words] };
        let reply = Redis::ask_all(port, &commands)?.pop().unwrap();
        let Reply::Error(error) = &reply else { return Ok(reply) };
        let mut told = error.split(' ');
        asking = match told.next() {
            Some("MOVED") => false,
            Some("ASK") => true,
            _ => return Ok(reply),
        };
        let address = told.nth(1).and_then(|it| it.rsplit_once(':'));
        port = address.and_then(|(_, port)| port.parse().ok()).unwrap();
    }
    Err(io::Error::other("sent from one to the other"))
}
