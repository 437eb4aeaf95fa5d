//! The canary: a change made over the ledger's other connection has to be heard over the link. A proxy that accepts
//! tracking and swallows the pushes, or an ordinary connection that leads to another server, is found out by nothing else.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Trouble;
use super::ear::Ear;
use crate::ledger::coherence::{Coherence, Tick};
use crate::ledger::metrics::LinkMetrics;
use crate::ledger::redis::{RedisStore, of_error};
use crate::ledger::store::StoreError;

/// How often one is sent, and how long it may take to be heard.
const EVERY: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(250);

/// One canary, or the waiting for the next one.
pub struct Canary {
    writing: Option<JoinHandle<Result<bool, StoreError>>>,
    sent: Tick,
    since: Instant,
}

impl Canary {
    /// The next one is due in half a minute.
    pub fn later() -> Self {
        Self { writing: None, sent: Tick::ZERO, since: Instant::now() }
    }

    /// Writes one.
    pub fn fly(redis: &Arc<RedisStore>, ear: &Arc<Ear>, coherence: &Coherence) -> Self {
        ear.forget_canary();
        let (redis, key) = (Arc::clone(redis), ear.canary().to_vec());
        let writing = tokio::spawn(async move { redis.write_canary(&key).await });
        Self { writing: Some(writing), sent: coherence.now(), since: Instant::now() }
    }

    pub fn is_due(&self) -> bool {
        self.writing.is_none() && self.since.elapsed() >= EVERY
    }

    /// Whether there is anything to judge once a fence that is sent from now on has been answered.
    pub fn is_written(&self) -> bool {
        self.writing.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Whether it was heard. Called after a fence, with which it has to have come on one connection; a proxy may hold
    /// it back for a moment longer.
    pub async fn judge(&mut self, ear: &Ear, metrics: &LinkMetrics) -> Result<(), Trouble> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        if self.since.elapsed() < SOON && ear.canary_heard().is_none() {
            // Nothing to say yet: the next fence comes before long.
            return Ok(());
        }
        let written = if writing.is_finished() { writing.await.unwrap_or(Ok(false)) } else { Ok(false) };
        *self = Self { writing: None, since: Instant::now(), ..*self };
        match (written, ear.canary_heard()) {
            (Ok(true), None) => Err(deaf()),
            (Ok(true), Some(heard)) => {
                metrics.push_lag.observe(heard.since(self.sent).as_secs_f64());
                Ok(())
            }
            // Nobody could write it: the other connection has troubles of its own, or may not.
            (Ok(false) | Err(_), _) => Ok(()),
        }
    }

    /// Writes one and waits for it, behind an answer over `connection`: however slow we are ourselves, the push is
    /// heard before that. `false` where it may not be written, which proves nothing either way.
    pub async fn prove(
        redis: &RedisStore,
        ear: &Ear,
        connection: &mut MultiplexedConnection,
    ) -> Result<bool, Trouble> {
        ear.forget_canary();
        if !redis.write_canary(ear.canary()).await? {
            return Ok(false);
        }
        for patience in [Duration::ZERO, SOON] {
            sleep(patience).await;
            connection.send_packed_command(&cmd("PING")).await.map_err(|error| of_error(&error))?;
            if ear.canary_heard().is_some() {
                return Ok(true);
            }
        }
        Err(deaf())
    }
}

fn deaf() -> Trouble {
    Trouble::refused("changes are not pushed, although tracking was accepted")
}
