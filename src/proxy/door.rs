//! The door itself: connections are counted, and a head that does not come in time is not waited for.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;
use pingora::time::fast_timeout::fast_sleep;
use tokio::sync::Semaphore;

use super::{Proxy, Snapshot};
use crate::report::Metrics;

/// A Pingora service whose connections pass through [`Door`]. `connections` bounds them; all its permits are back when
/// none is open.
pub fn service(
    conf: &Arc<ServerConf>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
    connections: Arc<Semaphore>,
) -> Service<Door> {
    let proxy = http_proxy(conf, Proxy { snapshot: Arc::clone(&snapshot) });
    let timed = Timed { proxy: Arc::new(proxy), snapshot, metrics };
    Service::new("proxy".to_owned(), Door { timed: Arc::new(timed), connections })
}

/// Counts connections. One too many is closed before a byte of it is read.
pub struct Door {
    timed: Arc<Timed>,
    connections: Arc<Semaphore>,
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.connections.try_acquire().ok()?;
        FIRST.scope(Cell::new(true), self.timed.process_new(stream, shutdown)).await
    }

    async fn cleanup(&self) {
        self.timed.http_cleanup().await;
    }
}

/// Bounds the time from the first wait for a request to the end of its head. Pingora's own time-outs are for each read:
/// a client that sends a byte now and then would be waited for without end.
struct Timed {
    proxy: Arc<HttpProxy<Proxy>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
}

tokio::task_local! {
    /// Whether the next request is the first on its connection.
    static FIRST: Cell<bool>;
    static HEAD_WAS_READ: Arc<AtomicBool>;
}

/// Called by the first hook that runs with a parsed head.
pub(super) fn head_was_read() {
    // Without the scope, in a test say, nobody waits.
    let _ = HEAD_WAS_READ.try_with(|read| read.store(true, Ordering::Relaxed));
}

#[async_trait]
impl HttpServerApp for Timed {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let read = Arc::new(AtomicBool::new(false));
        let work = HEAD_WAS_READ.scope(Arc::clone(&read), self.proxy.process_new_http(session, shutdown));
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            reused = &mut work => return reused,
            () = fast_sleep(self.patience()) => {}
        }
        if read.load(Ordering::Relaxed) {
            return work.await;
        }
        self.metrics.slow_head();
        None
    }

    fn server_options(&self) -> Option<&pingora::apps::HttpServerOptions> {
        self.proxy.server_options()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

impl Timed {
    /// A kept connection may be idle before the next head begins; a new one is expected to say something.
    fn patience(&self) -> Duration {
        let limits = &self.snapshot.load().server.limits;
        match FIRST.try_with(|first| first.replace(false)) {
            Ok(true) => limits.header_timeout,
            _ => limits.idle_timeout + limits.header_timeout,
        }
    }
}
