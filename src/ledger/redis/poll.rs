//! Asks one server the same question again and again: what sentinels and cluster nodes know changes.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, ConnectionInfo, Pipeline, ProtocolVersion, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::of_error;
use crate::ledger::store::StoreError;

/// How often each is asked.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// However it is hurried.
const AT_LEAST: Duration = Duration::from_millis(20);
/// How long an answer counts, from when it was asked for.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// How long an answer may take. It counts from when it was asked for, so patience costs nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// What to ask, whom, and how it is told.
pub(super) struct Poll<'a> {
    pub info: &'a ConnectionInfo,
    /// What it is in the log.
    pub who: &'static str,
    pub question: Pipeline,
    /// A channel on which it tells of changes by itself.
    pub channel: Option<&'static str>,
    /// Asks at once when it is rung.
    pub hurry: &'a Arc<Notify>,
}

impl Poll<'_> {
    /// Never returns. `heard` is told of every attempt, with the replies and when they were asked for.
    pub async fn run(
        &self,
        heard: impl Fn(Result<(Vec<Value>, Instant), StoreError>) -> Result<(), StoreError>,
    ) {
        let mut connection = None;
        let mut told = String::new();
        loop {
            let hurry = self.hurry.notified();
            match heard(self.ask(&mut connection).await) {
                Ok(()) => told.clear(),
                Err(error) => {
                    connection = None;
                    let trouble = error.to_string();
                    if trouble != told {
                        tracing::warn!(address = %self.info.addr(), %error, "A {} has no answer", self.who);
                    }
                    told = trouble;
                }
            }
            let soon = async {
                tokio::time::sleep(AT_LEAST).await;
                hurry.await;
            };
            let _ = tokio::time::timeout(POLL, soon).await;
        }
    }

    async fn ask(
        &self,
        connection: &mut Option<MultiplexedConnection>,
    ) -> Result<(Vec<Value>, Instant), StoreError> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.connect().await?),
        };
        let asked = Instant::now();
        let replies = connection.send_packed_commands(&self.question, 0, self.question.len()).await;
        Ok((replies.map_err(|error| of_error(&error))?, asked))
    }

    /// RESP3, so that one connection is asked and tells by itself.
    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let settings = self.info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = redis::Client::open(self.info.clone().set_redis_settings(settings));
        let client = client.map_err(|error| of_error(&error))?;
        let hurry = Arc::clone(self.hurry);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            // Only a hint: whatever it says, everybody is asked.
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Message {
                    hurry.notify_waiters();
                }
                Ok::<(), SendError>(())
            });
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(|error| of_error(&error))?;
        if let Some(channel) = self.channel {
            // Without it a change is noticed a poll later.
            connection.subscribe(channel).await.unwrap_or_default();
        }
        Ok(connection)
    }
}
