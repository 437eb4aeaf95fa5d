//! Listening sockets and what is accepted on them. Bound before anything else is begun: an address that is taken is told
//! at once. At a reload listeners come and go, and what stays is not touched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::inherit::Inherited;
use crate::admin::{self, AdminState};
use crate::config::Config;
use crate::proxy::{Door, Entrance};
use crate::tls::settings::TlsSettings;
use crate::tls::{Listener, Terms};

/// Connections that wait to be accepted. More than the standard library's 128: a restart of clients comes at once.
const BACKLOG: u32 = 4096;

/// How long accepting rests when there are no descriptors left: it would fail again at once, and go on failing.
const REST: Duration = Duration::from_millis(200);

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// Plain HTTP.
    Plain,
    Tls,
    /// Proxies that forward by themselves, and ask.
    ForwardAuth,
    /// The control door.
    Admin,
}

impl Role {
    /// Which key of the configuration names it.
    fn key(self) -> &'static str {
        match self {
            Self::Plain => "server.listen",
            Self::Tls => "server.tls.listen",
            Self::ForwardAuth => "forward_auth.listen",
            Self::Admin => "admin.listen",
        }
    }

    /// As in the log.
    fn word(self) -> &'static str {
        match self {
            Self::Plain => "proxy",
            Self::Tls => "tls",
            Self::ForwardAuth => "forward_auth",
            Self::Admin => "admin",
        }
    }
}

/// A listener as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Wanted {
    pub(super) role: Role,
    /// Port 0 takes any.
    pub(super) address: SocketAddr,
}

/// What is done with a connection.
enum Use {
    Plain,
    ForwardAuth,
    Tls(Arc<Listener>),
    Admin,
}

/// A listener that is served.
struct Open {
    wanted: Wanted,
    /// Where it really listens.
    address: SocketAddr,
    /// Another handle on what is accepted from: for a successor, or for another use of the same address.
    socket: std::net::TcpListener,
    made_for: Use,
    closing: Closing,
}

/// Tells one listener's connections, and its own loop, that it ends.
struct Closing {
    /// For the proxy's connections.
    told: watch::Sender<bool>,
    /// For the control door's.
    control: CancellationToken,
    /// Whether nobody will accept after us: what waits then is accepted first, or the system would reset it.
    last: Arc<AtomicBool>,
}

impl Closing {
    fn new() -> Self {
        let last = Arc::default();
        Self { told: watch::channel(false).0, control: CancellationToken::new(), last }
    }

    fn tell(&self, last: bool) {
        self.last.store(last, Ordering::Release);
        self.told.send_replace(true);
        self.control.cancel();
    }
}

/// What is to be listened on: everything that can go wrong has gone well.
pub(super) struct Plan(Vec<Planned>);

enum Planned {
    /// The one with this index stays, maybe on other terms.
    Kept {
        index: usize,
        terms: Option<Terms>,
    },
    New(Bound),
}

/// A socket that only has to be accepted on.
struct Bound {
    wanted: Wanted,
    address: SocketAddr,
    socket: std::net::TcpListener,
    listener: TcpListener,
    made_for: Use,
}

impl Bound {
    fn new(wanted: Wanted, socket: std::net::TcpListener, made_for: Use) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        Ok(Self { wanted, address: socket.local_addr()?, socket, listener, made_for })
    }
}

/// Every listener there is.
pub(super) struct Listeners {
    open: Vec<Open>,
    /// What accepts for the proxy.
    accepting: TaskTracker,
    /// What serves the control door.
    controlled: TaskTracker,
    /// No plan is carried out any more.
    closed: bool,
}

impl Listeners {
    pub(super) fn none() -> Self {
        let [accepting, controlled] = std::array::from_fn(|_| TaskTracker::new());
        Self { open: Vec::new(), accepting, controlled, closed: false }
    }

