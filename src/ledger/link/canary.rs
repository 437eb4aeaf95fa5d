//! The canary: a change made over the ledger's other connection has to be heard over the link. A proxy that accepts
//! tracking and swallows the pushes, or an ordinary connection that leads to another server, is found out by nothing else.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Trouble;
use super::ear::Ear;
use crate::ledger::coherence::Tick;
use crate::ledger::metrics::LinkMetrics;
use crate::ledger::redis::{Connection, RedisStore};
use crate::ledger::store::StoreError;

/// How often one is sent, and how long it may take to be heard.
const EVERY: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(250);

/// One canary on each server, or the waiting for the next ones.
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

    /// Writes them.
    pub fn fly(redis: &Arc<RedisStore>, ear: &Ear, connection: &Connection) -> Self {
        let keys = connection.key_on_each(ear.canary());
        let sent = ear.listen_for(&keys);
        let redis = Arc::clone(redis);
        let writing = tokio::spawn(async move { redis.write_canaries(&keys).await });
        Self { writing: Some(writing), sent, since: Instant::now() }
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
        if self.since.elapsed() < SOON && ear.canaries_heard().is_none() {
            // Nothing to say yet: the next fence comes before long.
            return Ok(());
        }
        let written = if writing.is_finished() { writing.await.unwrap_or(Ok(false)) } else { Ok(false) };
        *self = Self { writing: None, since: Instant::now(), ..*self };
        match (written, ear.canaries_heard()) {
            (Ok(true), None) => Err(deaf()),
            (Ok(true), Some(heard)) => {
                metrics.push_lag.observe(heard.since(self.sent).as_secs_f64());
                Ok(())
            }
            // Nobody could write it: the other connection has troubles of its own, or may not.
            (Ok(false) | Err(_), _) => Ok(()),
        }
    }

    /// Writes them and waits for them, behind an answer of each server: however slow we are ourselves, the push is heard
    /// before that. `false` where one may not be written, which proves nothing either way.
    pub async fn prove(redis: &RedisStore, ear: &Ear, connection: &Connection) -> Result<bool, Trouble> {
        let keys = connection.key_on_each(ear.canary());
        ear.listen_for(&keys);
        if !redis.write_canaries(&keys).await? {
            return Ok(false);
        }
        for patience in [Duration::ZERO, SOON] {
            sleep(patience).await;
            for one in connection.each() {
                one.ask(&cmd("PING")).await?;
            }
            if ear.canaries_heard().is_some() {
                return Ok(true);
            }
        }
        Err(deaf())
    }
}

fn deaf() -> Trouble {
    Trouble::refused("changes are not pushed, although tracking was accepted")
}
