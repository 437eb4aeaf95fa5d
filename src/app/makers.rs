//! What outlives every configuration: counters, and what is counted, written or open when another one comes into force.

use std::sync::Arc;

use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::ledger::LedgerMetrics;
use crate::proxy::Streams;
use crate::rate::RateMetrics;
use crate::report::{AccessWriter, Metrics};
use crate::tls::TlsMetrics;
use crate::upstream::UpstreamMetrics;
use crate::verify::VerifyMetrics;

/// What snapshots are made with.
pub(super) struct Makers {
    pub(super) metrics: Metrics,
    pub(super) writer: AccessWriter,
    pub(super) verify: VerifyMetrics,
    pub(super) ledger: LedgerMetrics,
    pub(super) upstream: UpstreamMetrics,
    pub(super) rate: RateMetrics,
    pub(super) tls: TlsMetrics,
    pub(super) background: CancellationToken,
    /// Changes that observers are making.
    pub(super) observing: TaskTracker,
    /// What is open.
    pub(super) streams: Arc<Streams>,
}

impl Makers {
    /// Registers every metric there is.
    pub(super) fn register(
        registry: &Registry,
        config: &Config,
        background: CancellationToken,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let metrics = Metrics::register(registry)?;
        Ok(Self {
            writer: AccessWriter::start(config.log.format, &metrics)?,
            metrics,
            verify: VerifyMetrics::register(registry)?,
            ledger: LedgerMetrics::register(registry)?,
            upstream: UpstreamMetrics::register(registry)?,
            rate: RateMetrics::register(registry)?,
            tls: TlsMetrics::register(registry)?,
            background,
            observing: TaskTracker::new(),
            streams: Streams::register(registry)?,
        })
    }
}
