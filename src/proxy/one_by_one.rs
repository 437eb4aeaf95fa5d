//! A connection on which HTTP/1.1 is spoken: its requests follow one another.
//!
//! This is a task of its own, and there is nothing around it: it is polled several times for every request, and whatever
//! it lies in is gone through each time.

use std::sync::Arc;

use pingora::apps::{HttpServerApp as _, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use super::Proxy;
use super::arrival::Arrival;
use super::connections::Place;

/// One connection, and whom it takes a place from.
pub(super) struct OneByOne {
    pub(super) proxy: Arc<HttpProxy<Proxy>>,
    /// Shared by its requests: what there is to know of how they came.
    pub(super) arrival: Arc<Arrival>,
    /// How long a head may be.
    pub(super) header_bytes: usize,
    pub(super) shutdown: ShutdownWatch,
    pub(super) place: Place,
}

impl OneByOne {
    /// Serves its requests to the last, as Pingora does for those that it accepts.
    pub(super) async fn serve(self, stream: Stream) {
        let mut session = ServerSession::new_http1(stream);
        // For ever: waiting is bounded by `waiting`, once for all reads, and Pingora need not set a timer for each.
        let patience = if *self.shutdown.borrow() { None } else { Some(0) };
        session.set_keepalive(patience);
        while let Some(kept) = self.serve_one(session).await {
            let (stream, settings) = kept.consume();
            session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
        }
        drop(self.place);
    }

    /// The connection, if another request may come on it.
    async fn serve_one(&self, session: ServerSession) -> Option<ReusedHttpStream> {
        self.arrival.head_is_waited_for(self.header_bytes);
        self.arrival.unless_cut(self.proxy.process_new_http(session, &self.shutdown)).await
    }
}
