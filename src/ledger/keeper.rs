//! What the ledger does behind the requests: probing the database, following the mode, keeping answers in Redis.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::chain::text_for_redis;
use super::members::{self, Member};
use super::outbox::Undelivered;
use super::questions::{Asked, Questions};
use super::redis::PROBE;
use super::settings::LedgerSettings;
use super::store::StoreError;
use super::{Ledger, Mode, upkeep};
use crate::claims::Claims;
use crate::tasks;
use crate::time::Timestamp;

/// How often the outbox is looked at and ended bans are lifted; and after how many such looks what is over is removed.
const TEND: Duration = Duration::from_secs(1);
const PRUNE: u64 = 3600;

impl Ledger {
    /// Starts the background tasks on the current runtime. They outlive requests and end with `shutdown`.
    pub(super) fn start(self: &Arc<Self>, settings: &LedgerSettings, shutdown: &CancellationToken) {
        if let Some(redis) = self.redis.clone() {
            tasks::keep("redis", shutdown, move || Arc::clone(&redis).keep());
        }
        self.keep("probe", shutdown, |ledger| async move { ledger.probe_forever().await });
        self.keep("mode", shutdown, |ledger| async move { ledger.follow_forever().await });
        self.keep("tend", shutdown, |ledger| async move { ledger.tend_forever().await });
        self.keep("recover", shutdown, |ledger| async move { ledger.recover_forever().await });
        self.keep("renew", shutdown, |ledger| async move { ledger.renew_forever().await });
        if self.redis.is_some() && !settings.presets.is_empty() {
            let staleness = settings.max_staleness;
            self.keep("outbox", shutdown, move |ledger| async move { ledger.watch_outbox(staleness).await });
        }
        self.start_chores(shutdown);
        self.start_feed(settings, shutdown);
    }

    /// The link's task: begun last, so that a gateway which starts has tried it once before.
    pub(super) fn start_link(&self, shutdown: &CancellationToken) {
        if let Some(coherent) = &self.coherent {
            let (link, ends) = (Arc::clone(&coherent.link), shutdown.clone());
            // Beyond the shutdown: it closes its connection.
            let beyond = CancellationToken::new();
            tasks::keep("link", &beyond, move || Arc::clone(&link).keep(ends.clone()));
        }
    }

    /// What must happen although nobody asks.
    async fn tend_forever(&self) {
        let mut ticks = tokio::time::interval(TEND);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 0_u64.. {
            ticks.tick().await;
            let now = Timestamp::now();
            self.deliver_outbox().await;
            if let Some(coherent) = &self.coherent {
                self.metrics.memory_answers.set(coherent.kept());
            }
            // While the database is left alone there is nothing to tend.
            if self.database.breaker.is_open() {
                continue;
            }
            if let Some(redis) = self.redis.as_ref().filter(|redis| !redis.breaker.is_open())
                && let Err(error) = self.keep_up(redis).await
            {
                tracing::warn!(%error, "The mark in Redis not raised yet");
            }
            if let Err(error) = upkeep::lift(&self.writer, self.redis.as_deref(), now).await {
                tracing::warn!(%error, "Bans whose time has come not lifted yet");
            }
            if tick % PRUNE == PRUNE - 1 {
                match self.writer.prune(now).await {
                    Ok(pruned) => tracing::info!(?pruned, "Pruned"),
                    Err(error) => tracing::warn!(%error, "Not pruned"),
                }
            }
        }
    }

