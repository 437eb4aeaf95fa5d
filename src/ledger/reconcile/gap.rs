//! A mark that lags behind the database, and when that is nothing but a gap.

use std::sync::atomic::{AtomicI64, Ordering};

/// Which gap is closed.
#[derive(Clone, Copy, Debug)]
pub enum Gap<'a> {
    Any,
    /// One that was there at the last look as well: an older copy of Redis looks like a gap to a gateway that has not
    /// asked of late, and until the next look one that has will have noticed.
    MustLast(&'a AtomicI64),
}

impl Gap<'_> {
    pub(super) fn lasts(self, seq: i64) -> bool {
        match self {
            Self::Any => true,
            Self::MustLast(last) => last.swap(seq, Ordering::Relaxed) == seq,
        }
    }
}
