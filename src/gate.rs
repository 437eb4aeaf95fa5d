//! The judgment: a request in, a [`Verdict`] out. Writes nothing, logs nothing, reads no clock.
//!
//! Read [`Gate::judge`] from top to bottom: each line earns a value that the next one needs, so no two can be swapped.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use crate::claims::{Claims, User};
use crate::identity::Identity;
use crate::ledger::{Ledger, Lookup, Unaskable};
use crate::route::{Access, Anonymous, ClientCertificate, OnOutage, Policy, Refresh, Route, RouteTable};
use crate::target::Target;
use crate::time::Timestamp;
use crate::token::{self, Conflict, Fingerprint, Place, Token};
use crate::verdict::{Assurance, Credential, Denial, DenyReason, Grant, Told, Verdict};
use crate::verify::{Seal, TokenCache, Unverified, Verifiers};

/// What is judged. The proxy makes it of a session; whoever asks in its place makes the same.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// Where it goes, canonical.
    pub target: &'a Target<'a>,
    /// Every header, as received.
    pub headers: &'a HeaderMap,
    /// Whether this is a WebSocket handshake.
    pub websocket: bool,
    /// Whether the client has shown a certificate that is believed.
    pub client_certificate: bool,
    /// The token in the body, where the route says that it is there ([`Refresh::bodies`]) and it is.
    pub in_body: Option<Token<'a>>,
    /// Who forwards it, if it passes.
    pub forwarder: Forwarder,
}

/// Who forwards a request that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarder {
    /// This gateway.
    Us,
    /// The proxy that asks.
    Peer,
}

/// A request, and the route it goes to: only [`Gate::find`] brings the two together.
#[derive(Debug)]
pub struct Matched<'a> {
    request: &'a Request<'a>,
    route: &'a Arc<Route>,
}

impl<'a> Matched<'a> {
    /// The route.
    pub fn route(&self) -> &'a Arc<Route> {
        self.route
    }
}

/// What a token is good for, by the route it is presented to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// An access token.
    Access,
    /// A refresh token: it begets others, so nothing that is remembered of it is enough.
    Refresh,
}

/// Everything a judgment needs, immutable; a new configuration is a new gate.
pub struct Gate {
    /// Where requests may go.
    pub routes: RouteTable,
    /// Where requests may carry a token.
    pub places: Vec<Place>,
    /// Whose tokens are believed.
    pub verifiers: Arc<Verifiers>,
    /// What is held against them.
    pub ledger: Arc<Ledger>,
    /// What upstreams are told.
    pub identity: Identity,
    /// Tokens verified under this very configuration.
    pub tokens: TokenCache<Credential>,
}

impl Gate {
    /// Judges a request at the instant `now`.
    pub async fn judge(&self, request: &Request<'_>, now: Timestamp) -> Verdict {
        self.judge_matched(&self.find(request)?, now).await
    }

