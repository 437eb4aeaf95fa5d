//! The services in front of which Portcullis stands: which servers there are, which of them are well, and which one a
//! request goes to.
//!
//! [`members`] knows the servers and is changed in the background, by [`resolve`] and [`health`], or by a request that
//! failed once too often; [`balance`] is what a request sees of it: a table that is replaced whole, never changed.

mod balance;
mod endpoint;
mod health;
mod members;
mod metrics;
mod resolve;
pub mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use balance::Table;
use endpoint::{Endpoint, Means};
use members::Members;
use metrics::UpstreamSeries;
use settings::{Balance, Check, HashBy, Health};

use crate::tasks;

pub use balance::hash;
pub use endpoint::KEEPALIVE;
pub use metrics::UpstreamMetrics;
pub use settings::UpstreamSettings;

/// An upstream as run.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    how: Means,
    members: Mutex<Members>,
    /// What `members` comes to.
    table: ArcSwap<Table>,
    turn: AtomicUsize,
    series: UpstreamSeries,
    /// A server was ejected: its return has to be seen to.
    ejected: Notify,
    /// Ends the tasks.
    retired: CancellationToken,
}

impl Upstream {
    /// An upstream of the servers whose addresses need no look-up.
    pub fn new(settings: UpstreamSettings, metrics: &UpstreamMetrics) -> Self {
        let literal = |server: &settings::ServerAddress| {
            server.literal().map(|ip| SocketAddr::new(ip, server.port)).into_iter().collect()
        };
        let addresses: Vec<Vec<SocketAddr>> = settings.servers.iter().map(literal).collect();
        let upstream = Self {
            how: Means::new(&settings),
            series: metrics.series(&settings),
            settings,
            members: Mutex::default(),
            table: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            ejected: Notify::new(),
            retired: CancellationToken::new(),
        };
        upstream.resolved(&addresses);
        upstream
    }

    /// What it was made from.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// The server for a request, other than those that were `tried`; `None` when there is none. `key` is asked for where
    /// requests are spread by one.
    pub fn choose(&self, tried: &[SocketAddr], key: impl FnOnce(&HashBy) -> u64) -> Option<Chosen> {
        let table = self.table.load();
        let (found, counted) = match &self.settings.balance {
            Balance::RoundRobin => (table.in_turn(&self.turn, tried), false),
            Balance::Random => (table.at_random(tried), false),
            Balance::LeastRequest => (table.less_busy(tried), true),
            Balance::Hash(by) => (table.by_hash(key(by), tried), false),
        };
        let endpoint = Arc::clone(found?);
        if counted {
            endpoint.begin();
        }
        Some(Chosen { endpoint, counted })
    }

    /// Whether there is a server besides those that were `tried`.
    pub fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.table.load().candidates().iter().any(|endpoint| !tried.contains(&endpoint.address))
    }

    /// A server answered. Most statuses are the service's business; those of `eject.statuses` are failures.
    pub fn answered(&self, chosen: &Chosen, status: u16) {
        if self.settings.eject.statuses.contains(&status) {
            self.failed(chosen);
        } else {
            chosen.endpoint.answered();
        }
    }

    /// A server did not answer.
    pub fn failed(&self, chosen: &Chosen) {
        let Endpoint { address, server, .. } = &*chosen.endpoint;
        if let Some(series) = self.series.of(*server) {
            series.failures.inc();
        }
        let eject = &self.settings.eject;
        let failures = chosen.endpoint.failed();
        if eject.failures == 0 || failures < eject.failures {
            return;
        }
        let mut members = self.members.lock();
        let Some(length) = members.eject(*address, eject, Instant::now()) else { return };
        self.publish(&members);
        drop(members);
        if let Some(series) = self.series.of(*server) {
            series.ejections.inc();
        }
        tracing::warn!(upstream = %self.settings.name, server = %address, failures, ?length, "Server ejected");
        self.ejected.notify_one();
    }

    /// Another server, or another connection, is tried.
    pub fn retried(&self) {
        self.series.retries.inc();
    }

    /// Ends the tasks: a newer configuration has an upstream in its place. Requests that began before are served.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    fn publish(&self, members: &Members) {
        self.table.store(Arc::new(members.table()));
        if self.retired.is_cancelled() {
            // The series may be a successor's by now.
            return;
        }
        for (place, series) in self.series.servers.iter().enumerate() {
            series.healthy.set(members.share(place));
        }
    }

    /// The addresses of the servers, in their order, as they were last looked up.
    fn resolved(&self, addresses: &[Vec<SocketAddr>]) {
        let mut members = self.members.lock();
        if members.resolved(&self.settings, &self.how, addresses) {
            self.publish(&members);
        }
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.members.lock().iter().map(|member| Arc::clone(&member.endpoint)).collect()
    }

    /// The addresses that one server has at present.
    fn addresses(&self, server: usize) -> Vec<SocketAddr> {
        let of_it = |endpoint: &Arc<Endpoint>| (endpoint.server == server).then_some(endpoint.address);
        self.endpoints().iter().filter_map(of_it).collect()
    }

    fn probed(&self, endpoint: &Endpoint, outcome: Result<(), health::Unwell>, check: &Check) {
        let mut members = self.members.lock();
        let Some(well) = members.probed(endpoint.address, outcome.is_ok(), check) else { return };
        self.publish(&members);
        drop(members);
        let (upstream, server) = (&self.settings.name, endpoint.address);
        match outcome {
            Err(error) if !well => {
                tracing::warn!(%upstream, %server, error = %crate::cause::Chain(&error), "Server is not well");
            }
            _ => tracing::info!(%upstream, %server, "Server is well again"),
        }
    }

    /// Lets ejected servers back when their time is over.
    async fn readmit_forever(self: Arc<Self>) {
        loop {
            match self.readmit() {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => self.ejected.notified().await,
            }
        }
    }

    fn readmit(&self) -> Option<Instant> {
        let mut members = self.members.lock();
        let (back, next) = members.readmit(Instant::now());
        if !back.is_empty() {
            self.publish(&members);
        }
        drop(members);
        for server in back {
            tracing::info!(upstream = %self.settings.name, %server, "Ejected server is used again");
        }
        next
    }
}

