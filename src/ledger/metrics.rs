//! What the ledger counts.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::Mode;
use super::chores::ChoreMetrics;
use super::feed::FeedMetrics;

/// The ledger's counters; every series exists from the first second. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    pub(super) redis: StoreMetrics,
    pub(super) database: StoreMetrics,
    pub(super) memory_hit: IntCounter,
    pub(super) memory_miss: IntCounter,
    pub(super) outbox_pending: IntGauge,
    pub(super) chores: ChoreMetrics,
    pub(super) outbox_refused: IntGauge,
    pub(super) reconcile: ReconcileMetrics,
    pub(super) feed: FeedMetrics,
    pub(super) memory_answers: IntGauge,
    pub(super) link: LinkMetrics,
    modes: [(Mode, IntGauge, IntCounter); 4],
}

/// Of Redis being filled from the database.
#[derive(Clone, Debug)]
pub(super) struct ReconcileMetrics {
    pub running: IntGauge,
    pub rows: IntCounter,
}

impl ReconcileMetrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let running = IntGauge::new(
            "portcullis_reconcile_running",
            "1 while this gateway fills Redis from the database.",
        )?;
        let rows = IntCounter::new(
            "portcullis_reconcile_rows_total",
            "Rows of the database that this gateway has told Redis of while filling it.",
        )?;
        registry.register(Box::new(running.clone()))?;
        registry.register(Box::new(rows.clone()))?;
        Ok(Self { running, rows })
    }
}

/// What is heard over the link.
#[derive(Clone, Debug)]
pub(super) struct LinkMetrics {
    /// How late a push may have come at most.
    pub push_lag: Histogram,
    /// Names of changed keys.
    pub pushes: IntCounter,
    /// Names that nobody could be told of, because too many were waiting already.
    pub pushes_dropped: IntCounter,
    /// Times that everything kept was given up at once.
    pub generations: IntCounter,
}

impl LinkMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let push_lag = HistogramOpts::new("portcullis_push_lag_seconds", PUSH_LAG_HELP)
            .buckets(PUSH_LAG_BUCKETS.to_vec());
        let push_lag = Histogram::with_opts(push_lag)?;
        registry.register(Box::new(push_lag.clone()))?;
        Ok(Self {
            push_lag,
            pushes: counter("portcullis_pushes_total", PUSHES_HELP)?,
            pushes_dropped: counter("portcullis_pushes_dropped_total", PUSHES_DROPPED_HELP)?,
            generations: counter("portcullis_memory_generations_total", GENERATIONS_HELP)?,
        })
    }
}

/// Seconds.
const PUSH_LAG_BUCKETS: [f64; 10] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];
const PUSH_LAG_HELP: &str = "Seconds from the sending of a fence to its answer, which Redis gives after every push that \
    stood before it: no push came later than that. Also from a canary's writing to its push.";
const PUSHES_HELP: &str =
    "Names of changed keys that Redis pushed, other services' changes and expiries included.";
const PUSHES_DROPPED_HELP: &str = "Pushed names that were not looked into, because too many waited. Memory heeds all \
    of them; what looks for edits behind our back finds these later.";
const GENERATIONS_HELP: &str = "Times that everything kept in memory was given up at once: a link made or lost, a \
    flush, something that could not be understood.";

/// One store's counters.
#[derive(Clone, Debug)]
pub(super) struct StoreMetrics {
    /// Answers with nothing against the credential.
    pub clear: IntCounter,
    /// Answers that deny.
    pub deny: IntCounter,
    /// The key is not there. For a deny list that is the ordinary case, not a fault.
    pub absent: IntCounter,
    /// No answer, or none that can be understood. While the breaker is open nothing is asked, and nothing counted:
    /// read it beside `portcullis_store_up`.
    pub error: IntCounter,
    pub up: IntGauge,
}

impl LedgerMetrics {
    /// Registers them, under the names dashboards rely on.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let lookups = IntCounterVec::new(
            Opts::new("portcullis_lookups_total", "Answers to single rules, by store and outcome."),
            &["store", "outcome"],
        )?;
        let up = IntGaugeVec::new(
            Opts::new("portcullis_store_up", "1 while the store is asked, 0 while it is left alone."),
            &["store"],
        )?;
        let mode = IntGaugeVec::new(
            Opts::new("portcullis_mode", "How the ledger finds its answers: 1 for the current mode."),
            &["mode"],
        )?;
        let transitions = IntCounterVec::new(
            Opts::new("portcullis_mode_transitions_total", "Times the ledger went over into a mode."),
            &["mode"],
        )?;
        let outbox_pending = IntGauge::new(
            "portcullis_outbox_pending",
            "Changes that the database holds and Redis has yet to be told. While it is not 0 the database is asked.",
        )?;
        let outbox_refused = IntGauge::new(
            "portcullis_outbox_refused",
            "Changes that Redis refuses because a key of theirs holds a value of another type.",
        )?;
        let memory_answers = IntGauge::new(
            "portcullis_memory_answers",
            "Answers of Redis kept in memory, those that are void by now included.",
        )?;
        registry.register(Box::new(memory_answers.clone()))?;
        registry.register(Box::new(outbox_pending.clone()))?;
        registry.register(Box::new(outbox_refused.clone()))?;
        registry.register(Box::new(lookups.clone()))?;
        registry.register(Box::new(up.clone()))?;
        registry.register(Box::new(mode.clone()))?;
        registry.register(Box::new(transitions.clone()))?;
        let store = |name: &str| StoreMetrics {
            clear: lookups.with_label_values(&[name, "clear"]),
            deny: lookups.with_label_values(&[name, "deny"]),
            absent: lookups.with_label_values(&[name, "absent"]),
            error: lookups.with_label_values(&[name, "error"]),
            up: up.with_label_values(&[name]),
        };
        let of = |it: Mode| {
            (it, mode.with_label_values(&[it.word()]), transitions.with_label_values(&[it.word()]))
        };
        Ok(Self {
            redis: store("redis"),
            database: store("database"),
            memory_hit: lookups.with_label_values(&["memory", "hit"]),
            memory_miss: lookups.with_label_values(&["memory", "miss"]),
            outbox_pending,
            chores: ChoreMetrics::register(registry)?,
            outbox_refused,
            reconcile: ReconcileMetrics::register(registry)?,
            feed: FeedMetrics::register(registry)?,
            memory_answers,
            link: LinkMetrics::register(registry)?,
            modes: [of(Mode::Coherent), of(Mode::Direct), of(Mode::Database), of(Mode::Blind)],
        })
    }

    /// The mode at start: shown, but no transition.
    pub(super) fn mode_at_start(&self, now: Mode) {
        for (mode, gauge, _) in &self.modes {
            gauge.set(i64::from(*mode == now));
        }
    }

    /// A transition.
    pub(super) fn mode_changed(&self, now: Mode) {
        self.mode_at_start(now);
        for (mode, _, transitions) in &self.modes {
            if *mode == now {
                transitions.inc();
            }
        }
    }
}
