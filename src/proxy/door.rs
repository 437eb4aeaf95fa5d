//! The door itself: connections are counted from their first byte, and neither a handshake nor a head that does not come
//! in time is waited for.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp as _};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::time::fast_timeout::fast_sleep;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::arrival::{Arrival, Peer};
use super::connections::{Connections, Place, Refused};
use super::entrance::{Entrance, Failed, Opened, Scheme};
use super::head::Head;
use super::one_by_one::OneByOne;
use super::parting::Parting;
use super::settings::Limits;
use super::waiting::Waiting;
use super::{Proxy, Snapshot};
use crate::report::Metrics;
use crate::tasks;
use crate::tls::{HandshakeError, TlsMetrics};

/// Where every connection comes in, whatever it speaks.
pub struct Door {
    proxy: Arc<HttpProxy<Proxy>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
    tls: TlsMetrics,
    connections: Connections,
    waiting: Arc<Waiting>,
    closing: Arc<AtomicBool>,
}

/// How long clients have to come back for an answer that says `Connection: close`, before idle connections are closed
/// under them. A request that crosses the closing on its way is lost to a client that may not repeat it.
const LAME_DUCK: Duration = Duration::from_secs(1);

impl Door {
    /// Needs a runtime: how long connections wait is looked at in the background.
    pub fn new(
        conf: &Arc<ServerConf>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Metrics,
        tls: TlsMetrics,
        connections: Connections,
    ) -> Self {
        let closing = Arc::<AtomicBool>::default();
        let proxy = Proxy { snapshot: Arc::clone(&snapshot), closing: Arc::clone(&closing) };
        let proxy = Arc::new(http_proxy(conf, proxy));
        let waiting = Arc::new(Waiting::default());
        let (looked_at, by, told) = (Arc::downgrade(&waiting), Arc::clone(&snapshot), metrics.clone());
        // Ends with the door.
        tasks::keep("waiting", &CancellationToken::new(), move || {
            Waiting::look(looked_at.clone(), Arc::clone(&by), told.clone())
        });
        Self { proxy, snapshot, metrics, tls, connections, waiting, closing }
    }

    /// A place for one more connection. Taken where connections are accepted, so that they count in the order in which
    /// they come.
    pub fn place(&self, tcp: &TcpStream, peer: SocketAddr, entrance: &Entrance) -> Option<Place> {
        let snapshot = self.snapshot.load();
        let (server, peer) = (&snapshot.server, peer.ip().to_canonical());
        let is_one = !matches!(entrance, Entrance::ForwardAuth) && !server.trusts(&peer);
        match self.connections.place(tcp.as_raw_fd(), peer, &server.limits, is_one) {
            Ok(place) => return Some(place),
            Err(Refused::Full) => self.metrics.refused().full.inc(),
            Err(Refused::Address) => self.metrics.refused().address.inc(),
            Err(Refused::Descriptors) => self.metrics.refused().descriptors.inc(),
        }
        None
    }

