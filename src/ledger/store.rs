//! What every store has in common: how it fails.

/// Why a store gave no answer. An outage, never "not revoked". Holds no secrets: no URLs, no values.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    #[error("no answer in time")]
    Timeout,
    #[error("unavailable: {0}")]
    Unavailable(String),
    #[error("malformed: {0}")]
    Malformed(String),
}
