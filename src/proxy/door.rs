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

/// How many connections there may be, and are. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    capacity: u32,
}

impl Connections {
    /// Room for `limit` of them.
    pub fn new(limit: usize) -> Self {
        let capacity = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(usize::try_from(capacity).unwrap_or(usize::MAX))), capacity }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        usize::try_from(self.capacity).unwrap_or(usize::MAX).saturating_sub(self.free.available_permits())
    }

    /// Waits until none is open. Only to be asked for when none is accepted any more.
    pub async fn all_closed(&self) {
        // The semaphore is never closed.
        let _ = self.free.acquire_many(self.capacity).await;
    }
}

/// A Pingora service whose connections pass through [`Door`].
pub fn service(
    conf: &Arc<ServerConf>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
    connections: Connections,
) -> Service<Door> {
    let proxy = http_proxy(conf, Proxy { snapshot: Arc::clone(&snapshot) });
    let timed = Timed { proxy: Arc::new(proxy), snapshot, metrics };
    Service::new("proxy".to_owned(), Door { timed: Arc::new(timed), connections })
}

/// Counts connections. One too many is closed before a byte of it is read.
pub struct Door {
    timed: Arc<Timed>,
    connections: Connections,
}

/// How long clients have to come back for an answer that says `Connection: close`, before idle connections are closed
/// under them. A request that crosses the closing on its way is lost to a client that may not repeat it.
const LAME_DUCK: Duration = Duration::from_secs(1);

#[async_trait]
impl ServerApp for Door {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.connections.free.try_acquire().ok()?;
        FIRST.scope(Cell::new(true), self.timed.process_new(stream, shutdown)).await
    }

    /// Runs when nothing is accepted any more.
    async fn cleanup(&self) {
        let _ = tokio::time::timeout(LAME_DUCK, self.connections.all_closed()).await;
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
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.get_keepalive().is_some() {
            // For ever: waiting is bounded here, once for all reads, and Pingora need not set a timer for each.
            session.set_keepalive(Some(0));
        }
        let (patience, first) = self.patience();
        let read = Arc::new(AtomicBool::new(false));
        let work = HEAD_WAS_READ.scope(Arc::clone(&read), self.proxy.process_new_http(session, shutdown));
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            reused = &mut work => return reused,
            () = fast_sleep(patience) => {}
        }
        if read.load(Ordering::Relaxed) {
            return work.await;
        }
        if first {
            self.metrics.slow_head();
        }
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
    /// How long the next head may take, and whether it is the first on its connection. A kept connection may be idle; a
    /// new one is expected to say something.
    fn patience(&self) -> (Duration, bool) {
        let limits = &self.snapshot.load().server.limits;
        match FIRST.try_with(|first| first.replace(false)) {
            Ok(true) => (limits.header_timeout, true),
            Ok(false) | Err(_) => (limits.idle_timeout, false),
        }
    }
}
