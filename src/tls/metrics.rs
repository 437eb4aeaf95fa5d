//! What Prometheus is told of TLS.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::settings::TlsSettings;
use super::terms::HandshakeError;

#[derive(Clone)]
pub struct TlsMetrics {
    completed: IntCounter,
    /// By [`HandshakeError::word`].
    failed: IntCounterVec,
    expiry: IntGaugeVec,
}

impl TlsMetrics {
    /// Registers the families in `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let handshakes =
            IntCounterVec::new(Opts::new("portcullis_tls_handshakes_total", HANDSHAKES_HELP), &["outcome"])?;
        let expiry = IntGaugeVec::new(
            Opts::new("portcullis_certificate_expiry_timestamp_seconds", EXPIRY_HELP),
            &["listener", "host"],
        )?;
        registry.register(Box::new(handshakes.clone()))?;
        registry.register(Box::new(expiry.clone()))?;
        for outcome in HandshakeError::WORDS {
            handshakes.with_label_values(&[outcome]);
        }
        Ok(Self { completed: handshakes.with_label_values(&["completed"]), failed: handshakes, expiry })
    }

    /// These certificates are in use now, and no others.
    pub fn in_use(&self, listeners: &[TlsSettings]) {
        self.expiry.reset();
        for listener in listeners {
            let address = listener.listen.to_string();
            // Of several for one host, the one that expires first counts: written last.
            let mut certificates: Vec<_> = listener.certificates.iter().collect();
            certificates.sort_by_key(|certificate| std::cmp::Reverse(certificate.not_after()));
            for certificate in certificates {
                let expiry = self.expiry.with_label_values(&[address.as_str(), certificate.label()]);
                expiry.set(certificate.not_after().seconds());
            }
        }
    }

    /// A handshake came to its end.
    pub fn completed(&self) {
        self.completed.inc();
    }

    /// A handshake did not.
    pub fn failed(&self, error: &HandshakeError) {
        self.failed.with_label_values(&[error.word()]).inc();
    }
}

const HANDSHAKES_HELP: &str = "TLS handshakes by outcome. timeout and closed are mostly scanners and health checks of \
    load balancers; certificate means that clients do not show the one they have to.";
const EXPIRY_HELP: &str =
    "When the certificate in use stops being valid, in seconds since the epoch. Alert well before.";
