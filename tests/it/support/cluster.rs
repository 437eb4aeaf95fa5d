//! A cluster of real servers, each with a third of the slots.

use super::redis::{Redis, Reply};
use super::{eventually, free_port};

/// Dropped, it is gone.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

const SLOTS: u16 = 16384;

impl Cluster {
    /// Three primaries without replicas, with these options on their command lines.
    pub fn start(options: &[&str]) -> Self {
        let node = |_| {
            let bus = free_port().to_string();
            let cluster =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            (Redis::start_with(&[cluster.as_slice(), options].concat()), bus)
        };
        let nodes: Vec<_> = (0..3).map(node).collect();
        let share = SLOTS / 3 + 1;
        for (place, (redis, _)) in (0..).zip(&nodes) {
            let (first, last) = (place * share, ((place + 1) * share - 1).min(SLOTS - 1));
            redis.cmd(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            redis.cmd(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        }
        for (redis, bus) in &nodes[1..] {
            nodes[0].0.cmd(&["CLUSTER", "MEET", "127.0.0.1", &redis.port().to_string(), bus]);
        }
        let cluster = Self { nodes: nodes.into_iter().map(|(redis, _)| redis).collect() };
        cluster.is_well();
        cluster
    }

    /// Polls until every node says that every slot is served.
    pub fn is_well(&self) {
        for node in &self.nodes {
            eventually("the cluster is well", || match node.try_cmd(&["CLUSTER", "INFO"]) {
                Ok(Reply::Text(info))
                    if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            });
        }
    }

    /// `[redis]` by way of these nodes.
    pub fn config_toml(&self, seeds: &[usize]) -> String {
        let urls: Vec<_> = seeds.iter().map(|seed| self.nodes[*seed].url().replace("/0", "")).collect();
        format!("[redis]\ncluster = true\nurls = {urls:?}\n")
    }

    /// The place of the node that holds a key.
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

    /// One command to whoever holds its key.
    pub fn cmd(&self, words: &[&str]) -> Reply {
        self.nodes[self.owner(words[1])].cmd(words)
    }
}