/// The server that a request was sent to. Where running requests are counted, it is one until this is dropped.
#[derive(Debug)]
pub struct Chosen {
    endpoint: Arc<Endpoint>,
    counted: bool,
}

impl Chosen {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// For Pingora, which wants one of its own for every request.
    pub fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.endpoint.peer.clone())
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        if self.counted {
            self.endpoint.end();
        }
    }
}

/// Makes an upstream, looks its names up, and goes on doing so, and probing, until it is retired.
pub async fn start(settings: UpstreamSettings, metrics: &UpstreamMetrics) -> Arc<Upstream> {
    let upstream = Arc::new(Upstream::new(settings, metrics));
    let Upstream { settings, retired, .. } = &*upstream;
    if settings.servers.iter().any(|server| server.literal().is_none()) {
        resolve::once(&upstream, &mut Vec::new()).await;
        let named = Arc::clone(&upstream);
        tasks::keep("names", retired, move || resolve::forever(Arc::clone(&named)));
    }
    if let Health::Checked(check) = &settings.health {
        let (probed, check) = (Arc::clone(&upstream), check.clone());
        tasks::keep("health", retired, move || health::forever(Arc::clone(&probed), check.clone()));
    }
    if settings.eject.failures > 0 {
        let ejecting = Arc::clone(&upstream);
        tasks::keep("readmission", retired, move || Arc::clone(&ejecting).readmit_forever());
    }
    upstream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(settings: UpstreamSettings) -> Upstream {
        Upstream::new(settings, &UpstreamMetrics::register(&prometheus::Registry::new()).unwrap())
    }

    fn next(upstream: &Upstream) -> Option<String> {
        upstream.choose(&[], |_| 0).map(|chosen| chosen.address().to_string())
    }

    #[test]
    fn servers_take_turns() {
        let upstream = upstream(UpstreamSettings::plain(&["10.0.0.1", "::1"]));
        let turns: Vec<_> = (0..4).filter_map(|_| next(&upstream)).collect();
        assert_eq!(turns, ["10.0.0.1:80", "[::1]:80", "10.0.0.1:80", "[::1]:80"]);
    }

    #[tokio::test]
    async fn a_name_has_no_address_until_it_is_resolved() {
        let upstream = Arc::new(upstream(UpstreamSettings::plain(&["localhost"])));
        assert!(next(&upstream).is_none());
        resolve::once(&upstream, &mut Vec::new()).await;
        assert!(next(&upstream).is_some());
    }

    #[test]
    fn a_running_request_counts_until_it_is_over() {
        let settings =
            UpstreamSettings { balance: Balance::LeastRequest, ..UpstreamSettings::plain(&["10.0.0.1"]) };
        let upstream = upstream(settings);
        let running = upstream.choose(&[], |_| 0).unwrap();
        assert_eq!(running.endpoint.load(0), 1);
        let endpoint = Arc::clone(&running.endpoint);
        drop(running);
        assert_eq!(endpoint.load(0), 0);
    }

    #[test]
    fn failures_in_a_row_eject_and_an_answer_between_them_forgives() {
        let upstream = upstream(UpstreamSettings::plain(&["10.0.0.1", "10.0.0.2"]));
        let first = upstream.choose(&[], |_| 0).unwrap();
        for _ in 0..4 {
            upstream.failed(&first);
        }
        upstream.answered(&first, 500);
        for _ in 0..4 {
            upstream.failed(&first);
        }
        assert!(upstream.has_other(&["10.0.0.2:80".parse().unwrap()]));
        upstream.failed(&first);
        assert!(!upstream.has_other(&["10.0.0.2:80".parse().unwrap()]), "the fifth in a row");
    }
}
