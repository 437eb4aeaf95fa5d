//! The connections to a cluster: one to each primary, torn down as a unit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::{join_all, try_join_all};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::cluster::{Cluster, Topology};
use super::connection::{Failure, Fenced, One, deposed, incomplete};
use super::ground::Ground;
use super::link::ServerIdentity;
use super::servers::Primary;
use super::sight::{Sight, View, agree};
use super::slots::{slot_of_command, tag_of};
use crate::ledger::settings::HostPort;
use crate::ledger::store::StoreError;

/// To each primary of a cluster.
pub struct Many {
    /// As in the topology.
    nodes: Vec<ToNode>,
    slots: Arc<ArcSwap<Topology>>,
    hurry: Arc<Notify>,
    server: ServerIdentity,
}

struct ToNode {
    one: One,
    address: HostPort,
    /// What is named with it as a hash tag lies here.
    tag: String,
    ground: Ground,
}

impl Many {
    pub(super) async fn open(
        cluster: &Cluster,
        protocol: ProtocolVersion,
        config: &AsyncConnectionConfig,
    ) -> Result<Self, StoreError> {
        let (topology, term) = cluster.topology()?;
        let each = topology.primaries.iter().enumerate().map(async |(place, node)| {
            let primary = Primary::of_cluster(cluster.maker.info(&node.address)?, term.clone());
            let one = One::open(primary, protocol, config).await?;
            if one.server.run_id.is_empty() {
                return Err(StoreError::unavailable("a node of the cluster does not tell its `run_id`"));
            }
            let slots = topology.some_slots(place);
            let tag = slots.first().map(|slot| tag_of(*slot)).unwrap_or_default();
            let known = cluster.ground(&node.id);
            let ground = Ground::lay(&one, &node.id, &slots, known.as_deref()).await?;
            cluster.note_ground(&node.id, &ground.value);
            Ok::<_, StoreError>(ToNode { one, address: node.address.clone(), tag, ground })
        });
        let nodes = try_join_all(each).await?;
        let life = |node: &ToNode| format!("{}:{}\n", node.one.server.run_id, node.ground.value);
        let mut lives: Vec<_> = nodes.iter().map(life).collect();
        lives.sort_unstable();
        let digest = Sha256::digest(lives.concat());
        let run_id = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect::<String>().into();
        let first = nodes.first().map(|node| node.one.server.clone()).unwrap_or_default();
        let server = ServerIdentity { run_id, ..first };
        Ok(Self { nodes, slots: cluster.slots(), hurry: cluster.hurry(), server })
    }

    /// All nodes at once, and once more where a slot has moved meanwhile.
    pub async fn round_trip(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let mut replies = self.round_trip_straight(pipeline).await?;
        let redirected =
            pipeline.cmd_iter().zip(&replies).enumerate().filter_map(|(place, (command, reply))| {
                let (target, asking) = self.redirect(reply)?;
                Some(async move { Some((place, target.once_more(command, asking).await?)) })
            });
        for (place, reply) in join_all(redirected.collect::<Vec<_>>()).await.into_iter().flatten() {
            if let Some(it) = replies.get_mut(place) {
                *it = reply;
            }
        }
        Ok(replies)
    }

    /// All nodes at once.
    pub async fn round_trip_straight(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let slots = self.slots.load();
        let mut groups: BTreeMap<usize, (Vec<usize>, Pipeline)> = BTreeMap::new();
        let mut replies: Vec<Option<Value>> = pipeline.cmd_iter().map(|_| None).collect();
        for (place, command) in pipeline.cmd_iter().enumerate() {
            // Without a key it does not matter who is asked. A slot of nobody is asked of nobody.
            let Some(node) = slot_of_command(command).map_or(Some(0), |slot| slots.owner(slot)) else {
                continue;
            };
            let (places, group) = groups.entry(node).or_default();
            places.push(place);
            group.add_command(command.clone());
        }
        let each = groups.into_iter().map(async |(node, (places, group))| {
            let node = self.nodes.get(node).ok_or_else(deposed)?;
            Ok::<_, Failure>(places.into_iter().zip(node.ask(group).await?))
        });
        for (place, reply) in try_join_all(each).await?.into_iter().flatten() {
            if let Some(it) = replies.get_mut(place) {
                *it = Some(reply);
            }
        }
        replies.into_iter().map(|reply| reply.map_or_else(nobody, Ok)).collect()
    }

