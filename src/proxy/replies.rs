//! Answers to requests that pass and go nowhere: preflights, redirects, and what is always the same.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::dress;
use super::exchange::Exchange;
use super::forward::X_REQUEST_ID;
use crate::answer::{self, Answer};
use crate::route::Destination;
use crate::verdict::{DenyReason, Grant};

/// A redirect names something of a request that is not there to be named.
const UNNAMED: DenyReason = DenyReason::RequestAmbiguous("there is nowhere to be sent to from here");

/// The gateway's own answer; `None`: the request goes to the service.
pub(super) fn own(request: &RequestHeader, grant: &Grant, exchange: &Exchange) -> Option<Answer> {
    if exchange.preflight {
        // What else it says is said of every answer of such a route.
        return Some(Answer { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: Bytes::new() });
    }
    let id =
        || HeaderValue::from_str(exchange.id.as_str()).map(|id| (HeaderName::from_static(X_REQUEST_ID), id));
    match &grant.route.settings.destination {
        Destination::Upstream(_) | Destination::Asked => None,
        Destination::Redirect(redirect) => {
            let claims = grant.credential.as_ref().map(|credential| &credential.claims);
            let Some(location) =
                redirect.to.of(&dress::facts(request, exchange, claims, dress::target(request, exchange)))
            else {
                return Some(answer::problem(&UNNAMED, exchange.id.as_str()));
            };
            let headers = [(header::LOCATION, location)].into_iter().chain(id()).collect();
            Some(Answer { status: redirect.status, headers, body: Bytes::new() })
        }
        Destination::Answer(fixed) => {
            let headers = fixed.headers.iter().cloned().chain(id()).collect();
            Some(Answer { status: fixed.status, headers, body: fixed.body.clone() })
        }
    }
}
