//! How much of a head is read: Pingora would collect a megabyte of it before anybody could say that this is too long.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Said on the wire itself: of a head that is not at its end nothing else can be made.
pub(super) const TOO_LONG: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// Read along with a head: the beginning of a body.
const SLACK: usize = 8 << 10;

/// What may still come of the head that is being waited for. Shared by whoever reads and whoever knows what is read; it is
/// one task that does both, so nothing is lost between looking and writing.
#[derive(Debug, Default)]
pub(super) struct Head {
    left: AtomicUsize,
}

impl Head {
    /// A head is waited for. One that is within `bytes` never comes to the end of this, however it is read: buffers grow
    /// by doubling.
    pub(super) fn expect(&self, bytes: usize) {
        self.left.store(bytes.saturating_mul(2).saturating_add(SLACK), Relaxed);
    }

    /// It is there. What follows is bounded by others.
    pub(super) fn came(&self) {
        self.left.store(usize::MAX, Relaxed);
    }

    /// So much was read. `false`: too much.
    pub(super) fn read(&self, bytes: usize) -> bool {
        let left = self.left.load(Relaxed);
        if left == usize::MAX {
            return true;
        }
        let now = left.checked_sub(bytes);
        self.left.store(now.unwrap_or_default(), Relaxed);
        now.is_some()
    }
}
