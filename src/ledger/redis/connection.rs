//! What the store talks over: one connection, or one to each primary of a cluster, torn down as a unit.

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, RedisError, Value};

use super::link::ServerIdentity;
use super::many::Many;
use super::of_error;
use super::servers::Primary;
use super::sight::Sight;
use crate::ledger::store::StoreError;

/// Connected.
pub enum Connection {
    One(Box<One>),
    Many(Many),
}

/// A question without an answer, and whether there can be another on the same connection.
#[derive(Debug)]
pub struct Failure {
    pub error: StoreError,
    pub fatal: bool,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self { error: of_error(&error), fatal: error.is_unrecoverable_error() }
    }
}

/// What the servers said to a fence.
pub struct Fenced {
    /// Of each.
    pub roles: Vec<Value>,
    /// The reply to the authority's question.
    pub mark: Value,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, fatal: false }
    }
}

impl Connection {
    /// One reply for each command, errors among them.
    pub async fn round_trip(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        self.whole(
            pipeline,
            match self {
                Self::One(one) => one.round_trip(pipeline).await,
                Self::Many(many) => many.round_trip(pipeline).await,
            },
        )
    }

    /// The same, each from whom it was asked of: a reply that sends us elsewhere is the answer.
    pub async fn round_trip_straight(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        self.whole(
            pipeline,
            match self {
                Self::One(one) => one.round_trip(pipeline).await,
                Self::Many(many) => many.round_trip_straight(pipeline).await,
            },
        )
    }

    fn whole(
        &self,
        pipeline: &Pipeline,
        replies: Result<Vec<Value>, Failure>,
    ) -> Result<Vec<Value>, Failure> {
        self.stands()?;
        let replies = replies?;
        if replies.len() != pipeline.len() {
            return Err(incomplete());
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
        self.stands()
    }

    /// Who the servers are to each other, to be compared at every fence; an error while that is not settled.
    pub async fn look(&self) -> Result<Sight, StoreError> {
        match self {
            Self::One(_) => Ok(Sight::default()),
            Self::Many(many) => many.look().await.map_err(|failure| failure.error),
        }
    }

    /// Asks all servers for a sign of life, and for the mark. An error where they are not to each other any more what
    /// they were.
    pub async fn fence(&self, mark: &Cmd, sight: &Sight) -> Result<Fenced, Failure> {
        let fenced = match self {
            Self::One(one) => one.fence(mark).await,
            Self::Many(many) => many.fence(mark, sight).await,
        };
        self.stands()?;
        fenced
    }

    /// A name of ours as a key on each server, in the order of [`Connection::each`].
    pub fn key_on_each(&self, name: &str) -> Vec<String> {
        match self {
            Self::One(_) => vec![name.to_owned()],
            Self::Many(many) => many.key_on_each(name),
        }
    }

    /// Slots are not where we thought: everybody is asked at once where they are.
    pub fn look_anew(&self) {
        if let Self::Many(many) = self {
            many.hurry();
        }
    }

    /// Asked after each answer: a server that hung meanwhile may have been deposed before it answered.
    fn stands(&self) -> Result<(), Failure> {
        if self.primary().is_some_and(|it| !it.stands()) { Err(deposed()) } else { Ok(()) }
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
            Self::Many(many) => many.server(),
        }
    }

    /// To each server.
    pub fn each(&self) -> impl Iterator<Item = &One> {
        let (one, many) = match self {
            Self::One(one) => (Some(&**one), None),
            Self::Many(many) => (None, Some(many.each())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

pub(super) fn incomplete() -> Failure {
    Failure { error: StoreError::malformed("not one reply for each command"), fatal: false }
}

pub(super) fn deposed() -> Failure {
    Failure { error: super::deposed(), fatal: true }
}

/// To one server.
pub struct One {
    connection: MultiplexedConnection,
    primary: Primary,
    pub(super) server: ServerIdentity,
}

impl One {
    pub(super) async fn open(
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

    /// The connection itself, for what is no question.
    pub fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    async fn fence(&self, mark: &Cmd) -> Result<Fenced, Failure> {
        let mut questions = Pipeline::with_capacity(2);
        questions.cmd("ROLE");
        questions.add_command(mark.clone());
        match <[Value; 2]>::try_from(self.round_trip(&questions).await?) {
            Ok([role, mark]) => Ok(Fenced { roles: vec![role], mark }),
            Err(_) => Err(incomplete()),
        }
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