    /// A change that another gateway could not tell Redis of was acknowledged as pending: from then on Redis is not
    /// believed here either, no later than memory may be stale. To look four times in that time leaves one quarter for the
    /// change itself and one for the looking.
    async fn watch_outbox(&self, staleness: Duration) {
        let quarter = staleness / 4;
        let mut ticks = tokio::time::interval(quarter);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let believed = self.redis.as_ref().is_some_and(|redis| redis.authority.is_believed());
            if self.database.breaker.is_open() || self.doubt.is_raised() || !believed {
                continue;
            }
            if let Ok(true) = self.outbox.is_overdue(quarter).await {
                tracing::warn!("A change waits to be told to Redis; the database is asked");
                self.doubt_redis();
            }
        }
    }

    /// At start: whether anything waits. Delivering it is not waited for.
    pub(super) async fn look_into_outbox(&self) {
        if self.redis.is_none() || self.database.breaker.is_open() {
            return;
        }
        match self.outbox.is_waiting_up_to(i64::MAX).await {
            Ok(true) => self.doubt.raise(),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "Outbox not looked at"),
        }
    }

    /// Tells Redis what it has yet to be told, and whether to believe it.
    pub(super) async fn deliver_outbox(&self) {
        let Some(redis) = &self.redis else { return };
        if self.database.breaker.is_open() {
            return;
        }
        let doubt = self.doubt.number();
        match self.outbox.deliver(redis).await {
            Ok(delivered) => {
                if delivered > 0 {
                    tracing::info!(delivered, "Redis has been told what it missed");
                }
                self.doubt.settle(doubt);
                self.follow_mode();
            }
            Err(Undelivered::ByRedis(error)) => {
                if !self.doubt.is_raised() {
                    tracing::warn!(%error, "Redis lacks a change and does not take it; the database is asked");
                }
                self.doubt_redis();
            }
            Err(Undelivered::ByDatabase(error)) => tracing::debug!(%error, "Outbox not looked at"),
        }
    }

    async fn probe_forever(&self) {
        let mut ticks = tokio::time::interval(PROBE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Told by the breaker.
            self.probe_database().await.unwrap_or_default();
        }
    }

    /// Beside the probe: whoever waits for a database that hangs does not hear that Redis is gone.
    async fn follow_forever(&self) {
        loop {
            self.turned.notified().await;
            self.follow_mode();
        }
    }

    /// A database that is not there at start has nothing to its credit: one failure is enough, or a gateway that can ask
    /// nobody would call itself ready.
    pub(super) async fn probe_database_at_start(&self) {
        if let Err(error) = self.probe_database().await {
            self.database.breaker.trip(&error);
        }
    }

    async fn probe_database(&self) -> Result<(), StoreError> {
        match self.database.sql.ping().await {
            Ok(latency) => {
                self.note_latency(latency);
                self.database.breaker.reset();
                Ok(())
            }
            Err(error) => {
                self.database.breaker.failed(&error);
                Err(error)
            }
        }
    }

    /// Tells of a change of mode, once. Called whenever a breaker has turned or Redis's trust has changed.
    pub(super) fn follow_mode(&self) {
        let now = self.mode();
        let before = self.last_mode.swap(now, Ordering::Relaxed);
        if before != now {
            self.metrics.mode_changed(now);
            match now {
                Mode::Coherent | Mode::Direct => {
                    tracing::info!(ledger.mode = now.word(), ledger.was = before.word(), "Ledger mode")
                }
                Mode::Database | Mode::Blind => {
                    tracing::warn!(ledger.mode = now.word(), ledger.was = before.word(), "Ledger mode");
                }
            }
        }
    }

    /// Keeps an answer of the database in Redis for the rule's `ttl`, beside the request. The database is asked once
    /// more, after the key's version was read: an answer from before a change must not be written after it. A service
    /// that changes its table without telling Redis waits for the `ttl`, as it does with its own cache.
    pub(super) fn write_back(&self, questions: &Questions, asked: &Asked, claims: &Claims) {
        let (Some(redis), Some(key)) = (&self.redis, asked.key()) else { return };
        let Some(bound) = questions.bound(asked, claims, &self.database.memory) else { return };
        // More than this at once would make a cold cache a second load on the database.
        let Ok(permit) = Arc::clone(&self.write_backs).try_acquire_owned() else { return };
        let (redis, database, bound) = (Arc::clone(redis), Arc::clone(&self.database), Arc::clone(bound));
        let (rule, key, member) =
            (Arc::clone(&asked.rule), key.to_owned(), asked.member().map(str::to_owned));
        let (issued_at, ends) = (claims.issued_at(), claims.expires_at());
        tokio::spawn(async move {
            let _permit = permit;
            let Some(statement) = rule.whole.as_ref().or(rule.statement.as_ref()) else { return };
            if let Some(member) = &member {
                let member = Member { key: &key, member, issued_at, ends };
                return members::keep(&redis, &database, &rule, (statement, &bound), member).await;
            }
            let Ok(seen) = redis.version(&key).await else { return };
            let kept = database.query(statement, &bound).await;
            if let Some(text) = text_for_redis(&rule, &kept) {
                let ttl = rule.rule.ttl.max(Duration::from_millis(1));
                if let Err(error) = redis.write_back(&key, &text, ttl, &seen).await {
                    tracing::debug!(ledger.rule = %rule.rule.name, %error, "Answer not kept in Redis");
                }
            }
        });
    }
}
