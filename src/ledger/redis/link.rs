//! One connection, and the server at its other end: who that is is asked before anything else.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};

use super::{RedisStore, of_error};
use crate::ledger::store::StoreError;

/// A connection to a server that has said who it is.
pub struct Link {
    connection: MultiplexedConnection,
    pub server: ServerIdentity,
}

/// From `INFO server`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Random, drawn at the start of the process; empty where the server does not tell, and then it is never believed.
    pub run_id: Box<str>,
    pub version: Box<str>,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: Box<str>,
}

impl ServerIdentity {
    /// Reads the reply to `INFO server`.
    pub fn read(reply: &Value) -> Self {
        let text = match reply {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
            Value::VerbatimString { text, .. } => text.as_str().into(),
            Value::SimpleString(text) => text.as_str().into(),
            _ => return Self::default(),
        };
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim_end().split_once(':'));
            lines.find(|(field, _)| *field == name).map_or("", |(_, value)| value).into()
        };
        Self { run_id: field("run_id"), version: field("redis_version"), mode: field("redis_mode") }
    }
}

impl Link {
    /// Cheap: all share the socket.
    pub fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }
}

impl RedisStore {
    /// A connection of its own, whose server has been asked who it is and for its mark. Waits `patience` for replies.
    pub(in crate::ledger) async fn new_link(&self, patience: Duration) -> Result<Link, StoreError> {
        let config = redis::AsyncConnectionConfig::new()
            // A handshake is several round trips, with TLS some more.
            .set_connection_timeout(Some(self.timeout.saturating_mul(10).max(Duration::from_secs(1))))
            .set_response_timeout(Some(patience))
            // Of redis-rs's 50 the fifty-first request of a burst would wait for the driver before it is even written.
            .set_pipeline_buffer_size(1024);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(|error| of_error(&error))?;
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("INFO").arg("server");
        pipeline.add_command(self.authority.command().clone());
        let captured = self.authority.capture();
        let replies = connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
        let replies = replies.map_err(|error| of_error(&error))?;
        let server = replies.first().map(ServerIdentity::read).unwrap_or_default();
        if let Some(mark) = replies.get(1) {
            self.authority.hear(captured, mark, &server.run_id);
        }
        if server.run_id.is_empty() {
            tracing::warn!(
                "Redis does not tell its `run_id` (`INFO server`): its silence cannot be believed"
            );
        }
        Ok(Link { connection, server })
    }
}
