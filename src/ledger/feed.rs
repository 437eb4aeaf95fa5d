//! Who changed behind our back. Three sources tell: rows of `portcullis_changes` (written by triggers and by other
//! gateways, announced by NOTIFY on PostgreSQL, looked for each `[database] poll` everywhere), the change time that a
//! service's table keeps itself where it has no triggers, and the keys that Redis pushes.
//!
//! Whoever is named is forgotten by memory at once and rechecked ([`super::recheck`]). Notifications only wake: what
//! counts is what the table says, so that one that is lost costs a poll's period and nothing else.

mod changes;
mod delta;
mod keys;
mod listen;
mod metrics;
mod pulse;
mod triggers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::adopt::Work;
use super::link::Link;
use super::preset::PresetContext;
use super::recheck::Cause;
use super::redis::RedisStore;
use super::settings::{LedgerSettings, RedisSettings};
use super::sql::{Dialect, SqlStore};
use super::store::StoreError;
use super::{Ledger, recheck};
use crate::tasks;
use crate::time::Timestamp;

pub use changes::note;
pub use keys::{Guarded, Keys};
pub use metrics::FeedMetrics;
pub use pulse::Pulse;

use changes::{Changed, Reader};
use delta::Delta;
use listen::listen;

/// What the sources of gateways begin with; those of triggers are tables' names.
const GATEWAY: &str = "portcullis";

/// The same for gateways that have the same layouts in the same Redis: what one of them was told the others need not tell.
pub fn source_of(settings: &LedgerSettings) -> Box<str> {
    let place = settings.redis.as_ref().map(RedisSettings::place);
    let digest = Sha256::digest(format!("{:?} {place:?}", settings.presets));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{GATEWAY}:{digest}").into()
}

/// How often it is looked at whether the triggers are still there.
const LOOK_AT_TRIGGERS: Duration = Duration::from_secs(30);

/// How often it is looked at whether pushes have been missed; and how many keys may wait to be copied.
const LOOK_AT_SESSION: Duration = Duration::from_millis(250);
const WORK: usize = 4096;

/// Installs or removes the triggers on every table of users. Returns the tables' names.
pub async fn watch(settings: &LedgerSettings, on: bool) -> Result<Vec<String>, StoreError> {
    let sql = SqlStore::open(&settings.database)?;
    let LedgerSettings { presets, token_lifetime, refresh_lifetime, leeway, .. } = settings;
    let context = PresetContext::load(&sql, presets, *token_lifetime, *refresh_lifetime, *leeway).await?;
    let mut names = Vec::new();
    for watched in triggers::watched(presets, &context) {
        match on {
            true => triggers::install(&sql, &watched).await?,
            false => triggers::remove(&sql, &watched).await?,
        }
        names.push(watched.table.name().to_owned());
    }
    Ok(names)
}

impl Ledger {
    /// Starts what hears of changes and what follows from them.
    pub(super) fn start_feed(self: &Arc<Self>, settings: &LedgerSettings, shutdown: &CancellationToken) {
        let database = &settings.database;
        let (poll, woken) = (database.poll, Arc::new(Notify::new()));
        // What other gateways changed has to be known before memory is too old to be believed.
        let looks = poll.min(settings.max_staleness / 2);
        // Rules of one's own alone need none of our tables, and there may be none.
        if !settings.presets.is_empty() {
            if self.database.sql.dialect() == Dialect::Postgres {
                let (url, rings) = (database.url.clone(), Arc::clone(&woken));
                tasks::keep("listen", shutdown, move || listen(url.clone(), Arc::clone(&rings)));
            }
            self.keep("changes", shutdown, move |ledger| ledger.follow_changes(looks, Arc::clone(&woken)));
            self.keep("tables", shutdown, move |ledger| ledger.follow_tables(poll));
        }
        let (Some(redis), Some(coherent)) = (self.redis.clone(), &self.coherent) else { return };
        if let Some(names) = coherent.link.pushes() {
            let (link, names) = (Arc::clone(&coherent.link), Arc::new(Mutex::new(names)));
            self.keep("pushes", shutdown, move |ledger| {
                ledger.follow_pushes(Arc::clone(&redis), Arc::clone(&link), Arc::clone(&names))
            });
        }
        for _ in 0..recheck::WORKERS {
            self.keep("recheck", shutdown, Self::recheck_forever);
        }
    }

