//! A fact told once: metric, access line and audit line follow from it.

pub mod access;
pub mod audit;
pub mod log;
pub mod metrics;
mod observed;
pub mod settings;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use prometheus::{IntCounter, IntCounterVec};

use crate::route::Route;
use crate::verdict::{Assurance, Verdict};

pub use access::AccessWriter;
pub use audit::{Audit, AuditLine};
pub use metrics::Metrics;
pub use observed::{Action, Observed, Outcome};
pub use settings::LogSettings;

use metrics::{RouteMetrics, Told};
use settings::AccessLog;

/// A request that has ended, whichever way. Route, user and fingerprint are the verdict's.
pub struct Finished<'a> {
    pub method: &'a Method,
    /// As routed, or as received where it could not be; a query is cut off here again, lest it hold a token.
    pub path: &'a str,
    pub status: u16,
    pub verdict: &'a Verdict,
    /// Where it was forwarded to, if it was.
    pub upstream: Option<SocketAddr>,
    /// From the parsed head to the end of the answer.
    pub total: Duration,
    /// Spent with the upstream, if it was forwarded.
    pub upstream_time: Option<Duration>,
    /// Until the verdict.
    pub judgment: Duration,
    pub request_id: &'a str,
    pub client: IpAddr,
    /// Bytes of the answer's body sent to the client.
    pub bytes: u64,
    /// The kind of proxy that has asked, where the request was not forwarded here.
    pub asked_by: Option<&'static str>,
}

/// What is said of requests under one configuration; a reload makes a new one from the same metrics and writer.
pub struct Report {
    routes: RouteMetrics,
    access: AccessLog,
    sample: f64,
    writer: AccessWriter,
    observed: IntCounterVec,
    slow_bodies: IntCounter,
    audit: Arc<Audit>,
}

impl Report {
    /// `routes` are in the order of [`Route::index`]; `reasons` are the operator's own words.
    pub fn new(
        settings: &LogSettings,
        metrics: &Metrics,
        writer: &AccessWriter,
        audit: &Arc<Audit>,
        routes: &[Arc<Route>],
        reasons: &[Arc<str>],
    ) -> Self {
        let names: Vec<Arc<str>> = routes.iter().map(|route| Arc::clone(&route.settings.name)).collect();
        let observed = metrics.observed().clone();
        observed::series(&observed, routes);
        Self {
            routes: RouteMetrics::new(metrics, &names, reasons),
            access: settings.access,
            sample: settings.sample,
            writer: writer.clone(),
            observed,
            slow_bodies: metrics.slow_bodies().clone(),
            audit: Arc::clone(audit),
        }
    }

    /// A body was given up because it came too slowly.
    pub fn slow_body(&self) {
        self.slow_bodies.inc();
    }

    /// Tells what an observer has learnt from an answer.
    pub fn observed(&self, observed: &Observed<'_>) {
        observed::tell(&self.observed, &self.audit, observed);
    }

    /// Tells of a request once it is over: exactly one call per request.
    pub fn finished(&self, finished: &Finished<'_>) {
        self.routes.tell(&Told {
            method: finished.method,
            status: finished.status,
            verdict: finished.verdict,
            total: finished.total,
            upstream_time: finished.upstream_time,
            judgment: finished.judgment,
        });
        if self.is_logged(finished.verdict) {
            self.writer.push(finished);
        }
    }

    /// Decided before a line is built. A pass that nobody could vouch for is logged like a denial.
    fn is_logged(&self, verdict: &Verdict) -> bool {
        let ordinary = matches!(verdict, Ok(grant) if grant.assurance == Assurance::Full);
        match self.access {
            AccessLog::Off => false,
            AccessLog::Denied => !ordinary,
            AccessLog::All => !ordinary || self.sample >= 1.0 || rand::random::<f64>() < self.sample,
        }
    }
}