    /// Binds what is new and makes the terms of what has changed. Nothing that serves is touched.
    pub(super) fn plan(&self, config: &Config, inherited: &mut Inherited) -> Result<Plan, StartError> {
        // Each listener once: several may have port 0.
        let mut left: Vec<usize> = (0..self.open.len()).collect();
        let mut take = |fits: &dyn Fn(&Open) -> bool| {
            let at = left.iter().position(|&index| self.open.get(index).is_some_and(fits));
            at.map(|at| left.remove(at))
        };
        let mut planned = Vec::new();
        for (wanted, tls) in wanted(config) {
            if let Some(index) = take(&|open| open.wanted == wanted) {
                let terms = match (self.open.get(index).map(|open| &open.made_for), tls) {
                    (Some(Use::Tls(listener)), Some(settings)) if !listener.agrees_to(settings) => {
                        Some(Terms::new(settings).map_err(StartError::process)?)
                    }
                    _ => None,
                };
                planned.push(Planned::Kept { index, terms });
                continue;
            }
            let made_for = match (wanted.role, tls) {
                (Role::Admin, _) => Use::Admin,
                (_, Some(settings)) => {
                    let terms = Terms::new(settings).map_err(StartError::process)?;
                    Use::Tls(Arc::new(Listener::new(terms)))
                }
                (Role::ForwardAuth, None) => Use::ForwardAuth,
                (Role::Plain | Role::Tls, None) => Use::Plain,
            };
            // What is listened on for another purpose is not bound a second time.
            let known = self.open.iter().find(|open| open.address == wanted.address);
            let socket = match (known.map(|open| open.socket.try_clone()), inherited.claim(&wanted)) {
                (Some(same), _) => same,
                (None, Some(socket)) => Ok(socket),
                (None, None) => bind(wanted.address),
            };
            let failed =
                |source| StartError::Listen { key: wanted.role.key(), address: wanted.address, source };
            let bound = socket.and_then(|socket| Bound::new(wanted.clone(), socket, made_for));
            planned.push(Planned::New(bound.map_err(failed)?));
        }
        Ok(Plan(planned))
    }

    /// Makes it so: what is new is accepted on, what is no longer wanted is closed.
    pub(super) fn carry_out(&mut self, plan: Plan, door: &Arc<Door>, state: &Arc<AdminState>) {
        if self.closed {
            return;
        }
        let mut before: Vec<Option<Open>> = self.open.drain(..).map(Some).collect();
        for planned in plan.0 {
            match planned {
                Planned::Kept { index, terms } => {
                    let Some(open) = before.get_mut(index).and_then(Option::take) else { continue };
                    if let (Use::Tls(listener), Some(terms)) = (&open.made_for, terms) {
                        listener.replace(terms);
                    }
                    self.open.push(open);
                }
                Planned::New(bound) => {
                    let open = self.serve(bound, door, state);
                    self.open.push(open);
                }
            }
        }
        for open in before.into_iter().flatten() {
            // Another listener on the same address goes on accepting.
            let last = !self.open.iter().any(|other| other.address == open.address);
            open.closing.tell(last);
            let listener = open.wanted.role.word();
            tracing::info!(listener, address = %open.address, "No longer listening");
        }
    }

    fn serve(&self, bound: Bound, door: &Arc<Door>, state: &Arc<AdminState>) -> Open {
        let Bound { wanted, address, socket, listener, made_for } = bound;
        let closing = Closing::new();
        let entrance = match &made_for {
            Use::Plain => Some(Entrance::Plain),
            Use::ForwardAuth => Some(Entrance::ForwardAuth),
            Use::Tls(terms) => Some(Entrance::Tls(Arc::clone(terms))),
            Use::Admin => None,
        };
        match entrance {
            Some(entrance) => {
                let (door, last) = (Arc::clone(door), Arc::clone(&closing.last));
                self.accepting.spawn(accept(
                    door,
                    listener,
                    Arc::new(entrance),
                    closing.told.subscribe(),
                    last,
                ));
            }
            None => {
                let control = closing.control.clone();
                self.controlled.spawn(admin::serve(listener, Arc::clone(state), control));
            }
        }
        tracing::info!(listener = wanted.role.word(), %address, "Listening");
        Open { wanted, address, socket, made_for, closing }
    }

