//! How many streams are open, counted when somebody asks; and why streams were closed.

use std::sync::{Arc, Weak};
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Kind, Streams};

/// What ends most streams; other words of denials get their series when they first end one.
const REASONS: [&str; 10] = [
    "token_revoked",
    "session_revoked",
    "issued_before_cutoff",
    "user_security_action",
    "user_banned",
    "user_deactivated",
    "user_deleted",
    "token_expired",
    "no_route",
    "going_away",
];

/// The counter of closings.
pub(super) struct StreamMetrics(IntCounterVec);

impl StreamMetrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let closed =
            IntCounterVec::new(Opts::new("portcullis_streams_closed_total", CLOSED_HELP), &["reason"])?;
        registry.register(Box::new(closed.clone()))?;
        for reason in REASONS {
            closed.with_label_values(&[reason]);
        }
        Ok(Self(closed))
    }

    /// The words of denials come from the configuration, never from a request.
    pub fn closed(&self, reason: &str) {
        self.0.with_label_values(&[reason]).inc();
    }
}

/// Shows the open streams from now on.
pub(super) fn show(streams: &Arc<Streams>, registry: &Registry) -> prometheus::Result<()> {
    let open = IntGaugeVec::new(Opts::new("portcullis_streams", OPEN_HELP), &["kind"])?;
    registry.register(Box::new(Open { streams: Arc::downgrade(streams), open }))
}

struct Open {
    streams: Weak<Streams>,
    open: IntGaugeVec,
}

impl Collector for Open {
    fn desc(&self) -> Vec<&Desc> {
        self.open.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut counts = Kind::ALL.map(|kind| (kind, 0));
        if let Some(streams) = self.streams.upgrade() {
            let now = Instant::now();
            streams.for_each(|_, entry| {
                let shown = entry.visit.shown_as(now);
                if let Some((_, count)) = counts.iter_mut().find(|(kind, _)| Some(*kind) == shown) {
                    *count += 1;
                }
            });
        }
        for (kind, count) in counts {
            self.open.with_label_values(&[kind.word()]).set(count);
        }
        self.open.collect()
    }
}

const OPEN_HELP: &str = "Open streams that are watched. request: any other request that has been open for more than a second. \
    Requests without a token are watched only where they ask for a stream.";
const CLOSED_HELP: &str = "Open exchanges that were cut, by why they would not be granted any more; going_away: the \
    gateway was stopped, and they outlasted the drain.";
