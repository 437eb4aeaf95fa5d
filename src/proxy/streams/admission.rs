//! How a granted exchange is put down as open.

use std::sync::Arc;

use super::{Entry, Kind, Visit, Watch};
use crate::gate;
use crate::ledger::Heard;
use crate::proxy::exchange::Exchange;
use crate::route::Mode;
use crate::verdict::Grant;

/// Puts an exchange down as open that has been granted. `heard`: what the ledger had heard before it was judged.
///
/// What nobody's credential is needed for is watched only if it is a stream by its head: a new configuration may
/// ask for one.
pub(in crate::proxy) fn admit(
    exchange: &Exchange,
    grant: &Grant,
    request: &gate::Request<'_>,
    heard: Heard,
) -> Option<Watch> {
    if grant.credential.is_none() && exchange.kind == Kind::Plain {
        return None;
    }
    let place = (request.method, &*request.target.host, &*request.target.path);
    let kind = match exchange.kind {
        // Until there is an answer it is a request that may get another one.
        Kind::Events => Kind::Plain,
        kind => kind,
    };
    let (certified, arrival) = (request.client_certificate, &exchange.arrival);
    let visit = Arc::new(Visit::new(place, kind, certified, arrival, exchange.began));
    let streams = &exchange.snapshot.streams;
    let watch = streams.open(Entry {
        visit,
        credential: grant.credential.clone(),
        snapshot: exchange.snapshot.number,
        heard,
        concern: None,
        asked: exchange.began,
        observed: grant.route.settings.handling.mode == Mode::Observe,
        doomed: false,
    });
    // The change may have been looked into before this exchange was there to be found.
    if exchange.snapshot.gate.ledger.heard() != heard {
        streams.ring();
    }
    watch
}