    /// Where the proxy listens: plain listeners, those with TLS, those of forward-auth.
    pub(super) fn proxy(&self) -> Vec<SocketAddr> {
        let proxy = self.open.iter().filter(|open| open.wanted.role != Role::Admin);
        proxy.map(|open| open.address).collect()
    }

    /// Where the control door listens.
    pub(super) fn admin(&self) -> Option<SocketAddr> {
        self.open.iter().find(|open| open.wanted.role == Role::Admin).map(|open| open.address)
    }

    /// A handle on each socket, for a successor.
    pub(super) fn sockets(&self) -> std::io::Result<Vec<(Wanted, std::net::TcpListener)>> {
        let handle = |open: &Open| Ok((open.wanted.clone(), open.socket.try_clone()?));
        self.open.iter().map(handle).collect()
    }

    /// Accepts nothing more for the proxy. `succeeded`: somebody else accepts on the same sockets.
    pub(super) fn close_proxy(&mut self, succeeded: bool) {
        self.closed = true;
        self.close(succeeded, |role| role != Role::Admin);
        self.accepting.close();
    }

    /// The control door, which is the last to close: it says that we are not ready, and answers what it is asked.
    pub(super) fn close_admin(&mut self) {
        self.closed = true;
        self.close(true, |role| role == Role::Admin);
        self.controlled.close();
    }

    fn close(&mut self, succeeded: bool, which: impl Fn(Role) -> bool) {
        self.open.retain(|open| {
            let ends = which(open.wanted.role);
            if ends {
                open.closing.tell(!succeeded);
            }
            !ends
        });
    }

    /// Ends after [`Listeners::close_proxy`], when the last connection has been accepted.
    pub(super) fn accepting(&self) -> TaskTracker {
        self.accepting.clone()
    }

    /// Ends after [`Listeners::close_admin`], when the last control call has been answered.
    pub(super) fn controlled(&self) -> TaskTracker {
        self.controlled.clone()
    }
}

/// What a configuration asks for, in its order.
fn wanted(config: &Config) -> impl Iterator<Item = (Wanted, Option<&TlsSettings>)> {
    let of = |role| move |address| Wanted { role, address };
    let plain = config.server.listen.iter().copied().map(of(Role::Plain)).map(|wanted| (wanted, None));
    let tls = config.server.tls.iter().map(move |tls| (of(Role::Tls)(tls.listen), Some(tls)));
    let asked = config.forward_auth.iter().flat_map(|asked| asked.listen.iter().copied());
    let asked = asked.map(of(Role::ForwardAuth)).map(|wanted| (wanted, None));
    plain.chain(tls).chain(asked).chain(std::iter::once((of(Role::Admin)(config.admin.listen), None)))
}

fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Accepts until told to stop; the connections live on.
async fn accept(
    door: Arc<Door>,
    listener: TcpListener,
    entrance: Arc<Entrance>,
    closed: watch::Receiver<bool>,
    last: Arc<AtomicBool>,
) {
    let mut told = closed.clone();
    let serve = |tcp, peer| {
        let Some(place) = door.place(&tcp, peer, &entrance) else { return };
        let (door, entrance, closed) = (Arc::clone(&door), Arc::clone(&entrance), closed.clone());
        tokio::spawn(async move { door.serve(place, tcp, peer, &entrance, closed).await });
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = told.wait_for(|closed| *closed) => break,
        };
        match accepted {
            Ok((tcp, peer)) => serve(tcp, peer),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "Connections cannot be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
    // They have shaken hands with the system already; closing the socket would reset them.
    while last.load(Ordering::Acquire) {
        let Some(Ok((tcp, peer))) = listener.accept().now_or_never() else { return };
        serve(tcp, peer);
    }
}

/// Whether the next one may do better at once.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
