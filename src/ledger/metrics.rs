//! What the ledger counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::Mode;
use super::feed::FeedMetrics;

/// The ledger's counters; every series exists from the first second. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    pub(super) redis: StoreMetrics,
    pub(super) database: StoreMetrics,
    pub(super) memory_hit: IntCounter,
    pub(super) memory_miss: IntCounter,
    pub(super) outbox_pending: IntGauge,
    pub(super) feed: FeedMetrics,
    modes: [(Mode, IntGauge, IntCounter); 3],
}

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
        registry.register(Box::new(outbox_pending.clone()))?;
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
            feed: FeedMetrics::register(registry)?,
            modes: [of(Mode::Direct), of(Mode::Database), of(Mode::Blind)],
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
