//! What the ledger does to be able to believe Redis: it keeps the mark up with the database, fills Redis where it has
//! lost something, and renews what layouts let end.

use std::time::Duration;

use super::Ledger;
use super::reconcile::{Ended, FillError, Filler, Gap};
use super::redis::RedisStore;
use super::watermark::Why;

/// How often a gateway that waits for another one looks whether Redis has been filled.
const WATCH: Duration = Duration::from_millis(250);
/// Longest pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked at whether keys have to be renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long a gateway that starts waits for Redis to be filled before it serves: a small database is done by then.
const START: Duration = Duration::from_millis(500);

impl Ledger {
    fn filler<'a>(&'a self, redis: &'a RedisStore) -> Filler<'a> {
        let Self { writer, adoption, rechecks, metrics, .. } = self;
        Filler { writer, redis, adoption: adoption.as_ref(), rechecks, metrics: &metrics.reconcile }
    }

    /// Both stores are needed.
    fn can_recover(&self, redis: &RedisStore) -> bool {
        !redis.breaker.is_open() && !self.database.breaker.is_open() && redis.authority.field().is_some()
    }

    /// Fills Redis whenever it is not to be believed.
    pub(super) async fn recover_forever(&self) {
        let Some(redis) = &self.redis else { return };
        let mut pause = WATCH;
        loop {
            // Whoever rings may be a reply from long ago, and a gateway that is alone and idle hears nobody.
            let _ = tokio::time::timeout(Duration::from_secs(1), redis.authority.lost()).await;
            while !redis.authority.is_believed() && self.can_recover(redis) {
                match self.recover(redis).await {
                    Ok(Ended::Filled) => pause = WATCH,
                    Ok(Ended::Elsewhere) => tokio::time::sleep(WATCH).await,
                    Err(FillError::Overtaken) => pause = WATCH,
                    Err(error) => {
                        tracing::warn!(%error, "Redis not filled yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE);
                    }
                }
            }
        }
    }

    async fn recover(&self, redis: &RedisStore) -> Result<Ended, FillError> {
        let link = redis.link().map_err(FillError::Redis)?;
        let mark = redis.mark_on(&link).await.map_err(FillError::Redis)?;
        if redis.authority.is_believed() {
            return Ok(Ended::Filled);
        }
        match redis.authority.why() {
            why if why.is_loss() => {
                if let (Why::Behind, Some(mark)) = (why, &mark) {
                    redis.disown(mark).await.map_err(FillError::Redis)?;
                }
                let ended = self.filler(redis).fill(why).await?;
                if ended == Ended::Filled {
                    // What was told meanwhile is there, and waits for nothing but the new mark.
                    self.deliver_outbox().await;
                    redis.renewed_for(self.renewal()).await.map_err(FillError::Redis)?;
                }
                Ok(ended)
            }
            Why::Unproven => {
                self.deliver_outbox().await;
                self.filler(redis).keep_up(&self.outbox, Gap::Any).await?;
                Ok(if redis.authority.is_believed() { Ended::Filled } else { Ended::Elsewhere })
            }
            _ => Ok(Ended::Elsewhere),
        }
    }

    /// Raises the mark to what the database holds. To be called each second, after the outbox was found empty.
    pub(super) async fn keep_up(&self, redis: &RedisStore) -> Result<(), FillError> {
        self.filler(redis).keep_up(&self.outbox, Gap::MustLast(&self.gap)).await
    }

    /// A gateway with other layouts, or another Redis, has made a change: ours was not told of it.
    pub(super) async fn tell_of_others(&self, redis: &RedisStore) {
        if self.can_recover(redis)
            && let Err(error) = self.filler(redis).tell_all_since().await
        {
            tracing::debug!(%error, "Redis is told with the next look");
        }
    }

    /// Renews the keys that a layout prescribes a life for, when half of the shortest is over. When that was done last is
    /// kept in Redis, for all gateways.
    pub(super) async fn renew_forever(&self) {
        let Some(redis) = &self.redis else { return };
        let pause = self.renewal().min(RENEW);
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.renew(redis).await {
                tracing::warn!(%error, "Keys of banned users not renewed yet");
            }
        }
    }

    async fn renew(&self, redis: &RedisStore) -> Result<(), FillError> {
        let well = self.can_recover(redis) && redis.authority.is_believed();
        if well
            && redis.is_due().await.map_err(FillError::Redis)?
            && self.filler(redis).renew().await? == Ended::Filled
        {
            redis.renewed_for(self.renewal()).await.map_err(FillError::Redis)?;
        }
        Ok(())
    }

    /// How long keys need not be renewed.
    fn renewal(&self) -> Duration {
        let context = &self.writer.context;
        let lives = self.writer.users().map(|layout| layout.ttl(context));
        let shortest = lives.chain([context.longest_life()]).min().unwrap_or_default();
        (shortest / 2).max(Duration::from_secs(1))
    }

    /// At start: Redis may have to be filled, or filled up. Nobody waits long for it.
    pub(super) async fn await_belief(&self) {
        let Some(redis) = &self.redis else { return };
        let deadline = tokio::time::Instant::now() + START;
        while self.can_recover(redis)
            && !redis.authority.is_believed()
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
