//! The proxy door: Pingora's phases around one judgment.
//!
//! [`entrance`] opens connections, [`door`] counts them, [`waiting`] keeps time on them, [`arrival`] is what a request is
//! told of its own, [`phases`] is the order of events, [`hygiene`] refuses what two servers could read differently,
//! [`judge`] asks for the verdict, [`body`] finds a token in a body, [`exchange`] is what one request carries through the
//! phases, [`asked`] answers proxies that forward by themselves, [`forward`] is what the upstream receives, [`attempts`] is
//! which server that is, and what happens when it fails, [`observe`] learns from what it answers. [`streams`] knows what is
//! open and cuts what would not be granted any more; [`parting`] is what a client hears of that.

mod arrival;
mod asked;
mod attempts;
mod body;
mod door;
mod entrance;
mod exchange;
mod forward;
mod frames;
mod hygiene;
mod judge;
mod observe;
mod parting;
mod phases;
pub mod settings;
mod streams;
mod waiting;
mod wire;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use crate::gate::Gate;
use crate::report::Report;
use crate::route::Route;
use settings::{ForwardAuth, ServerSettings};

pub use door::{Connections, Door};
pub use entrance::Entrance;
pub use streams::{LiveStream, Streams, Warden};

/// Everything a request is judged and served by: one configuration, immutable. A request keeps the one it began with.
pub struct Snapshot {
    /// The judgment.
    pub gate: Gate,
    /// `[server]`: limits and trust. What cannot change while running (listeners, threads) is taken from the first.
    pub server: ServerSettings,
    /// `[forward_auth]`: who may ask, and how.
    pub forward_auth: Option<ForwardAuth>,
    /// Where facts are told.
    pub report: Report,
    /// Every route, in the order of the configuration.
    pub routes: Vec<Arc<Route>>,
    /// Changes that observers make; they are waited for at the end.
    pub observing: TaskTracker,
    /// What is open: the same for every configuration.
    pub streams: Arc<Streams>,
    /// Which configuration it is: each one's is greater than the one's before.
    pub number: u64,
}

/// The proxy: Pingora calls its phases.
pub struct Proxy {
    snapshot: Arc<ArcSwap<Snapshot>>,
}
