//! What is left of an answer when the token and the time it is judged by are taken out of it.

use super::{Finding, Moment, void};
use crate::time::Timestamp;

/// A reason found in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Why {
    Banned,
    Deactivated,
    Deleted,
    SecurityAction,
    CutOff,
}

impl Why {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Banned => "user_banned",
            Self::Deactivated => "user_deactivated",
            Self::Deleted => "user_deleted",
            Self::SecurityAction => "user_security_action",
            Self::CutOff => "issued_before_cutoff",
        }
    }

    /// Logging in again helps, or does not.
    pub fn status(self) -> u16 {
        match self {
            Self::Banned | Self::Deactivated | Self::Deleted => 403,
            Self::SecurityAction | Self::CutOff => 401,
        }
    }
}

/// What an answer says to every token, so that it can be kept: in little space, and without the value itself.
/// As time passes it only ever lifts what it holds against a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Held {
    /// The same to every token.
    Same(Finding),
    /// Tokens issued up to an instant are denied.
    CutOff(Instant),
    /// A user's standing.
    User { standing: Standing, until: Instant, cut_off: Instant },
}

/// What the preset `native` keeps of a user, less the instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Standing {
    Active,
    SecurityAction,
    Blocked(Why),
}

/// An instant or none, in eight bytes: a million answers hold two of them each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Instant(i64);

impl Instant {
    pub fn of(instant: Option<Timestamp>) -> Self {
        Self(instant.map_or(i64::MIN, Timestamp::millis))
    }

    fn get(self) -> Option<Timestamp> {
        (self.0 != i64::MIN).then(|| Timestamp::from_millis(self.0))
    }
}

impl Held {
    /// What it says to one token, at one moment.
    pub fn judge(self, at: Moment) -> Finding {
        match self {
            Self::Same(finding) => finding,
            Self::CutOff(cut_off) if cut_off.get().is_some_and(|it| void(it, at)) => Finding::Denied,
            Self::CutOff(_) => Finding::Clear,
            Self::User { standing, until, cut_off } => {
                let over = until.get().is_some_and(|until| until <= at.now);
                match (standing, cut_off.get()) {
                    (Standing::Blocked(why), _) if !over => Finding::Because(why),
                    // Without an instant there is nothing to compare with: the user is blocked.
                    (Standing::SecurityAction, None) => Finding::Because(Why::SecurityAction),
                    (Standing::SecurityAction, Some(cut_off)) if void(cut_off, at) => {
                        Finding::Because(Why::SecurityAction)
                    }
                    (_, Some(cut_off)) if void(cut_off, at) => Finding::Because(Why::CutOff),
                    _ => Finding::Clear,
                }
            }
        }
    }
}
