//! How answers are found, from the fastest way to none at all.

use std::sync::atomic::Ordering;

/// How answers are found at present (SPEC: coherent, direct, database, blind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Memory answers: it is known to say what Redis says.
    Coherent,
    /// Each request asks Redis, and the database for what Redis leaves open.
    Direct,
    /// Redis is not there, is being left alone, or does not hold every change yet.
    Database,
    /// Nobody can be asked.
    Blind,
}

impl Mode {
    /// As in metrics, logs and `/readyz`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Coherent => "coherent",
            Self::Direct => "direct",
            Self::Database => "database",
            Self::Blind => "blind",
        }
    }
}

/// The mode that was last told of.
#[derive(Default)]
pub(super) struct LastMode(std::sync::atomic::AtomicU8);

impl LastMode {
    pub fn swap(&self, now: Mode, ordering: Ordering) -> Mode {
        let code = match now {
            Mode::Direct => 0,
            Mode::Coherent => 1,
            Mode::Database => 2,
            Mode::Blind => 3,
        };
        match self.0.swap(code, ordering) {
            0 => Mode::Direct,
            1 => Mode::Coherent,
            2 => Mode::Database,
            _ => Mode::Blind,
        }
    }
}