    /// Where a request goes, before anybody is asked who sends it.
    pub fn find<'a>(&'a self, request: &'a Request<'a>) -> Result<Matched<'a>, Denial> {
        let Target { host, path, .. } = request.target;
        let Some(route) = self.routes.find(host, path, request.method) else {
            return Err(Denial { route: None, credential: None, reason: DenyReason::NoRoute });
        };
        // No less specific route takes its place: what is guarded for others is not opened here.
        if route.upstream.is_none() && request.forwarder == Forwarder::Us {
            let (route, reason) = (Some(Arc::clone(route)), DenyReason::NoRoute);
            return Err(Denial { route, credential: None, reason });
        }
        Ok(Matched { request, route })
    }

    /// Judges a request whose route is known.
    pub async fn judge_matched(&self, matched: &Matched<'_>, now: Timestamp) -> Verdict {
        let Matched { request, route } = *matched;
        let query = &request.target.query;
        if route.settings.client_certificate == ClientCertificate::Required && !request.client_certificate {
            let reason = DenyReason::ClientCertificateMissing;
            return Err(Denial { route: Some(Arc::clone(route)), credential: None, reason });
        }
        let (policy, places, bodies, purpose) = match &route.settings.access {
            Access::Open => {
                let (route, assurance) = (Arc::clone(route), Assurance::Full);
                return Ok(Grant { route, credential: None, told: None, assurance });
            }
            Access::Guarded(policy) => (policy, &self.places, &[][..], Purpose::Access),
            Access::Refresh(Refresh { policy, places, bodies, .. }) => {
                (policy, places, bodies.as_slice(), Purpose::Refresh)
            }
        };
        let deny = |reason| Denial { route: Some(Arc::clone(route)), credential: None, reason };

        let found = token::none_in_query(bodies, *query);
        let found = found.and_then(|()| token::find(places, request.headers, *query));
        let found = found.and_then(|found| token::with_body(found, request.in_body));
        let found = found.map_err(|Conflict(what)| deny(DenyReason::RequestAmbiguous(what)))?;
        let Some(found) = found else {
            return match policy.anonymous {
                Anonymous::Refuse => Err(deny(DenyReason::TokenMissing)),
                Anonymous::Admit => anonymous(route, policy).map_err(deny),
            };
        };
        if found.only_in_cookie && request.websocket && !same_origin(request) {
            return Err(deny(DenyReason::OriginRefused));
        }
        let token = Token::new(&found.compact);
        let credential = self.credential(&token, purpose, now).await.map_err(deny)?;

        let deny = |credential, reason| Denial {
            route: Some(Arc::clone(route)),
            credential: Some(credential),
            reason,
        };
        let assurance = match self.weigh(&credential, policy, purpose, now).await {
            Ok(assurance) => assurance,
            Err(reason) => return Err(deny(credential, reason)),
        };
        if let Err(reason) = requirements(policy, &credential.claims) {
            return Err(deny(credential, reason));
        }
        let told = self.told(&credential, &token).await;
        Ok(Grant { route: Arc::clone(route), credential: Some(credential), told, assurance })
    }

    /// What the upstream is told of the user's profile; made anew only when the profile has changed. A user of whom nothing
    /// is known has no such headers: less is told, never something else.
    async fn told(&self, credential: &Credential, token: &Token<'_>) -> Option<Arc<Told>> {
        if !self.identity.tells_profile() {
            return None;
        }
        let profiles = self.ledger.profile(&credential.questions, &credential.claims).await;
        if let Some(told) = credential.told.load_full()
            && told.profiles.len() == profiles.len()
            && told.profiles.iter().zip(&profiles).all(|(before, now)| Arc::ptr_eq(before, now))
        {
            return Some(told);
        }
        let stamps = self.identity.profile_stamps(&credential.claims, token, &profiles);
        let told = Arc::new(Told { profiles, stamps });
        credential.told.store(Some(Arc::clone(&told)));
        Some(told)
    }

    /// The verified credential: one probe when the token is known, a signature when it is not.
    ///
    /// Refresh tokens are not remembered: what is believed of one must never be found under an access token's rules.
    async fn credential(
        &self,
        token: &Token<'_>,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<Arc<Credential>, DenyReason> {
        if purpose == Purpose::Refresh {
            let verified = self.verifiers.verify_refresh(token, now).await;
            return self.made(token, verified.map_err(DenyReason::Unverified)?).map(Arc::new);
        }
        if let Some(known) = self.tokens.get(token) {
            match self.verifiers.still_holds(&known.claims, &known.seal, now) {
                Ok(()) => return Ok(known),
                Err(over @ (Unverified::Expired | Unverified::NotYetValid)) => {
                    return Err(DenyReason::Unverified(over));
                }
                // Its keys have changed: it is verified anew, and refused or kept by the new ones.
                Err(_) => drop(self.tokens.remove(token)),
            }
        }
        let verified = self.verifiers.verify(token, now).await.map_err(DenyReason::Unverified)?;
        Ok(self.tokens.insert(token, self.made(token, verified)?))
    }

    /// All that follows from a verified token alone.
    fn made(&self, token: &Token<'_>, (claims, seal): (Claims, Seal)) -> Result<Credential, DenyReason> {
        let questions = self.ledger.questions(&claims, token);
        let questions =
            questions.map_err(|Unaskable(claim)| DenyReason::Unverified(Unverified::Claim(claim)))?;
        let stamps = self.identity.stamps(&claims, token);
        let (fingerprint, told) = (Fingerprint::of(token), ArcSwapOption::empty());
        Ok(Credential { claims, seal, fingerprint, questions, stamps, told })
    }

    /// What the ledger says, weighed against the route's policy for outages.
    async fn weigh(
        &self,
        credential: &Credential,
        policy: &Policy,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<Assurance, DenyReason> {
        let Credential { questions, claims, .. } = credential;
        let lookup = match purpose {
            Purpose::Access => self.ledger.find(questions, claims, now).await,
            Purpose::Refresh => self.ledger.find_strictly(questions, claims, now).await,
        };
        match (lookup, policy.on_outage) {
            (Lookup::Live, _) => Ok(Assurance::Full),
            (Lookup::Revoked(revocation), _) => Err(DenyReason::Revoked(revocation)),
            (Lookup::Unknown(outage), OnOutage::Deny) => Err(DenyReason::LedgerUnavailable(outage)),
            (Lookup::Unknown(outage), OnOutage::Allow) => Ok(Assurance::RevocationUnknown(outage)),
        }
    }

    /// The credentials of a user which this gateway has seen and still remembers.
    pub fn seen(&self, user: &User) -> Vec<Arc<Credential>> {
        let known = self.tokens.iter().map(|(_, credential)| credential);
        known.filter(|it| it.claims.user() == user || it.questions.mean(user)).collect()
    }
}

/// A request without a token on a route where it is optional. What the route requires, nobody has.
fn anonymous(route: &Arc<Route>, policy: &Policy) -> Result<Grant, DenyReason> {
    if policy.scopes.is_empty() && policy.roles.is_empty() && policy.claims.is_empty() {
        Ok(Grant { route: Arc::clone(route), credential: None, told: None, assurance: Assurance::Full })
    } else {
        Err(DenyReason::TokenMissing)
    }
}

/// Browsers send cookies along with a WebSocket handshake from any page, and no preflight asks first: the page's origin
/// (RFC 6455 section 10.2) has to be the host it speaks to.
fn same_origin(request: &Request<'_>) -> bool {
    let text = |name| request.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

fn requirements(policy: &Policy, claims: &Claims) -> Result<(), DenyReason> {
    if !policy.scopes.iter().all(|scope| claims.scopes().contains(scope)) {
        return Err(DenyReason::InsufficientScope);
    }
    if !policy.roles.is_empty() && !policy.roles.iter().any(|role| claims.roles().contains(role)) {
        return Err(DenyReason::InsufficientRole);
    }
    let holds = |(name, wanted): &(Box<str>, Value)| match claims.claim(name) {
        Some(Value::Array(list)) => list.contains(wanted),
        Some(value) => value == wanted,
        None => false,
    };
    if policy.claims.iter().all(holds) { Ok(()) } else { Err(DenyReason::ClaimMismatch) }
}
