//! What observers have learnt from a service's answers: counted always, and an audit line for every change.

use std::net::SocketAddr;

use prometheus::IntCounterVec;

use super::{Audit, AuditLine};
use crate::route::{Observer, Revoke, Route};
use crate::time::Timestamp;

/// What an observer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    RevokeToken,
    RevokeSession,
    RevokeUser,
    Track,
}

impl Action {
    /// What an entry of `on_response` does.
    pub fn of(observer: &Observer) -> Self {
        match observer {
            Observer::Revoke(_, Revoke::Token) => Self::RevokeToken,
            Observer::Revoke(_, Revoke::Session) => Self::RevokeSession,
            Observer::Revoke(_, Revoke::User) => Self::RevokeUser,
            Observer::Track(..) => Self::Track,
        }
    }

    /// As in the metric.
    fn label(self) -> &'static str {
        match self {
            Self::RevokeToken => "revoke_token",
            Self::RevokeSession => "revoke_session",
            Self::RevokeUser => "revoke_user",
            Self::Track => "track_session",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored everywhere.
    Applied,
    /// The database holds it; Redis will.
    Pending,
    /// Not stored, and the client was not told of success.
    Failed,
    /// The answer was longer than is read; it passed untracked.
    TooLong,
    /// The answer was not JSON, or encoded in a way that is not understood; it passed untracked.
    Unreadable,
    /// There was no token where one was expected; the answer passed.
    NoToken,
    /// The token is not one of a configured issuer's; the answer passed untracked.
    Unverified,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Applied,
        Self::Pending,
        Self::Failed,
        Self::TooLong,
        Self::Unreadable,
        Self::NoToken,
        Self::Unverified,
    ];

    /// As in the metric and in audit lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::TooLong => "too_long",
            Self::Unreadable => "unreadable",
            Self::NoToken => "no_token",
            Self::Unverified => "unverified",
        }
    }

    /// Whether a change was asked of the ledger: then there is an audit line.
    fn was_tried(self) -> bool {
        matches!(self, Self::Applied | Self::Pending | Self::Failed)
    }
}

/// One answer that an observer has looked at.
pub struct Observed<'a> {
    pub at: Timestamp,
    pub route: &'a Route,
    pub action: Action,
    pub outcome: Outcome,
    /// What was done in the words of the audit trail, such as `token.revoke`; empty where nothing was even tried.
    pub done: &'a str,
    /// Whom or what it was about; a token by its fingerprint.
    pub target: &'a str,
    pub version: Option<i64>,
    pub request_id: &'a str,
    pub remote: SocketAddr,
}

/// Makes the series of a route's observers: those of revocations know fewer outcomes.
pub(super) fn series(counters: &IntCounterVec, routes: &[std::sync::Arc<Route>]) {
    for route in routes {
        for action in route.settings.observers.iter().map(Action::of) {
            let possible = |outcome: &&Outcome| action == Action::Track || outcome.was_tried();
            for outcome in Outcome::ALL.iter().filter(possible) {
                counters.with_label_values(&[&*route.settings.name, action.label(), outcome.label()]);
            }
        }
    }
}

/// Counts it, and writes its audit line.
pub(super) fn tell(counters: &IntCounterVec, audit: &Audit, observed: &Observed<'_>) {
    let Observed { at, route, action, outcome, done, target, version, request_id, remote } = *observed;
    let name = &*route.settings.name;
    counters.with_label_values(&[name, action.label(), outcome.label()]).inc();
    if outcome.was_tried() && !done.is_empty() {
        audit.record(&AuditLine {
            at,
            actor: "observer",
            action: done,
            target,
            outcome: outcome.label(),
            detail: Some(name),
            version,
            request_id,
            remote,
        });
    }
}
