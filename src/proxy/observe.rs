//! What is learnt from the service's own answers (`on_response`): what was presented is revoked, what was opened is kept.
//!
//! Either is stored before the client hears of success; where it cannot be stored, the client hears 503 instead. Each
//! change is made on a task of its own: a client that leaves, or a service that dies in the middle of its answer, does
//! not undo a logout that was granted.

mod held;
mod patience;
mod tokens;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::Snapshot;
use super::exchange::{Exchange, RequestId};
use crate::cause::Chain;
use crate::ledger::Change;
use crate::ledger::change::{Applied, ChangeError, RedisState, TokenFacts};
use crate::report::{Action, Observed, Outcome};
use crate::route::{Access, Observer, Revoke, Route};
use crate::time::Timestamp;
use crate::token::{self, Fingerprint, Token};
use crate::verdict::Credential;

pub(super) use held::{Held, collect, deliver};
pub(super) use patience::{hear_out, start_over};
pub(super) use tokens::accept_encoding;

/// The error that `fail_to_proxy` answers with 503.
pub(super) const UNRECORDED: ErrorType = ErrorType::new("Unrecorded");

/// Looks at the head of an answer. What has to be revoked is revoked when this returns; what has to be read is held
/// back from here on, and `head` is emptied.
pub(super) async fn answered(
    session: &mut Session,
    head: &mut ResponseHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    let Some(grant) = exchange.grant() else { return Ok(()) };
    if grant.route.settings.observers.is_empty() {
        return Ok(());
    }
    let (route, credential) = (Arc::clone(&grant.route), grant.credential.clone());
    let status = head.status.as_u16();
    for observer in &route.settings.observers {
        match observer {
            Observer::Revoke(statuses, what) if statuses.contains(status) => {
                // Without a token, on a route where it is optional, there is nothing to revoke.
                let Some(credential) = &credential else { continue };
                let change = Revocation::of(*what, credential, session, exchange);
                if let Some(watch) = &exchange.watch {
                    watch.visit().spare();
                }
                let scene = Scene::of(session, exchange, Arc::clone(&route), Action::of(observer));
                if scene.apply(change).await.is_err() {
                    return Error::e_explain(UNRECORDED, "the revocation could not be stored");
                }
            }
            Observer::Track(statuses, track) if statuses.contains(status) && exchange.held.is_none() => {
                match Held::of(head, session.req_header(), track) {
                    Ok(Some(held)) => exchange.held = Some(Box::new(held)),
                    Ok(None) => {}
                    Err(outcome) => {
                        Scene::of(session, exchange, Arc::clone(&route), Action::Track).tell(outcome)
                    }
                }
            }
            Observer::Revoke(..) | Observer::Track(..) => {}
        }
    }
    match exchange.held {
        Some(_) => held::mask(session, head)?,
        // The rest may be a long stream: a client that has left ends it, as everywhere.
        None => session.as_mut().set_abort_on_close(true),
    }
    Ok(())
}

/// A change, and how the audit trail calls it.
struct Revocation {
    change: Change,
    done: &'static str,
    target: String,
}

impl Revocation {
    /// What revoking comes to for the credential that was presented.
    fn of(what: Revoke, credential: &Credential, session: &Session, exchange: &Exchange) -> Self {
        let claims = &credential.claims;
        match (what, claims.session()) {
            (Revoke::User, _) => Self {
                change: Change::Logout { user: claims.user().clone() },
                done: "user.logout",
                target: claims.user().to_string(),
            },
            (Revoke::Session, Some(sid)) => Self {
                change: Change::Session { session: sid.into() },
                done: "session.revoke",
                target: sid.to_owned(),
            },
            // A token that belongs to no session is all there is of it.
            (Revoke::Token, _) | (Revoke::Session, None) => {
                let facts = TokenFacts {
                    user: claims.user().clone(),
                    token_id: claims.token_id().map(Into::into),
                    expires_at: claims.expires_at(),
                };
                let compact = presented(session, exchange).unwrap_or_default();
                Self {
                    change: Change::Token { compact: compact.into(), claims: Some(facts) },
                    done: "token.revoke",
                    target: credential.fingerprint.to_string(),
                }
            }
        }
    }
}

