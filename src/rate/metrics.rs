//! What Prometheus is told of rate limits, besides the verdicts.

use prometheus::{IntCounter, Registry};

const FALLBACKS_HELP: &str =
    "Requests of shared limits that this gateway counted alone, because Redis did not answer.";
const EVICTIONS_HELP: &str = "Allowances forgotten before they were whole again, for want of room \
    (server.limits.rate_keys). The ones with the least use go first.";

/// The families. Clones share them.
#[derive(Clone)]
pub struct RateMetrics {
    pub(super) fallbacks: IntCounter,
    pub(super) evictions: IntCounter,
}

impl RateMetrics {
    /// Registers the families.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let made = IntCounter::new(format!("portcullis_rate_limit_{name}"), help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        Ok(Self {
            fallbacks: counter("fallbacks_total", FALLBACKS_HELP)?,
            evictions: counter("evictions_total", EVICTIONS_HELP)?,
        })
    }
}