    /// Looks for changes for ever: each `poll`, and whenever `woken` says that there is one.
    pub(super) async fn follow_changes(self: Arc<Self>, poll: Duration, woken: Arc<Notify>) {
        let mut ticks = tokio::time::interval(poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reader = Reader::default();
        let mut failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = woken.notified() => {}
            }
            // Left alone, like any other question: a probe finds out when it is back.
            let looked = match self.database.breaker.is_open() {
                true => Err(StoreError::unavailable("left alone until it answers a probe")),
                false => self.look(&mut reader).await,
            };
            match looked {
                Ok(()) => failing = false,
                Err(error) => {
                    self.feed_pulse().stop();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "Changes made elsewhere are not heard of at present");
                    }
                }
            }
            self.metrics.feed.up.set(i64::from(self.feed_pulse().is_alive()));
        }
    }

    /// Reads to the end.
    async fn look(&self, reader: &mut Reader) -> Result<(), StoreError> {
        loop {
            let began = Instant::now();
            let (changed, more) = reader.look(&self.database.sql).await?;
            self.metrics.feed.noted.inc_by(changed.len() as u64);
            let mut elsewhere = false;
            for Changed { source, subject } in changed {
                let by_such = source == self.writer.source;
                elsewhere |= !by_such && source.starts_with(GATEWAY);
                match subject {
                    Some(subject) => self.heard_of(subject, by_such).await,
                    None => self.forget_answers(),
                }
            }
            if elsewhere && let Some(redis) = &self.redis {
                self.tell_of_others(redis).await;
            }
            if !more {
                self.feed_pulse().beat(began);
                return Ok(());
            }
        }
    }

    /// A user's row has changed. Who changed it through a gateway such as this has told Redis.
    async fn heard_of(&self, subject: Box<str>, by_such: bool) {
        self.database.memory.forget(&subject);
        self.recently.insert(subject.clone(), ());
        if !by_such && self.redis.is_some() {
            self.rechecks.put(subject, Cause::Row).await;
        }
    }

    /// Deals with what Redis pushes, for ever: users are rechecked, and what only Redis knows is copied.
    async fn follow_pushes(
        self: Arc<Self>,
        redis: Arc<RedisStore>,
        link: Arc<Link>,
        names: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
    ) {
        // Nobody else wants it while this goes on.
        let mut names = names.lock().await;
        let Some(adoption) = &self.adoption else {
            while let Some(name) = names.recv().await {
                self.pushed(&name);
            }
            return;
        };
        let (sender, work) = mpsc::channel(WORK);
        let route = async {
            while let Some(name) = names.recv().await {
                self.pushed(&name);
                // Waiting here makes names be dropped, and that makes them be listed anew.
                if adoption.wants(&name) && sender.send(Work::Key(name)).await.is_err() {
                    return;
                }
            }
        };
        let stock = async {
            let mut taken = None;
            loop {
                let present = link.session();
                if let Some(present) = present.filter(|_| present != taken) {
                    match adoption.take_stock(&redis, &sender, present).await {
                        Ok(()) => taken = Some(present),
                        Err(error) => tracing::debug!(%error, "Entries of services not listed yet"),
                    }
                }
                tokio::time::sleep(LOOK_AT_SESSION).await;
            }
        };
        tokio::join!(route, stock, adoption.follow(&redis, work, &link));
    }

    /// Redis has pushed a key: it was written, it has gone, or it has run out.
    pub(super) fn pushed(&self, key: &[u8]) {
        let Some((subject, guarded)) = self.keys.subject(key) else { return };
        self.metrics.feed.pushed.inc();
        let cause = if guarded.is_cache() { Cause::Copy } else { Cause::List };
        if !self.rechecks.offer(subject.into(), cause) {
            self.metrics.feed.dropped.inc();
        }
    }

    fn feed_pulse(&self) -> &Pulse {
        &self.database.pulse
    }

    /// Looks after the triggers for ever; tables without them are asked for what has changed lately.
    pub(super) async fn follow_tables(self: Arc<Self>, poll: Duration) {
        let context = &self.writer.context;
        let watched = triggers::watched(&self.writer.presets, context);
        let mut tables: Vec<Delta<'_>> = watched.iter().map(Delta::new).collect();
        let mut looked: Option<Instant> = None;
        let mut unwatched = false;
        loop {
            let began = Instant::now();
            if !self.database.breaker.is_open() {
                if looked.is_none_or(|at| at.elapsed() >= LOOK_AT_TRIGGERS) {
                    looked = Some(began);
                    let mut all = true;
                    for table in &mut tables {
                        table.has_triggers =
                            triggers::installed(&self.database.sql, table.watched).await.unwrap_or(false);
                        all &= table.has_triggers;
                    }
                    self.database.told.store(all, Ordering::Release);
                    if let Err(error) = changes::prune(&self.database.sql, Timestamp::now()).await {
                        tracing::debug!(%error, "Old changes not cleared away");
                    }
                    if !all && !std::mem::replace(&mut unwatched, true) {
                        tracing::info!(
                            "Tables of users have no triggers: run `portcullis migrate --watch-users` to hear of \
                             every change within a second"
                        );
                    }
                }
                for table in tables.iter_mut().filter(|table| !table.has_triggers) {
                    self.poll(table).await;
                }
            }
            // However large a table is and however it is indexed, this takes no more than a tenth of one core.
            tokio::time::sleep(poll.max(began.elapsed() * 10)).await;
        }
    }

    async fn poll(&self, table: &mut Delta<'_>) {
        match table.look(&self.database.sql, Timestamp::now()).await {
            Ok(subjects) => {
                self.metrics.feed.polled.inc_by(subjects.len() as u64);
                for subject in subjects {
                    self.heard_of(subject, false).await;
                }
            }
            Err(error) => tracing::debug!(%error, "Table of users not looked at"),
        }
    }
}