/// The token that was judged. It is looked for once more, where it was found: kept with every request it would cost those
/// that nobody observes.
fn presented(session: &Session, exchange: &Exchange) -> Option<String> {
    let header = session.req_header();
    let gate = &exchange.snapshot.gate;
    let places = match &exchange.grant()?.route.settings.access {
        Access::Refresh(refresh) => &refresh.places,
        Access::Open | Access::Guarded(_) => &gate.places,
    };
    let target = std::str::from_utf8(header.raw_path()).ok()?;
    let query = target.split_once('?').map(|(_, query)| query);
    let found = token::find(places, &header.headers, query).ok()?;
    let found = token::with_body(found, exchange.in_body.as_deref().map(Token::new)).ok()??;
    let is_it =
        exchange.grant()?.credential.as_ref()?.fingerprint == Fingerprint::of(&Token::new(&found.compact));
    is_it.then(|| found.compact.into_owned())
}

/// What an observation is told with; outlives the request.
struct Scene {
    snapshot: Arc<Snapshot>,
    route: Arc<Route>,
    action: Action,
    id: RequestId,
    remote: SocketAddr,
}

impl Scene {
    fn of(session: &Session, exchange: &Exchange, route: Arc<Route>, action: Action) -> Self {
        let peer = session.client_addr().and_then(|address| address.as_inet()).copied();
        // The port is the peer's: of whom a proxy speaks for, only the address is known.
        let port =
            peer.map_or(0, |peer| if peer.ip().to_canonical() == exchange.client { peer.port() } else { 0 });
        let client: IpAddr = exchange.client;
        Self {
            snapshot: Arc::clone(&exchange.snapshot),
            route,
            action,
            id: exchange.id,
            remote: SocketAddr::new(client, port),
        }
    }

    /// An answer of which nothing is kept.
    fn tell(&self, outcome: Outcome) {
        let route = &*self.route.settings.name;
        match outcome {
            Outcome::Failed => tracing::error!(
                route,
                request_id = self.id.as_str(),
                "The keys of the issuer are not available: an answer's token cannot be verified"
            ),
            Outcome::TooLong | Outcome::Unverified => tracing::warn!(
                route,
                request_id = self.id.as_str(),
                outcome = outcome.label(),
                "Answer passed untracked"
            ),
            _ => tracing::debug!(route, outcome = outcome.label(), "Answer passed untracked"),
        }
        self.record("", "", outcome, None, Timestamp::now());
    }

    /// Makes a change, on a task of its own, and waits for it.
    async fn apply(self, revocation: Revocation) -> Result<(), ()> {
        let tasks = self.snapshot.observing.clone();
        let made = tasks.spawn(async move {
            let Revocation { change, done, target } = revocation;
            let now = Timestamp::now();
            let applied = self.snapshot.gate.ledger.apply(&change, now).await;
            let (outcome, version) = match &applied {
                Ok(Applied { redis: RedisState::Pending, version }) => (Outcome::Pending, Some(*version)),
                Ok(Applied { version, .. }) => (Outcome::Applied, Some(*version)),
                Err(error) => {
                    self.failed(error);
                    (Outcome::Failed, None)
                }
            };
            self.record(done, &target, outcome, version, now);
            applied.map(drop).map_err(drop)
        });
        // A panic in there is no success either.
        made.await.unwrap_or(Err(()))
    }

    fn failed(&self, error: &ChangeError) {
        tracing::error!(
            route = &*self.route.settings.name,
            request_id = self.id.as_str(),
            error = %Chain(error),
            "What follows from an answer could not be stored"
        );
    }

    fn record(&self, done: &str, target: &str, outcome: Outcome, version: Option<i64>, at: Timestamp) {
        self.snapshot.report.observed(&Observed {
            at,
            route: &self.route,
            action: self.action,
            outcome,
            done,
            target,
            version,
            request_id: self.id.as_str(),
            remote: self.remote,
        });
    }
}
