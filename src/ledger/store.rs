//! Why a store gave no answer. Always an outage of that answer, never “not revoked”.

use std::fmt::Display;

/// A question a store could not answer. The causes name commands, columns and server errors, never keys or values:
/// a key may hold a whole token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer within the store's own timeout.
    #[error("no answer in time")]
    Timeout,
    /// Not connected, refused, loading, read-only, out of memory, no permission.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It answered with something that cannot be understood: the store is well, this answer is not.
    #[error("malformed answer: {0}")]
    Malformed(String),
}

impl StoreError {
    /// [`StoreError::Unavailable`] with a cause that names no value.
    pub fn unavailable(cause: impl Display) -> Self {
        Self::Unavailable(cause.to_string())
    }

    /// [`StoreError::Malformed`] with a cause that names no value.
    pub fn malformed(cause: impl Display) -> Self {
        Self::Malformed(cause.to_string())
    }

    /// Whether it says something about the store itself, so that asking it less is right.
    pub fn is_outage_of_the_store(&self) -> bool {
        match self {
            Self::Timeout | Self::Unavailable(_) => true,
            Self::Malformed(_) => false,
        }
    }
}
