//! What Prometheus is told of requests. Series are made when a configuration is put in force; telling costs a few
//! atomics, no hashing of labels and no allocation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::verdict::{self, Assurance, Verdict};

/// The `route` of requests that no route took.
pub const NO_ROUTE: &str = "(none)";
/// The `reason` of verdicts that have none.
const NO_REASON: &str = "none";
/// The `reason` of words nobody announced; a rising count means that a reason is missing from the tables here.
const OTHER: &str = "other";
/// The `reason` of passes that `on_outage = "allow"` gave.
const PASSED_UNASKED: &str = "ledger_unavailable";

/// Words of the presets; those of `[[ledger.rules]]` come from the configuration.
const PRESET_REASONS: [&str; 7] = [
    "token_revoked",
    "session_revoked",
    "issued_before_cutoff",
    "user_security_action",
    "user_banned",
    "user_deactivated",
    "user_deleted",
];

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Seconds. Twelve each: `observe` searches them, and every route has its own copy.
const REQUEST_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Seconds. From a hit in memory (a few microseconds) to a database at its timeout.
const JUDGMENT_BUCKETS: [f64; 12] =
    [0.000_002, 0.000_005, 0.000_01, 0.000_05, 0.000_2, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0];

/// The families. Registered once; routes' series are made from them at every reload.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    request_duration: HistogramVec,
    upstream_duration: HistogramVec,
    verdicts: IntCounterVec,
    judgment_duration: Histogram,
    reloads_applied: IntCounter,
    reloads_refused: IntCounter,
    slow_heads: IntCounter,
    slow_bodies: IntCounter,
    refused: RefusedConnections,
    floods: IntCounter,
    panics: IntCounter,
    access_lines_lost: IntCounter,
    audit_lines_lost: IntCounter,
    observed: IntCounterVec,
}

/// Connections closed at once, because there were as many as there may be.
#[derive(Clone)]
pub struct RefusedConnections {
    /// In all.
    pub full: IntCounter,
    /// Of one address.
    pub address: IntCounter,
    /// As far as descriptors go.
    pub descriptors: IntCounter,
}

