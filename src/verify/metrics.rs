//! What the verifier counts.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// The verifier's counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct VerifyMetrics {
    /// Fetches of remote key sets, by issuer and outcome (`ok`, `failed`). A rise of `failed` alone denies nobody:
    /// the last good keys serve until `max_stale`.
    refreshes: IntCounterVec,
    /// Tokens whose signature was checked. A hit of the token cache checks none, so this is no count of requests.
    valid: IntCounter,
    invalid: IntCounter,
}

impl VerifyMetrics {
    /// Makes the counters known to `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let refreshes = IntCounterVec::new(
            Opts::new(
                "portcullis_jwks_refreshes_total",
                "Fetches of remote key sets, by issuer and outcome.",
            ),
            &["issuer", "outcome"],
        )?;
        let signatures = IntCounterVec::new(
            Opts::new(
                "portcullis_signature_verifications_total",
                "Tokens whose signature was checked against the issuer's keys, by outcome; cache hits check none.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(refreshes.clone()))?;
        registry.register(Box::new(signatures.clone()))?;
        let valid = signatures.with_label_values(&["valid"]);
        Ok(Self { refreshes, valid, invalid: signatures.with_label_values(&["invalid"]) })
    }

    /// The series of one issuer, there from now on.
    pub(super) fn issuer(&self, issuer: &str) -> RefreshMetrics {
        let series = |outcome| self.refreshes.with_label_values(&[issuer, outcome]);
        RefreshMetrics { ok: series("ok"), failed: series("failed") }
    }

    pub(super) fn signature(&self, valid: bool) {
        if valid { self.valid.inc() } else { self.invalid.inc() }
    }
}

/// Fetches of one issuer's key set.
#[derive(Clone, Debug)]
pub(super) struct RefreshMetrics {
    pub ok: IntCounter,
    pub failed: IntCounter,
}
