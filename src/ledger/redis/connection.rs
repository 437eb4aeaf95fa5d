//! What the store talks over: one connection, or one to each primary of a cluster, torn down as a unit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::{join_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, RedisError, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::cluster::{Cluster, Topology};
use super::link::ServerIdentity;
use super::of_error;
use super::servers::Primary;
use super::slots::{slot_of_command, tag_of};
use crate::ledger::settings::HostPort;
use crate::ledger::store::StoreError;

/// Connected.
pub(super) enum Connection {
    One(Box<One>),
    Many(Many),
}

/// A question without an answer, and whether there can be another on the same connection.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: StoreError,
    pub fatal: bool,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self { error: of_error(&error), fatal: error.is_unrecoverable_error() }
    }
}

impl Connection {
    /// One reply for each command, errors among them.
    pub async fn round_trip(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let replies = match self {
            Self::One(one) => one.round_trip(pipeline).await,
            Self::Many(many) => many.round_trip(pipeline).await,
        };
        // Asked after the answer: a server that hung meanwhile may have been deposed before it answered.
        if self.primary().is_some_and(|it| !it.stands()) {
            return Err(deposed());
        }
        let replies = replies?;
        if replies.len() != pipeline.len() {
            return Err(Failure {
                error: StoreError::malformed("not one reply for each command"),
                fatal: false,
            });
        }
        Ok(replies)
    }

    /// All of them.
    pub async fn ping(&self) -> Result<(), Failure> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("PING");
        let each = self.each().map(|one| one.round_trip(&pipeline));
        for mut replies in try_join_all(each).await? {
            match replies.pop() {
                Some(Value::ServerError(error)) => {
                    return Err(Failure { error: StoreError::unavailable(error.code()), fatal: false });
                }
                Some(_) => {}
                None => {
                    return Err(Failure { error: StoreError::malformed("no reply to PING"), fatal: false });
                }
            }
        }
        if self.primary().is_some_and(|it| !it.stands()) {
            return Err(deposed());
        }
        Ok(())
    }

    /// Until what we are connected to is not to be believed any more.
    pub async fn deposed(&self) {
        match self.primary() {
            Some(primary) => primary.deposed().await,
            None => std::future::pending().await,
        }
    }

    /// One for all: those of a cluster stand and fall together.
    fn primary(&self) -> Option<&Primary> {
        self.each().next().map(|one| &one.primary)
    }

    /// Who is at the other end.
    pub fn server(&self) -> &ServerIdentity {
        match self {
            Self::One(one) => &one.server,
            Self::Many(many) => &many.server,
        }
    }

    /// To each server.
    pub fn each(&self) -> impl Iterator<Item = &One> {
        let (one, many) = match self {
            Self::One(one) => (Some(&**one), None),
            Self::Many(many) => (None, Some(many.nodes.iter().map(|node| &node.one))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

fn deposed() -> Failure {
    Failure { error: super::deposed(), fatal: true }
}

/// To one server.
pub(super) struct One {
    connection: MultiplexedConnection,
    primary: Primary,
    server: ServerIdentity,
}

impl One {
    pub async fn open(
        primary: Primary,
        protocol: ProtocolVersion,
        config: &AsyncConnectionConfig,
    ) -> Result<Self, StoreError> {
        let connection = primary.connect(protocol, config).await?;
        let mut one = Self { connection, primary, server: ServerIdentity::default() };
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("INFO").arg("server");
        // A server that does not tell can still be asked everything else.
        let info = one.round_trip(&pipeline).await.map_err(|failure| failure.error)?;
        one.server = info.first().map(ServerIdentity::read).unwrap_or_default();
        Ok(one)
    }

    pub async fn round_trip(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        Ok(self.connection.clone().send_packed_commands(pipeline, 0, pipeline.len()).await?)
    }

    /// Another with each start of the server; empty where it does not tell.
    pub fn life(&self) -> &str {
        &self.server.run_id
    }

    /// A section of `INFO`.
    pub async fn info(&self, section: &str) -> Result<String, StoreError> {
        let info = self.ask(redis::cmd("INFO").arg(section)).await?;
        redis::from_redis_value(info).map_err(|_| StoreError::malformed("INFO"))
    }

    /// The reply to one command; an error is one.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command.clone());
        let reply = self.round_trip(&pipeline).await.map_err(|failure| failure.error)?.pop();
        reply.ok_or_else(|| StoreError::malformed("no reply"))?.extract_error().map_err(|it| of_error(&it))
    }
}

/// To each primary of a cluster.
pub(super) struct Many {
    /// As in the topology.
    nodes: Vec<ToNode>,
    slots: Arc<ArcSwap<Topology>>,
    hurry: Arc<Notify>,
    server: ServerIdentity,
}

struct ToNode {
    one: One,
    address: HostPort,
    ground: Ground,
}

/// A key that lies on this node and is read with every question. A node that was emptied has lost it; then what it
/// does not know means nothing, and nobody else would notice: no other node has lost anything.
#[derive(PartialEq)]
struct Ground {
    key: String,
    value: String,
}

impl Many {
    pub async fn open(
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
            let slot =
                topology.first_slot(place).ok_or_else(|| StoreError::malformed("a node without slots"))?;
            let key = format!("pc:ground:{{{}}}", tag_of(slot));
            let value = lay_ground(&one, &key).await?;
            Ok::<_, StoreError>(ToNode { one, address: node.address.clone(), ground: Ground { key, value } })
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
    async fn round_trip(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
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
        let redirected =
            pipeline.cmd_iter().zip(&replies).enumerate().filter_map(|(place, (command, reply))| {
                let (target, asking) = self.redirect(reply.as_ref()?)?;
                Some(async move { Some((place, target.once_more(command, asking).await?)) })
            });
        for (place, reply) in join_all(redirected.collect::<Vec<_>>()).await.into_iter().flatten() {
            if let Some(it) = replies.get_mut(place) {
                *it = Some(reply);
            }
        }
        replies.into_iter().map(|reply| reply.map_or_else(nobody, Ok)).collect()
    }

    /// Where a reply sends us, if we are connected there; and whether for this once only.
    fn redirect(&self, reply: &Value) -> Option<(&ToNode, bool)> {
        let Value::ServerError(error) = reply else { return None };
        let asking = match error.code() {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        self.hurry.notify_waiters();
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
            Some(Value::ServerError(error)) if !matches!(error.code(), "MOVED" | "ASK") => {
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

/// Where nobody has laid it before us, it is laid now.
async fn lay_ground(one: &One, key: &str) -> Result<String, StoreError> {
    let fresh = uuid::Uuid::new_v4().simple().to_string();
    one.ask(redis::cmd("SET").arg(key).arg(&fresh).arg("NX")).await?;
    let laid = one.ask(redis::cmd("GET").arg(key)).await?;
    redis::from_redis_value(laid).map_err(|_| StoreError::malformed("what marks a node"))
}
