//! All rules and the stores behind them. Asks; never denies, never speaks HTTP.
//!
//! Read in this order: [`rule`] (what can be asked), `questions` (what is asked about one token), `chain` (who is asked
//! and in which order), `condition` (what an answer says); then the stores and what protects them.

pub mod change;
pub mod preset;
pub mod rule;
pub mod settings;

mod adopt;
mod alias;
mod answers;
mod breaker;
mod chain;
mod chores;
mod coherence;
mod concern;
mod condition;
mod database;
mod doubt;
mod feed;
mod foundation;
mod health;
mod keeper;
mod link;
mod members;
mod memory;
mod metrics;
mod migrate;
mod mode;
mod outbox;
pub mod profile;
mod questions;
mod recheck;
mod recall;
mod reconcile;
mod records;
mod recovery;
pub mod redis;
mod schema;
pub mod sessions;
pub mod shown;
pub mod sql;
pub mod store;
mod tasks;
mod thoroughness;
mod upkeep;
mod watermark;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use adopt::Adoption;
use alias::Aliases;
use breaker::Breaker;
use chores::Chores;
use database::Database;
use doubt::Doubt;
use feed::Keys;
use foundation::Foundation;
use mode::LastMode;
use outbox::Outbox;
use profile::Profiles;
use questions::Rules;
use recall::Coherent;
use recheck::Queue;
use sql::SqlStore;
use watermark::Authority;
use write::Writer;

use crate::claims::{Claims, User};
use crate::time::Timestamp;
use crate::token::Token;

pub use change::{Applied, Change, ChangeError, RedisState, Status, UserRecord};
pub use concern::{Concern, Heard, Outlook};
pub use feed::watch;
pub use health::{Health, StoreHealth};
pub use metrics::LedgerMetrics;
pub use mode::Mode;
pub use questions::Questions;
pub use records::{Pruned, Stats};
pub use redis::{RedisStore, RedisWrite};
pub use rule::{Guards, Rule};
pub use settings::{DatabaseSettings, LedgerSettings, RedisSettings};
pub use store::StoreError;
use thoroughness::Thoroughness;

/// Three answers, not two: *could not ask* is neither yes nor no.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// No rule denies.
    Live,
    /// A rule denies. A known revocation outweighs an outage elsewhere.
    Revoked(Revocation),
    /// No rule denies, but some could not be asked anywhere.
    Unknown(Outage),
}

/// What a rule holds against a credential.
#[derive(Clone, Debug, PartialEq)]
pub struct Revocation {
    /// The rule that denies, as configured.
    pub rule: Arc<str>,
    /// The word of the denial: `token_revoked`, `user_banned`, or the operator's own.
    pub reason: Arc<str>,
    /// The status the rule prescribes: 401 or 403 unless the operator wrote another.
    pub status: u16,
    /// Which store said so.
    pub source: Source,
}

/// Which store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Memory,
    Redis,
    Database,
}

/// Why a question had no answer. For the operator only.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("rule `{rule}` could not be asked: {cause}")]
pub struct Outage {
    pub rule: Arc<str>,
    pub cause: Arc<str>,
}

/// A claim a rule needs to name its key is missing or cannot be part of a key: the credential is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("claim `{0}` is missing or cannot name a key")]
pub struct Unaskable(pub Box<str>);

/// Why a ledger cannot be opened. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("rule `{rule}`: {what}")]
    Rule { rule: Arc<str>, what: String },
    #[error("Redis")]
    Redis(#[source] StoreError),
    #[error("the database")]
    Database(#[source] StoreError),
    #[error(
        "the database lacks Portcullis's tables: run `portcullis migrate`, or set `migrate = true` in [database]"
    )]
    NotMigrated,
    #[error("{0}")]
    Table(String),
}

