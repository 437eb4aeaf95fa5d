//! What the feed counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Cheap to clone; every series exists from the first second.
#[derive(Clone, Debug)]
pub struct FeedMetrics {
    /// Rows of `portcullis_changes`.
    pub noted: IntCounter,
    /// Rows found by their change time.
    pub polled: IntCounter,
    /// Keys that Redis pushed.
    pub pushed: IntCounter,
    pub up: IntGauge,
    pub restrictive: IntCounter,
    pub permissive: IntCounter,
    pub dropped: IntCounter,
    pub overloads: IntCounter,
    pub adopted: IntGauge,
}

impl FeedMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let changes = IntCounterVec::new(
            Opts::new(
                "portcullis_feed_changes_total",
                "Changes made without this gateway, by who told of them.",
            ),
            &["source"],
        )?;
        let repairs = IntCounterVec::new(
            Opts::new("portcullis_repairs_total", "Users whose keys in Redis contradicted the database."),
            &["kind"],
        )?;
        let up = IntGauge::new(
            "portcullis_feed_up",
            "1 while every change of the watched tables is heard of, so that answers may be kept for longer.",
        )?;
        let dropped = IntCounter::new(
            "portcullis_rechecks_dropped_total",
            "Keys pushed by Redis that were not looked at, because too many waited.",
        )?;
        let overloads = IntCounter::new(
            "portcullis_database_overload_total",
            "Questions that were not put to the database, because too many were waiting for it.",
        )?;
        let adopted = IntGauge::new(
            "portcullis_adopted_entries",
            "Entries that services keep in Redis alone and that the database holds a copy of.",
        )?;
        registry.register(Box::new(changes.clone()))?;
        registry.register(Box::new(repairs.clone()))?;
        registry.register(Box::new(up.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        registry.register(Box::new(overloads.clone()))?;
        registry.register(Box::new(adopted.clone()))?;
        Ok(Self {
            noted: changes.with_label_values(&["table"]),
            polled: changes.with_label_values(&["poll"]),
            pushed: changes.with_label_values(&["redis"]),
            up,
            restrictive: repairs.with_label_values(&["restrictive"]),
            permissive: repairs.with_label_values(&["permissive"]),
            dropped,
            overloads,
            adopted,
        })
    }
}
