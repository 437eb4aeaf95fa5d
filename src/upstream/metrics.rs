//! What Prometheus is told of upstreams. Servers are named as the configuration names them, never by what a name
//! resolves to: the series are as many as the file says.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::settings::UpstreamSettings;

const HEALTHY_HELP: &str =
    "The share of a server's addresses that requests are sent to: 1 for all, 0 for none.";
const EJECTIONS_HELP: &str =
    "Times an address of a server was left alone because requests to it failed in a row.";
const FAILURES_HELP: &str = "Requests that a server did not answer: no connection, a failed TLS handshake, a connection \
    that broke, no answer in time, or a status of eject.statuses. The client may have been answered by another one.";
const RETRIES_HELP: &str = "Times another server, or another connection, was tried for a request.";

/// Upstream and server.
type Labels = (Arc<str>, String);

/// The families. Clones share them.
#[derive(Clone)]
pub struct UpstreamMetrics {
    healthy: GaugeVec,
    ejections: IntCounterVec,
    failures: IntCounterVec,
    retries: IntCounterVec,
    /// Of the series that exist.
    shown: Arc<Mutex<BTreeSet<Labels>>>,
}

impl UpstreamMetrics {
    /// Registers the families.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(format!("portcullis_upstream_{name}"), help);
        let server = &["upstream", "server"];
        let made = Self {
            healthy: GaugeVec::new(opts("healthy", HEALTHY_HELP), server)?,
            ejections: IntCounterVec::new(opts("ejections_total", EJECTIONS_HELP), server)?,
            failures: IntCounterVec::new(opts("failures_total", FAILURES_HELP), server)?,
            retries: IntCounterVec::new(opts("retries_total", RETRIES_HELP), &["upstream"])?,
            shown: Arc::default(),
        };
        registry.register(Box::new(made.healthy.clone()))?;
        registry.register(Box::new(made.ejections.clone()))?;
        registry.register(Box::new(made.failures.clone()))?;
        registry.register(Box::new(made.retries.clone()))?;
        Ok(made)
    }

    pub(super) fn series(&self, settings: &UpstreamSettings) -> UpstreamSeries {
        let name = &*settings.name;
        let server = |server: String| {
            let labels = [name, server.as_str()];
            let series = ServerSeries {
                healthy: self.healthy.with_label_values(&labels),
                ejections: self.ejections.with_label_values(&labels),
                failures: self.failures.with_label_values(&labels),
            };
            self.shown.lock().insert((Arc::clone(&settings.name), server));
            series
        };
        UpstreamSeries {
            servers: settings.servers.iter().map(|written| server(written.authority())).collect(),
            retries: self.retries.with_label_values(&[name]),
        }
    }

    /// Forgets the series of servers that are no longer configured: a gauge that nobody sets any more would go on
    /// saying what was last true.
    pub fn keep_only<'s>(&self, configured: impl Iterator<Item = &'s UpstreamSettings> + Clone) {
        let servers = configured.clone().flat_map(|upstream| {
            upstream.servers.iter().map(|server| (Arc::clone(&upstream.name), server.authority()))
        });
        let wanted: BTreeSet<_> = servers.collect();
        let mut shown = self.shown.lock();
        for (upstream, server) in shown.difference(&wanted) {
            let labels: [&str; 2] = [upstream, server];
            // Not there is as good as removed.
            let _ = self.healthy.remove_label_values(&labels);
            let _ = self.ejections.remove_label_values(&labels);
            let _ = self.failures.remove_label_values(&labels);
            if !configured.clone().any(|other| other.name == *upstream) {
                let _ = self.retries.remove_label_values(&[upstream]);
            }
        }
        *shown = wanted;
    }
}

/// The series of one upstream.
#[derive(Debug)]
pub(super) struct UpstreamSeries {
    pub(super) servers: Box<[ServerSeries]>,
    pub(super) retries: IntCounter,
}

#[derive(Debug)]
pub(super) struct ServerSeries {
    pub(super) healthy: Gauge,
    pub(super) ejections: IntCounter,
    pub(super) failures: IntCounter,
}

impl UpstreamSeries {
    pub(super) fn of(&self, server: usize) -> Option<&ServerSeries> {
        self.servers.get(server)
    }
}
