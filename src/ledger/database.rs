//! The database with all that spares it: answers kept for a moment, one question for all who ask at the same time, so many
//! questions at once and no more, and none while it is known to be away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::breaker::Breaker;
use super::feed::Pulse;
use super::memory::{Kept, LIFE, LONG_LIFE, Memory, Question, Recall};
use super::metrics::LedgerMetrics;
use super::questions::Bound;
use super::rule::Rule;
use super::settings::{DatabaseSettings, LedgerSettings};
use super::sql::{SqlStore, Statement};
use super::store::StoreError;

/// The database with all that spares it.
pub(super) struct Database {
    pub sql: SqlStore,
    pub memory: Memory,
    pub breaker: Breaker,
    /// How many questions may be put at one time: fewer than there are connections, so that changes get through.
    pub permits: Semaphore,
    /// How long an answer is believed of whose table nobody tells: no longer than memory may be stale.
    pub life: Duration,
    /// How long a question may wait for its turn.
    pub patience: Duration,
    pub overloads: IntCounter,
    pub pulse: Pulse,
    /// Whether every table of users tells of its changes.
    pub told: AtomicBool,
    /// The rules whose tables may be known to tell of every change, and whether triggers are needed for that.
    pub telling: HashMap<Arc<str>, bool>,
}

impl Database {
    pub fn new(
        sql: SqlStore,
        breaker: Breaker,
        settings: &LedgerSettings,
        metrics: &LedgerMetrics,
        telling: HashMap<Arc<str>, bool>,
    ) -> Self {
        let DatabaseSettings { max_connections, timeout, .. } = settings.database;
        Self {
            sql,
            memory: Memory::new(settings.answers),
            breaker,
            permits: Semaphore::new(usize::try_from(max_connections.saturating_sub(2).max(1)).unwrap_or(1)),
            life: LIFE.min(settings.max_staleness),
            patience: timeout,
            overloads: metrics.feed.overloads.clone(),
            pulse: Pulse::new(settings.max_staleness),
            told: AtomicBool::new(false),
            telling,
        }
    }

    /// The first row of a query about a user, from memory if somebody asked within `life`.
    pub async fn answer(
        &self,
        statement: &Statement,
        bound: &Bound,
        subject: &str,
        life: Duration,
    ) -> (Kept, Recall, Instant) {
        let question = Question { key: bound.key, subject, life };
        self.memory.answer(question, || self.query(statement, bound)).await
    }

    /// How long an answer to a rule's query is believed.
    pub fn life(&self, rule: &Rule) -> Duration {
        match self.telling.get(&rule.name) {
            Some(false) if self.pulse.is_alive() => LONG_LIFE,
            Some(true) if self.hears_of_tables() => LONG_LIFE,
            _ => self.life,
        }
    }

    /// Whether every change of a table of users is known within the pulse's lease.
    pub fn hears_of_tables(&self) -> bool {
        self.told.load(Ordering::Acquire) && self.pulse.is_alive()
    }

    /// The first row of a rule's query. More questions than the database can take are turned away: that says nothing
    /// against the database.
    pub async fn query(&self, statement: &Statement, bound: &Bound) -> Kept {
        let Ok(Ok(_permit)) = timeout(self.patience, self.permits.acquire()).await else {
            self.overloads.inc();
            return Err(StoreError::unavailable("too many questions are waiting for it"));
        };
        let Some(attempt) = self.breaker.attempt() else {
            return Err(StoreError::unavailable("left alone until it answers a probe"));
        };
        let row = self.sql.first_row(statement, &bound.arguments).await;
        match &row {
            Err(error) if error.is_outage_of_the_store() => attempt.failed(error),
            Ok(_) | Err(_) => attempt.succeeded(),
        }
        row.map(|row| row.map(Arc::new))
    }
}
