//! HTTP/2 frames, counted as they come in: requests that are taken back are work all the same (CVE-2023-44487), and so are
//! frames that ask for nothing (CVE-2019-9512, -9513, -9515).
//!
//! The `h2` crate bounds what waits to be accepted, and a stream that was reset no longer counts as open. So a client can
//! have the gateway turn to an upstream and drop it again, as fast as it can send; only counting bounds that.

use std::time::{Duration, Instant};

use prometheus::IntCounter;

/// RFC 9113 section 3.4.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 section 4.1: length (3), type, flags, stream (4).
const HEAD: usize = 9;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const DATA: u8 = 0x0;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

/// How many requests may be taken back at once, and how fast that allowance comes back. A page that is left while it
/// loads takes back some dozens.
const BURST: u32 = 200;
const AGAIN_EVERY: Duration = Duration::from_millis(20);

/// How many frames may come that ask for nothing (pings, settings, priorities, unknown ones), and how fast that allowance
/// comes back. gRPC pings every few seconds; browsers send dozens of settings and priorities in a connection's life.
const CHATTER: u32 = 1000;
const CHATTER_AGAIN_EVERY: Duration = Duration::from_millis(10);

/// What was written to the client pays for one frame of it that says "go on". They come two for each 16 KiB and more.
const BYTES_PER_UPDATE: u64 = 512;

/// The client keeps us busy, and wants nothing.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Flood {
    /// It takes requests back faster than any reader of pages.
    #[error("too many streams are reset")]
    Resets,
    /// It sends frames that ask for nothing.
    #[error("too many frames ask for nothing")]
    Chatter,
}

/// Follows the frames of one client.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that belong to no frame head: the preface, then payloads.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    opened: u64,
    reset: u64,
    resets: Allowance,
    chatter: Allowance,
    /// Bytes written for which no update has come.
    unacknowledged: u64,
    floods: IntCounter,
}

/// So many at once, and one more each so often. The clock is read only where it is used up.
#[derive(Debug)]
struct Allowance {
    left: u32,
    most: u32,
    again_every: Duration,
    since: Instant,
}

impl Allowance {
    fn new(most: u32, again_every: Duration) -> Self {
        Self { left: most, most, again_every, since: Instant::now() }
    }

    fn take(&mut self) -> bool {
        if self.left == 0 {
            let earned = self.since.elapsed().as_millis() / self.again_every.as_millis();
            self.left = u32::try_from(earned).unwrap_or(self.most).min(self.most);
            self.since = Instant::now();
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_some()
    }
}

impl Frames {
    pub(super) fn new(floods: IntCounter) -> Self {
        Self {
            skip: PREFACE.len(),
            head: [0; HEAD],
            filled: 0,
            opened: 0,
            reset: 0,
            resets: Allowance::new(BURST, AGAIN_EVERY),
            chatter: Allowance::new(CHATTER, CHATTER_AGAIN_EVERY),
            unacknowledged: 0,
            floods,
        }
    }

    /// Takes note of what was read.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEAD - self.filled).min(bytes.len());
            let (taken, rest) = bytes.split_at(wanted);
            if let Some(place) = self.head.get_mut(self.filled..self.filled + wanted) {
                place.copy_from_slice(taken);
            }
            self.filled += wanted;
            bytes = rest;
            if self.filled == HEAD {
                self.filled = 0;
                let [a, b, c, kind, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.frame(kind)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8) -> Result<(), Flood> {
        match kind {
            HEADERS => self.opened += 1,
            // Those without content are counted by the `h2` crate.
            DATA | CONTINUATION => {}
            RST_STREAM => return self.taken_back(),
            WINDOW_UPDATE if self.unacknowledged >= BYTES_PER_UPDATE => {
                self.unacknowledged -= BYTES_PER_UPDATE;
            }
            _ if self.chatter.take() => {}
            _ => return self.cut(Flood::Chatter),
        }
        Ok(())
    }

    /// So much was written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.unacknowledged = self.unacknowledged.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    fn cut(&self, flood: Flood) -> Result<(), Flood> {
        self.floods.inc();
        Err(flood)
    }

    fn taken_back(&mut self) -> Result<(), Flood> {
        self.reset += 1;
        // Another proxy may carry thousands of users, some of whom always leave; a flood is nothing but leaving.
        let mostly = self.reset.saturating_mul(2) > self.opened;
        if !self.resets.take() && mostly {
            return self.cut(Flood::Resets);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [.., a, b, c] = length.to_be_bytes();
        let mut frame = vec![a, b, c, kind, 0, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n(RST_STREAM, length));
        frame
    }

    fn frames() -> Frames {
        Frames::new(IntCounter::new("floods", "in a test").expect("a counter"))
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = PREFACE.to_vec();
        for (kind, length) in [(4, 18), (HEADERS, 300), (0, 70_000), (RST_STREAM, 4), (HEADERS, 0)] {
            bytes.extend(frame(kind, length));
        }
        for size in [1, 2, 7, 9, 10, 4096, bytes.len()] {
            let mut frames = frames();
            for piece in bytes.chunks(size) {
                assert_eq!(frames.follow(piece), Ok(()));
            }
            assert_eq!((frames.opened, frames.reset), (2, 1), "in pieces of {size}");
        }
    }

    #[test]
    fn who_only_takes_back_is_cut_off_and_who_mostly_stays_is_not() {
        let [request, reset] = [frame(HEADERS, 20), frame(RST_STREAM, 4)];
        let mut flood = frames();
        flood.follow(PREFACE).expect("no frame");
        let survived = (0..1000).take_while(|_| flood.follow(&[&*request, &*reset].concat()).is_ok()).count();
        assert!((200..400).contains(&survived), "{survived}");
        assert_eq!(flood.floods.get(), 1);

        let mut busy = frames();
        busy.follow(PREFACE).expect("no frame");
        for _ in 0..2000 {
            busy.follow(&[&*request, &*request, &*request, &*reset].concat()).expect("no flood");
        }
    }

    #[test]
    fn who_only_chatters_is_cut_off_and_who_acknowledges_what_it_is_sent_is_not() {
        for kind in [0x2, 0x4, 0x6, WINDOW_UPDATE, 0xbe] {
            let ping = frame(kind, 8);
            let mut flood = frames();
            flood.follow(PREFACE).expect("no frame");
            let survived = (0..5000).take_while(|_| flood.follow(&ping).is_ok()).count();
            assert!((1000..2000).contains(&survived), "{kind}: {survived}");
            assert_eq!(flood.floods.get(), 1);
        }
        let mut reader = frames();
        reader.follow(PREFACE).expect("no frame");
        let update = frame(WINDOW_UPDATE, 4);
        for _ in 0..10_000 {
            reader.wrote(16 << 10);
            // For the stream, and for the connection.
            reader.follow(&[&*update, &*update].concat()).expect("no flood");
        }
    }
}