/// The ledger.
pub struct Ledger {
    rules: Rules,
    /// How subjects that are no ids are turned into ids, where a preset can.
    aliases: Option<Aliases>,
    redis: Option<Arc<RedisStore>>,
    /// What is kept of Redis's answers; there is one where there is a Redis.
    coherent: Option<Coherent>,
    database: Arc<Database>,
    writer: Writer,
    outbox: Outbox,
    /// Whether the database could not be looked at when the rules were made.
    provisional: bool,
    /// Whether Redis lacks a change that the database holds.
    doubt: Doubt,
    /// The mark at the last look.
    gap: AtomicI64,
    /// How many answers of the database may be on their way to Redis.
    write_backs: Arc<Semaphore>,
    chores: Chores,
    /// Whose keys are whose, and who is to be rechecked.
    keys: Keys,
    rechecks: Queue,
    adoption: Option<Adoption>,
    /// Whose rows have changed lately.
    recently: quick_cache::sync::Cache<Box<str>, ()>,
    database_latency_micros: AtomicU64,
    last_mode: LastMode,
    /// Rung by the breakers.
    turned: Arc<Notify>,
    metrics: LedgerMetrics,
}

impl Ledger {
    /// Opens the stores and starts the background tasks, on the current runtime: it must live as long as requests do.
    ///
    /// A store that is down is no error; it is asked when it comes. What is wrong for good (a URL, a rule) is.
    pub async fn open(
        settings: &LedgerSettings,
        metrics: LedgerMetrics,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, OpenError> {
        let sql = SqlStore::open(&settings.database).map_err(OpenError::Database)?;
        let Foundation { mut context, provisional, ground, version } =
            foundation::lay(&sql, settings).await?;
        context.profile = settings.profile.clone();
        let telling = foundation::telling(&settings.presets, &context);
        let presets = preset::complete(&settings.presets);
        // The presets' rules first: of several rules that deny, the first one's reason is told.
        let asked = presets.iter().flat_map(|preset| preset.rules(&context));
        let mut asked: Vec<Rule> = asked.chain(settings.rules.iter().cloned()).collect();
        adopt::give_all(&mut asked, settings, sql.dialect());
        let aliases = presets.iter().find_map(|preset| preset.aliases(&context));
        let aliases = aliases.map(|rules| Aliases::new(rules, sql.dialect())).transpose()?;
        let (aliases, alias_rules) = aliases.unzip();
        let profiles = Profiles::new(settings.profile.clone(), settings.answers);
        let rules = Rules::compile(asked, sql.dialect(), settings.redis.is_some())?;
        let mut rules = rules.with_users(alias_rules.unwrap_or_default(), profiles, sql.dialect())?;
        let turned = Arc::new(Notify::new());
        let redis = match &settings.redis {
            None => None,
            Some(redis) => {
                let breaker = Breaker::new("redis", redis.timeout, metrics.redis.up.clone(), turned.clone());
                let authority = Arc::new(Authority::new(ground, version, turned.clone()));
                Some(RedisStore::open(redis, breaker, authority).await.map_err(OpenError::Redis)?)
            }
        };
        let coherent =
            redis.as_ref().map(|redis| Coherent::new(redis, &mut rules, settings, turned.clone(), &metrics));
        let up = metrics.database.up.clone();
        let breaker = Breaker::new("database", settings.database.timeout, up, turned.clone());
        let source = feed::source_of(settings);
        let writer = Writer { sql: sql.clone(), presets, context, redis: settings.redis.is_some(), source };
        let outbox = Outbox::new(sql.clone(), metrics.outbox_pending.clone(), metrics.outbox_refused.clone());
        let database = Arc::new(Database::new(sql, breaker, settings, &metrics, telling));
        let keys = Keys::of(rules.all());
        let adoption = Adoption::of(rules.all(), &database.sql, &metrics.feed);
        let ledger = Arc::new(Self {
            rules,
            aliases,
            redis,
            coherent,
            database,
            writer,
            outbox,
            provisional,
            doubt: Doubt::default(),
            gap: AtomicI64::new(0),
            write_backs: Arc::new(Semaphore::new(WRITE_BACKS)),
            chores: Chores::default(),
            keys,
            adoption,
            rechecks: Queue::new(recheck::WAITING, recheck::SECOND_LOOK),
            recently: quick_cache::sync::Cache::new(recheck::WAITING),
            database_latency_micros: AtomicU64::new(0),
            last_mode: LastMode::default(),
            turned,
            metrics,
        });
        ledger.probe_database_at_start().await;
        ledger.look_into_outbox().await;
        ledger.start(settings, &shutdown);
        ledger.await_belief().await;
        if let (Some(coherent), Some(redis)) = (&ledger.coherent, &ledger.redis)
            && !redis.breaker.is_open()
        {
            coherent.link.try_once().await;
        }
        ledger.start_link(&shutdown);
        let mode = ledger.mode();
        ledger.last_mode.swap(mode, Ordering::Relaxed);
        ledger.metrics.mode_at_start(mode);
        Ok(ledger)
    }

    /// Renders what has to be asked about a credential. Pure.
    pub fn questions(&self, claims: &Claims, token: &Token<'_>) -> Result<Questions, Unaskable> {
        self.questions_about(claims, token)
    }

    /// Asks: memory while it is known to say what Redis says, else Redis, in one round trip; the database only for
    /// what Redis leaves open.
    pub async fn find(&self, questions: &Questions, claims: &Claims, now: Timestamp) -> Lookup {
        // This is all that a request costs whose credential was good a moment ago.
        if self.vouches(questions) {
            return Lookup::Live;
        }
        // Boxed, so that the requests which need none of it do not carry it along.
        Box::pin(self.find_meant(questions, claims, Thoroughness::Usual, now)).await
    }

    /// The Redis that gateways count requests in together, where there is one.
    pub fn redis(&self) -> Option<&RedisStore> {
        self.redis.as_deref()
    }

    /// How answers are found at present.
    pub fn mode(&self) -> Mode {
        let answers = |redis: &Arc<RedisStore>| !redis.breaker.is_open() && redis.authority.is_believed();
        if self.is_coherent() {
            Mode::Coherent
        } else if !self.doubt.is_raised() && self.redis.as_ref().is_some_and(answers) {
            Mode::Direct
        } else if !self.database.breaker.is_open() {
            Mode::Database
        } else {
            Mode::Blind
        }
    }

    /// To be called by whoever changed something in the database, before the change is acknowledged: what memory holds
    /// may be from before it.
    pub(crate) fn forget_answers(&self) {
        self.database.memory.clear();
    }

    /// While a change waits to be delivered to Redis, every question that has `sql` is asked in the database.
    pub(crate) fn doubt_redis(&self) {
        self.doubt.raise();
        self.follow_mode();
    }

    /// Writes a change: the database first, then Redis, then the answer.
    pub async fn apply(&self, change: &Change, now: Timestamp) -> Result<Applied, ChangeError> {
        let about_id = self.about_ids(change).await?;
        let change = about_id.as_ref().unwrap_or(change);
        let applied = self.writer.apply(self.redis.as_deref(), change, now).await;
        // Also after an error: a transaction whose end was not heard may have happened.
        self.forget_answers();
        if applied.as_ref().is_ok_and(|applied| applied.redis == RedisState::Pending) {
            self.doubt_redis();
        }
        applied
    }

    /// A user's standing.
    pub async fn user(&self, user: &User) -> Result<UserRecord, StoreError> {
        self.writer.record(&self.user_meant(user).await?, Timestamp::now()).await
    }

    /// What the stores hold, and how memory does, in numbers.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let rows = self.writer.stats().await?;
        Ok(Stats {
            redis: self.count_keys().await,
            memory: self.memory_counts(),
            mode: self.mode().word(),
            ..rows
        })
    }

    /// Removes what nobody could present any more.
    pub async fn prune(&self, now: Timestamp) -> Result<Pruned, StoreError> {
        self.chores.sweep_soon();
        self.writer.prune(now).await
    }

    /// Whether the rules were made without having seen the database's tables: the ledger should be opened anew.
    pub fn is_provisional(&self) -> bool {
        self.provisional
    }
}

/// Makes Portcullis's tables, and those of the presets that may be made. Returns the number of steps taken.
pub async fn migrate(settings: &LedgerSettings) -> Result<usize, StoreError> {
    let sql = SqlStore::open(&settings.database)?;
    migrate::migrate(&sql, &settings.presets, Timestamp::now()).await
}

/// Answers of the database on their way to Redis at one time.
const WRITE_BACKS: usize = 32;

#[cfg(test)]
mod tests;
