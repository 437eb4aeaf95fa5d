//! From a session to one verdict.

use std::sync::Arc;

use http::header;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::Snapshot;
use super::exchange::Exchange;
use super::limits::Count;
use super::streams::{self, Kind};
use super::{body, hygiene};
use crate::gate;
use crate::route::{Access, Refresh, Route};
use crate::target::{Ambiguity, Target};
use crate::time::Timestamp;
use crate::token::Token;
use crate::verdict::{Denial, DenyReason, Verdict};

/// One verdict for the request at hand.
pub(super) async fn judge(session: &mut Session, exchange: &mut Exchange) -> Verdict {
    let snapshot = Arc::clone(&exchange.snapshot);
    let mut count = Count::new(&snapshot, exchange.client);
    let verdict = judge_counted(session, exchange, &snapshot, &mut count).await;
    exchange.standings = count.told();
    verdict
}

async fn judge_counted(
    session: &mut Session,
    exchange: &mut Exchange,
    snapshot: &Snapshot,
    count: &mut Count<'_>,
) -> Verdict {
    let limits = &snapshot.server.limits;
    // First: who frames one request in two ways is not asked for another, whatever else there is to say.
    let websocket = hygiene::check(session, limits).map_err(deny)?;
    count.anything().await.map_err(deny)?;
    if let Some(route) = looks_into_body(session, exchange)?
        && let Access::Refresh(refresh) = &route.settings.access
    {
        let deny = |reason| Denial { route: Some(Arc::clone(&route)), credential: None, reason };
        count.arrival(&route).await.map_err(deny)?;
        // As long as a head may take: both are small, and nobody is known yet.
        let found = body::token(session, &exchange.arrival, refresh, limits.header_timeout).await;
        exchange.body_read = true;
        exchange.in_body = found.map_err(deny)?;
    }
    let header = session.req_header();
    let target = target(exchange, header)?;
    let request = gate::Request {
        method: &header.method,
        target: &target,
        headers: &header.headers,
        websocket,
        client: exchange.client,
        body_length: hygiene::length(&header.headers),
        client_certificate: exchange.arrival.scheme.client_certificate(),
        in_body: exchange.in_body.as_deref().map(Token::new),
        forwarder: gate::Forwarder::Us,
    };
    exchange.kind = Kind::of(&header.headers, websocket);
    let verdict = match snapshot.gate.preflight(&header.method, &header.headers, &target) {
        Some(grant) => {
            exchange.preflight = true;
            Ok(grant)
        }
        None => {
            let heard = snapshot.gate.ledger.heard();
            let verdict = count.judge(&request, Timestamp::now()).await;
            if let Ok(grant) = &verdict {
                exchange.watch = streams::admit(exchange, grant, &request, heard);
            }
            verdict
        }
    };
    if !target.as_received {
        // From here on there is only the path that was judged.
        let judged = target.origin_form();
        if session.req_header_mut().set_raw_path(judged.as_bytes()).is_err() {
            return Err(deny(DenyReason::RequestAmbiguous("the request target cannot be forwarded")));
        }
    }
    verdict
}

pub(super) fn deny(reason: DenyReason) -> Denial {
    Denial { route: None, credential: None, reason }
}

fn target<'a>(exchange: &Exchange, header: &'a RequestHeader) -> Result<Target<'a>, Denial> {
    let host = header.headers.get(header::HOST).map(|host| host.as_bytes());
    let target = Target::read(header.raw_path(), host, exchange.snapshot.server.ambiguous);
    let target = target.map_err(|Ambiguity(what)| deny(DenyReason::RequestAmbiguous(what)))?;
    // RFC 9112 section 3.2. An absolute target does not make up for it: the service gets the origin form, and would
    // not hear which host was judged.
    if host.is_none() && (header.version == http::Version::HTTP_11 || !target.host.is_empty()) {
        return Err(deny(DenyReason::RequestAmbiguous("there is no Host field")));
    }
    if exchange.arrival.scheme.misdirects(&target.host) {
        return Err(deny(DenyReason::MisdirectedRequest));
    }
    Ok(target)
}

/// The route whose token may be in this request's body. Costs nothing where no route has its token there.
fn looks_into_body(session: &mut Session, exchange: &Exchange) -> Result<Option<Arc<Route>>, Denial> {
    let gate = &exchange.snapshot.gate;
    if !gate.routes.reads_bodies() || !body::has_body(session) {
        return Ok(None);
    }
    let header = session.req_header();
    let target = target(exchange, header)?;
    let route = gate.routes.find(&target.host, &target.path, &header.method);
    let reads = |route: &&Arc<Route>| match &route.settings.access {
        Access::Refresh(Refresh { bodies, .. }) => !bodies.is_empty(),
        Access::Open | Access::Guarded(_) => false,
    };
    Ok(route.filter(reads).cloned())
}