    /// Opens a connection, and serves it or leaves it to a task that does.
    pub async fn serve(
        self: Arc<Self>,
        place: Place,
        tcp: TcpStream,
        peer: SocketAddr,
        entrance: &Entrance,
        shutdown: ShutdownWatch,
    ) {
        let snapshot = self.snapshot.load_full();
        let (limits, h2c) = (snapshot.server.limits.clone(), snapshot.server.h2c);
        let parting = Parting::new(snapshot.streams.farewells.clone());
        drop(snapshot);
        let opening = entrance.open(tcp, peer, h2c, self.metrics.floods(), &parting);
        let opened = tokio::time::timeout(limits.header_timeout, opening).await;
        let Some(Opened { stream, http2, scheme, head }) = self.tell(opened.ok(), entrance, peer) else {
            return;
        };
        let peer = Peer::new(peer);
        if !http2 {
            let arrival = Arc::new(Arrival::new(scheme, peer, head, parting));
            let (proxy, header_bytes) = (Arc::clone(&self.proxy), limits.header_bytes);
            let work = OneByOne { proxy, arrival: Arc::clone(&arrival), header_bytes, shutdown, place };
            let task = tokio::spawn(work.serve(stream));
            self.waiting.watch(arrival, task.abort_handle());
            return;
        }
        let connection = Arc::new(Connection {
            door: Arc::clone(&self),
            scheme,
            peer,
            head,
            options: options(&limits),
            limits,
            parting,
            fresh: AtomicBool::new(true),
            running: AtomicUsize::new(0),
        });
        let work = connection.process_new(stream, &shutdown);
        let patience = connection.limits.header_timeout;
        // Pingora comes back only with the first request; of the preface and the settings before, nobody keeps time.
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            _ = &mut work => return,
            () = fast_sleep(patience) => {}
        }
        if connection.fresh.load(Ordering::Relaxed) {
            self.metrics.slow_head();
            return;
        }
        tokio::select! {
            _ = &mut work => {}
            () = connection.left_behind(shutdown.clone()) => {}
        }
    }

    /// Counts how opening a connection went.
    fn tell(
        &self,
        opened: Option<Result<Opened, Failed>>,
        entrance: &Entrance,
        peer: SocketAddr,
    ) -> Option<Opened> {
        let by_tls = matches!(entrance, Entrance::Tls(_));
        let error = match opened {
            Some(Ok(opened)) => {
                if by_tls {
                    self.tls.completed();
                }
                return Some(opened);
            }
            Some(Err(Failed::Handshake(error))) => error,
            None if by_tls => HandshakeError::Timeout,
            None => {
                self.metrics.slow_head();
                return None;
            }
            Some(Err(Failed::Gone)) => return None,
        };
        self.tls.failed(&error);
        // Scanners make this a matter of every minute; the counter is what to watch.
        tracing::debug!(%peer, error = error.word(), "TLS handshake failed");
        None
    }

    /// Runs when nothing is accepted any more.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(LAME_DUCK, self.connections.all_closed()).await;
        self.proxy.http_cleanup().await;
    }
}

/// One connection on which HTTP/2 is spoken.
struct Connection {
    door: Arc<Door>,
    scheme: Scheme,
    peer: Peer,
    head: Arc<Head>,
    options: HttpServerOptions,
    /// Those in force when it came.
    limits: Limits,
    /// What is said when an exchange on it is cut, where it can be said at all.
    parting: Arc<Parting>,
    /// Whether the next request is the first.
    fresh: AtomicBool,
    /// Requests that are being served.
    running: AtomicUsize,
}

impl Connection {
    /// Waits until clients have been told to go (HTTP/2: GOAWAY) and nothing more is being served. Who has not gone by
    /// then is a telephone asleep: Pingora would wait for it until the drain's deadline. The same where every request is
    /// told to come by another connection.
    async fn left_behind(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            _ = shutdown.wait_for(|told| *told) => {}
            () = self.scheme.outdated() => {}
        }
        loop {
            tokio::time::sleep(LAME_DUCK).await;
            if self.running.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

/// Counts a request for as long as it runs, however it ends.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn options(limits: &Limits) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(limits.idle_timeout);
    options
}

#[async_trait]
impl HttpServerApp for Connection {
    /// Serves one request. Of its body Pingora keeps no time.
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let _running = Running::new(&self.running);
        self.fresh.store(false, Ordering::Relaxed);
        let (head, parting) = (Arc::clone(&self.head), Arc::clone(&self.parting));
        let arrival = Arc::new(Arrival::new(self.scheme.clone(), self.peer.clone(), head, parting));
        arrival.request_is_waited_for();
        let mut work = arrival.unless_cut(self.door.proxy.process_new_http(session, shutdown));
        loop {
            let (before, expected) = arrival.body();
            if !expected {
                return work.await;
            }
            tokio::select! {
                biased;
                reused = &mut work => return reused,
                () = fast_sleep(self.limits.idle_timeout) => {}
            }
            if arrival.body() == (before, true) {
                self.door.metrics.slow_body();
                // Dropping the request resets its stream, and no other.
                return None;
            }
        }
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    /// What one HTTP/2 connection may cost: streams, bytes held for each, header lists, resets nobody asked for.
    fn h2_options(&self) -> Option<H2Options> {
        let Limits { header_bytes, headers, streams, .. } = self.limits;
        let mut options = H2Options::default();
        // Each field counts 32 bytes more than it has (RFC 9113 section 6.5.2); what fits is measured again later.
        let list = header_bytes.saturating_add(headers.saturating_mul(32));
        options
            .max_concurrent_streams(streams)
            .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
            .initial_window_size(256 << 10)
            .initial_connection_window_size(1 << 20)
            .max_send_buffer_size(64 << 10)
            .max_concurrent_reset_streams(50)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(Some(64));
        Some(options)
    }
}
