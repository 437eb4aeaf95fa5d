//! Rate limits at the door: what is counted when, and what clients hear of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use pingora::Result;
use pingora::http::ResponseHeader;

use super::Snapshot;
use super::exchange::Exchange;
use crate::answer::rate::{POLICY, STANDING, fields};
use crate::claims::User;
use crate::gate::Request;
use crate::rate::{Limit, Standing, Who};
use crate::route::Route;
use crate::time::Timestamp;
use crate::verdict::{Denial, DenyReason, Verdict};

/// What has been counted of one request.
pub(super) struct Count<'a> {
    snapshot: &'a Snapshot,
    client: IpAddr,
    standings: Vec<Standing>,
    /// Whether the route's limits by address have been asked.
    arrived: bool,
}

impl<'a> Count<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, client: IpAddr) -> Self {
        Self { snapshot, client, standings: Vec::new(), arrived: false }
    }

    /// By the server's own limits, for whatever comes.
    pub(super) async fn anything(&mut self) -> Result<(), DenyReason> {
        self.by(&self.snapshot.limits.before, None).await
    }

    /// By address, before anybody looks at a token or at a body that may hold one. Asked twice, it counts once.
    pub(super) async fn arrival(&mut self, route: &Route) -> Result<(), DenyReason> {
        if std::mem::replace(&mut self.arrived, true) {
            return Ok(());
        }
        self.by(&route.limits.before, None).await
    }

    /// One verdict. What counts stands around the judgment, which has no side effects.
    pub(super) async fn judge(&mut self, request: &Request<'_>, now: Timestamp) -> Verdict {
        let matched = self.snapshot.gate.find(request)?;
        if let Err(reason) = self.arrival(matched.route()).await {
            return Err(Denial { route: Some(Arc::clone(matched.route())), credential: None, reason });
        }
        let verdict = self.snapshot.gate.judge_matched(&matched, now).await;
        self.pass(verdict).await
    }

    /// By what is known once a request may pass. Whoever observes instead of denying does so with what comes out here.
    async fn pass(&mut self, verdict: Verdict) -> Verdict {
        let grant = match verdict {
            Ok(grant) if !grant.route.limits.after.is_empty() => grant,
            other => return other,
        };
        let user = grant.credential.as_ref().map(|credential| credential.claims.user());
        match self.by(&grant.route.limits.after, user).await {
            Ok(()) => Ok(grant),
            Err(reason) => Err(Denial { route: Some(grant.route), credential: grant.credential, reason }),
        }
    }

    /// What the client is to be told.
    pub(super) fn told(self) -> Vec<Standing> {
        self.standings
    }

    async fn by(&mut self, limits: &[Limit], user: Option<&User>) -> Result<(), DenyReason> {
        if limits.is_empty() {
            return Ok(());
        }
        let Snapshot { limiter, gate, server, .. } = self.snapshot;
        let who = Who { address: self.client, ipv6_prefix: server.limits.ipv6_prefix, user };
        // Boxed, so that requests without a limit do not carry it along.
        let counted = limiter.count(limits, who, gate.ledger.redis(), Instant::now(), &mut self.standings);
        Box::pin(counted).await.map_err(DenyReason::RateLimited)
    }
}

/// Whether a body has had its grace and has come, on the whole, more slowly than it must (Apache's `MinRate`). Whoever holds
/// a place has to pay for it by the second, however it spreads its bytes.
pub(super) fn is_slow(exchange: &Exchange) -> bool {
    let limits = &exchange.snapshot.server.limits;
    // An answer that has begun makes it a conversation, too.
    if limits.body_min_rate == 0 || exchange.talks || exchange.status >= 200 {
        return false;
    }
    let late = exchange.began.elapsed().saturating_sub(limits.idle_timeout);
    // Less than a second is nobody's fault.
    late.as_secs().saturating_mul(limits.body_min_rate) > exchange.body_bytes
}

/// Adds to an answer where the client stands, beside what the service may say of limits of its own.
pub(super) fn tell(response: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    if exchange.standings.is_empty() {
        return Ok(());
    }
    let (policy, standing) = fields(&exchange.standings);
    response.append_header(POLICY, policy)?;
    response.append_header(STANDING, standing)?;
    Ok(())
}