impl Metrics {
    /// Registers the families in `registry`; fails when it holds one of these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let seconds = |name: &str, help: &str| -> prometheus::Result<HistogramVec> {
            let opts = HistogramOpts::new(name, help).buckets(REQUEST_BUCKETS.to_vec());
            let made = HistogramVec::new(opts, &["route"])?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let judgment_duration = Histogram::with_opts(
            HistogramOpts::new("portcullis_judgment_duration_seconds", JUDGMENT_HELP)
                .buckets(JUDGMENT_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(judgment_duration.clone()))?;
        let build = IntGaugeVec::new(Opts::new("portcullis_build_info", BUILD_HELP), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let refused =
            counters("portcullis_connections_refused_total", CONNECTIONS_REFUSED_HELP, &["reason"])?;
        let reloads = counters("portcullis_reloads_total", RELOADS_HELP, &["outcome"])?;
        Ok(Self {
            requests: counters("portcullis_requests_total", REQUESTS_HELP, &["route", "method", "status"])?,
            request_duration: seconds("portcullis_request_duration_seconds", REQUEST_DURATION_HELP)?,
            upstream_duration: seconds("portcullis_upstream_duration_seconds", UPSTREAM_DURATION_HELP)?,
            verdicts: counters("portcullis_verdicts_total", VERDICTS_HELP, &["route", "verdict", "reason"])?,
            judgment_duration,
            reloads_applied: reloads.with_label_values(&["applied"]),
            reloads_refused: reloads.with_label_values(&["refused"]),
            slow_heads: counter("portcullis_slow_heads_total", SLOW_HEADS_HELP)?,
            slow_bodies: counter("portcullis_slow_bodies_total", SLOW_BODIES_HELP)?,
            refused: RefusedConnections {
                full: refused.with_label_values(&["connections"]),
                address: refused.with_label_values(&["address"]),
                descriptors: refused.with_label_values(&["descriptors"]),
            },
            floods: counter("portcullis_http2_floods_total", FLOODS_HELP)?,
            panics: counter("portcullis_panics_total", PANICS_HELP)?,
            access_lines_lost: counter("portcullis_access_lines_lost_total", ACCESS_LOST_HELP)?,
            audit_lines_lost: counter("portcullis_audit_lines_lost_total", AUDIT_LOST_HELP)?,
            observed: counters("portcullis_observed_total", OBSERVED_HELP, &["route", "action", "outcome"])?,
        })
    }

    /// A new configuration is in force.
    pub fn reload_applied(&self) {
        self.reloads_applied.inc();
    }

    /// A new configuration was refused; the old one keeps serving.
    pub fn reload_refused(&self) {
        self.reloads_refused.inc();
    }

    /// The head of a request did not come in time; the connection was closed.
    pub fn slow_head(&self) {
        self.slow_heads.inc();
    }

    pub(super) fn slow_bodies(&self) -> &IntCounter {
        &self.slow_bodies
    }

    /// The body of a request paused for too long, or came too slowly.
    pub fn slow_body(&self) {
        self.slow_bodies.inc();
    }

    /// Connections closed at once.
    pub fn refused(&self) -> &RefusedConnections {
        &self.refused
    }

    /// HTTP/2 connections that were cut for resetting streams, or for frames that ask for nothing, without end.
    pub fn floods(&self) -> &IntCounter {
        &self.floods
    }

    pub(super) fn panics(&self) -> &IntCounter {
        &self.panics
    }

    pub(super) fn access_lines_lost(&self) -> &IntCounter {
        &self.access_lines_lost
    }

    pub(super) fn observed(&self) -> &IntCounterVec {
        &self.observed
    }

    pub(super) fn audit_lines_lost(&self) -> &IntCounter {
        &self.audit_lines_lost
    }
}

const REQUESTS_HELP: &str = "Requests answered, by route, method and class of status. Counted when the answer ends, so a \
    long stream is missing while it runs, and so is a head that could not be parsed.";
const REQUEST_DURATION_HELP: &str = "Seconds from the parsed head to the end of the answer. Includes slow clients and \
    the whole life of a stream: not a measure of the gateway's own work.";
const UPSTREAM_DURATION_HELP: &str = "Seconds spent with the upstream, body included. Requests that never went there \
    are not in it, so its count is lower than portcullis_request_duration_seconds's.";
const VERDICTS_HELP: &str = "Verdicts by reason. allow with reason ledger_unavailable is on_outage = allow at work: \
    nobody knows whether those tokens were revoked.";
const JUDGMENT_HELP: &str = "Seconds until the verdict, waiting for stores included. A high tail means slow stores, not a busy processor.";
const RELOADS_HELP: &str =
    "Configuration reloads asked for. refused means that an older configuration than the file's is serving.";
const BUILD_HELP: &str = "Always 1; the version is in the label.";
const SLOW_HEADS_HELP: &str = "Connections closed because the head of a request did not come in time. Slow networks cause \
    some; very many are an attack that tries to hold connections.";
const SLOW_BODIES_HELP: &str = "Requests given up because their bodies paused for too long, or came too slowly. A service \
    that does not read what it is sent looks the same.";
const FLOODS_HELP: &str = "HTTP/2 connections cut because most of their requests were taken back at once (rapid reset), or \
    because of frames that ask for nothing. No browser does this.";
const CONNECTIONS_REFUSED_HELP: &str = "Connections closed before a byte was read, because there were as many as there may \
    be: in all, of one address, or for want of file descriptors.";
const PANICS_HELP: &str = "Panics. Each cost one connection or task, and each is a bug to be reported.";
const ACCESS_LOST_HELP: &str =
    "Access lines that were not written because the log could not keep up or failed.";
const OBSERVED_HELP: &str = "Answers of services that an entry of on_response has looked at. failed: the ledger could not store it, \
    and the client got 503; too_long, unreadable, no_token and unverified passed as they were, untracked.";
const AUDIT_LOST_HELP: &str =
    "Audit lines that could not be written. The control actions themselves took effect.";

/// The series of one configuration's routes.
pub(super) struct RouteMetrics {
    routes: Box<[RouteSeries]>,
    no_route: RouteSeries,
    /// Word of a reason → its place in [`RouteSeries::denied`]; the last place is `other`.
    reasons: HashMap<Arc<str>, usize>,
    judgment_duration: Histogram,
}

struct RouteSeries {
    /// By method, then class of status.
    requests: [[IntCounter; CLASSES.len()]; METHODS.len()],
    request_duration: Histogram,
    upstream_duration: Histogram,
    allowed: IntCounter,
    allowed_unasked: IntCounter,
    denied: Box<[IntCounter]>,
    denied_other: IntCounter,
}

/// What the metrics say of a finished request.
pub(super) struct Told<'a> {
    pub method: &'a Method,
    pub status: u16,
    pub verdict: &'a Verdict,
    pub total: Duration,
    pub upstream_time: Option<Duration>,
    pub judgment: Duration,
}

