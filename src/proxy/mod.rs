//! The proxy door: Pingora's phases around one judgment.
//!
//! [`connections`] are counted, [`entrance`] opens them ([`tcp`], maybe TLS over it, and [`wire`] over both), [`door`] and
//! [`one_by_one`] serve them, [`waiting`] keeps time on them, [`head`] is what is read of a head, [`limits`] counts requests,
//! [`arrival`] is what a request is told of its own, [`phases`] is the order of events, [`hygiene`] refuses what two servers
//! could read differently,
//! [`judge`] asks for the verdict, [`body`] finds a token in a body, [`exchange`] is what one request carries through the
//! phases, [`asked`] answers proxies that forward by themselves, [`forward`] is what the upstream receives, [`dress`] what a
//! route's own rules make of heads, [`replies`] what goes to no upstream at all, [`attempts`] is which server that is, and
//! what happens when it fails, [`observe`] learns from what it answers.
//! [`hop`] is how the client's connection is spoken on, and [`tunnel`] the service's where a WebSocket is asked for.
//! [`streams`] knows what is open and cuts what would not be granted any more; [`parting`] is what a client hears of that.

mod arrival;
mod asked;
mod attempts;
mod body;
mod connections;
mod door;
mod dress;
mod entrance;
mod exchange;
mod forward;
mod frames;
mod head;
mod hop;
mod hygiene;
mod judge;
mod limits;
mod observe;
mod one_by_one;
mod parting;
mod phases;
mod replies;
pub mod settings;
mod streams;
mod tcp;
mod tunnel;
mod waiting;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gate::Gate;
use crate::rate::{Limiter, Limits};
use crate::report::Report;
use crate::route::Route;
use settings::{ForwardAuth, ServerSettings};

pub use connections::Connections;
pub use door::Door;
pub use entrance::Entrance;
pub use forward::client;
pub use streams::{LiveStream, Streams, Warden};

/// Everything a request is judged and served by: one configuration, immutable. A request keeps the one it began with.
pub struct Snapshot {
    /// The judgment.
    pub gate: Gate,
    /// `[server]`: limits and trust. What cannot change while running (threads) is taken from the first.
    pub server: ServerSettings,
    /// `[forward_auth]`: who may ask, and how.
    pub forward_auth: Option<ForwardAuth>,
    /// Where facts are told.
    pub report: Report,
    /// Every route, in the order of the configuration.
    pub routes: Vec<Arc<Route>>,
    /// Counts requests where a limit is set.
    pub limiter: Arc<Limiter>,
    /// `server.rate_limit`: of all requests, by address.
    pub limits: Limits,
    /// Changes that observers make; they are waited for at the end.
    pub observing: TaskTracker,
    /// What is open: the same for every configuration.
    pub streams: Arc<Streams>,
    /// Which configuration it is: each one's is greater than the one's before.
    pub number: u64,
    /// What keeps the ledger up to date.
    pub ledger_tasks: Arc<LedgerTasks>,
}

/// The tasks of a ledger. They end with the last request that was judged by it.
pub struct LedgerTasks(CancellationToken);

impl LedgerTasks {
    /// `tasks`: what cancels them.
    pub fn new(tasks: CancellationToken) -> Self {
        Self(tasks)
    }

    /// Ends them although somebody may still ask.
    pub fn end(&self) {
        self.0.cancel();
    }
}

impl Drop for LedgerTasks {
    fn drop(&mut self) {
        self.end();
    }
}

/// The proxy: Pingora calls its phases.
pub struct Proxy {
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Set when the gateway ends: who keeps a connection is told with the next answer.
    closing: Arc<AtomicBool>,
}