    /// What the nodes know of each other, if they agree.
    pub async fn look(&self) -> Result<Sight, Failure> {
        let mut question = Pipeline::with_capacity(1);
        question.cmd("CLUSTER").arg("NODES");
        let each = self.nodes.iter().map(async |node| {
            let reply = node.one.round_trip(&question).await?.pop().ok_or_else(incomplete)?;
            View::read(reply).map_err(Failure::from)
        });
        Ok(agree(&try_join_all(each).await?)?)
    }

    /// All nodes at once, and whoever holds the mark for it.
    pub async fn fence(&self, mark: &Cmd, sight: &Sight) -> Result<Fenced, Failure> {
        let holder = slot_of_command(mark).and_then(|slot| self.slots.load().owner(slot));
        let each = self.nodes.iter().enumerate().map(async |(place, node)| {
            let mut questions = Pipeline::with_capacity(4);
            questions.cmd("ROLE").cmd("CLUSTER").arg("NODES");
            if holder == Some(place) {
                questions.add_command(mark.clone());
            }
            let asked = questions.len();
            let mut replies = node.ask(questions).await?.into_iter();
            let (Some(role), Some(view), true) = (replies.next(), replies.next(), replies.len() + 2 == asked)
            else {
                return Err(incomplete());
            };
            // A replica says so, and sees other things for that.
            let seen = View::read(view).is_ok_and(|view| sight.is_as(&view));
            Ok((role, seen, replies.next()))
        });
        let replies = try_join_all(each).await?;
        if !replies.iter().all(|(_, seen, _)| *seen) {
            self.hurry();
            return Err(Failure { error: StoreError::unavailable("the cluster has changed"), fatal: true });
        }
        let (roles, marks): (Vec<_>, Vec<_>) =
            replies.into_iter().map(|(role, _, mark)| (role, mark)).unzip();
        let mark = marks.into_iter().flatten().next();
        Ok(Fenced { roles, mark: mark.map_or_else(nobody, Ok)? })
    }

    pub fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    pub fn key_on_each(&self, name: &str) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{name}:{{{}}}", node.tag)).collect()
    }

    pub fn each(&self) -> impl Iterator<Item = &One> {
        self.nodes.iter().map(|node| &node.one)
    }

    pub fn server(&self) -> &ServerIdentity {
        &self.server
    }

    /// Where a reply sends us, if we are connected there; and whether for this once only.
    fn redirect(&self, reply: &Value) -> Option<(&ToNode, bool)> {
        let Value::ServerError(error) = reply else { return None };
        let asking = match error.code() {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        self.hurry();
        let (_, address) = error.details()?.split_once(' ')?;
        let (host, port) = address.trim().rsplit_once(':')?;
        let port = port.parse::<u16>().ok()?;
        let target = self.nodes.iter().find(|it| it.address.port == port && it.address.host == host)?;
        Some((target, asking))
    }
}

impl ToNode {
    /// The replies to a group, if the ground is still there.
    async fn ask(&self, mut group: Pipeline) -> Result<Vec<Value>, Failure> {
        group.cmd("GET").arg(&self.ground.key);
        let mut replies = self.one.round_trip(&group).await?;
        match replies.pop() {
            Some(Value::BulkString(value)) if value == self.ground.value.as_bytes() => Ok(replies),
            // It lies somewhere else by now.
            Some(Value::ServerError(error)) if matches!(error.code(), "MOVED" | "ASK") => Err(deposed()),
            Some(Value::ServerError(error)) => {
                Err(Failure { error: StoreError::unavailable(error.code()), fatal: false })
            }
            _ => Err(Failure {
                error: StoreError::unavailable("a node of the cluster was emptied"),
                fatal: true,
            }),
        }
    }

    /// `None`: no better answer than the one we have.
    async fn once_more(&self, command: &Cmd, asking: bool) -> Option<Value> {
        let mut pipeline = Pipeline::new();
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command.clone());
        self.ask(pipeline).await.ok()?.pop()
    }
}

/// The reply for a slot that nobody serves: no outage of Redis, but no answer either.
fn nobody() -> Result<Value, Failure> {
    Ok(redis::parse_redis_value(b"-TRYAGAIN the slot has no owner\r\n")?)
}