impl RouteMetrics {
    /// Makes the series of `routes` (in the order of their indexes), with `reasons` besides the built-in ones.
    pub fn new(metrics: &Metrics, routes: &[Arc<str>], reasons: &[Arc<str>]) -> Self {
        let built_in = verdict::WORDS.iter().chain(&PRESET_REASONS).map(|word| Arc::from(*word));
        let mut words: Vec<Arc<str>> = built_in.chain(reasons.iter().cloned()).collect();
        words.sort();
        words.dedup();
        Self {
            routes: routes.iter().map(|name| RouteSeries::new(metrics, name, &words)).collect(),
            no_route: RouteSeries::new(metrics, NO_ROUTE, &words),
            reasons: words.into_iter().enumerate().map(|(at, word)| (word, at)).collect(),
            judgment_duration: metrics.judgment_duration.clone(),
        }
    }

    /// Counts a finished request.
    pub fn tell(&self, told: &Told<'_>) {
        let route = match told.verdict {
            Ok(grant) => Some(&grant.route),
            Err(denial) => denial.route.as_ref(),
        };
        let series = route.and_then(|route| self.routes.get(route.index)).unwrap_or(&self.no_route);
        if let Some(counter) =
            series.requests.get(method(told.method)).and_then(|m| m.get(class(told.status)))
        {
            counter.inc();
        }
        series.request_duration.observe(told.total.as_secs_f64());
        if let Some(time) = told.upstream_time {
            series.upstream_duration.observe(time.as_secs_f64());
        }
        self.judgment_duration.observe(told.judgment.as_secs_f64());
        match told.verdict {
            Ok(grant) => match grant.assurance {
                Assurance::Full => series.allowed.inc(),
                Assurance::RevocationUnknown(_) => series.allowed_unasked.inc(),
            },
            Err(denial) => {
                let known = self.reasons.get(denial.reason.word()).and_then(|at| series.denied.get(*at));
                known.unwrap_or(&series.denied_other).inc();
            }
        }
    }
}

impl RouteSeries {
    fn new(metrics: &Metrics, route: &str, reasons: &[Arc<str>]) -> Self {
        let request = |method: &str, class: &str| metrics.requests.with_label_values(&[route, method, class]);
        let verdict =
            |verdict: &str, reason: &str| metrics.verdicts.with_label_values(&[route, verdict, reason]);
        Self {
            requests: METHODS.map(|method| CLASSES.map(|class| request(method, class))),
            request_duration: metrics.request_duration.with_label_values(&[route]),
            upstream_duration: metrics.upstream_duration.with_label_values(&[route]),
            allowed: verdict("allow", NO_REASON),
            allowed_unasked: verdict("allow", PASSED_UNASKED),
            denied: reasons.iter().map(|reason| verdict("deny", reason)).collect(),
            denied_other: verdict("deny", OTHER),
        }
    }
}

/// The place of a method in [`METHODS`]: clients may invent methods, labels may not follow them.
fn method(method: &Method) -> usize {
    METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1)
}

/// The place of a status in [`CLASSES`].
fn class(status: u16) -> usize {
    usize::from(status / 100).clamp(1, CLASSES.len()) - 1
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;
    use crate::verdict::{Denial, DenyReason};

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).expect("text");
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn series_exist_before_the_first_request_and_survive_a_reload() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("registered");
        let first = RouteMetrics::new(&metrics, &["api".into()], &["tenant_frozen".into()]);
        let zero = r#"portcullis_verdicts_total{reason="tenant_frozen",route="api",verdict="deny"} 0"#;
        assert!(text(&registry).contains(zero), "{}", text(&registry));

        let verdict = Err(Denial { route: None, credential: None, reason: DenyReason::NoRoute });
        let told = Told {
            method: &Method::GET,
            status: 404,
            verdict: &verdict,
            total: Duration::from_millis(1),
            upstream_time: None,
            judgment: Duration::from_micros(3),
        };
        first.tell(&told);
        RouteMetrics::new(&metrics, &["api".into()], &[]).tell(&told);
        let twice = r#"portcullis_requests_total{method="GET",route="(none)",status="4xx"} 2"#;
        assert!(text(&registry).contains(twice), "{}", text(&registry));
    }

    #[test]
    fn an_invented_method_or_status_makes_no_new_series() {
        let invented = Method::from_bytes(b"BREW").expect("a method");
        assert_eq!(METHODS[method(&invented)], "other");
        assert_eq!(METHODS[method(&Method::DELETE)], "DELETE");
        assert_eq!((CLASSES[class(0)], CLASSES[class(204)], CLASSES[class(999)]), ("1xx", "2xx", "5xx"));
    }

    #[test]
    fn the_same_names_cannot_be_registered_twice() {
        let registry = Registry::new();
        Metrics::register(&registry).expect("the first");
        assert!(Metrics::register(&registry).is_err());
    }
}
