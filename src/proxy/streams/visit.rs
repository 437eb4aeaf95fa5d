//! One open exchange: where it went, what kind it is, and how it may have to end.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::proxy::arrival::{Arrival, Turn};
use crate::time::Timestamp;
use crate::token::Fingerprint;
use crate::verdict::{Credential, DenyReason};

/// A request that has been open for so long is a stream, whatever it looks like: a long poll, an upload, a download.
pub(super) const LONG: Duration = Duration::from_secs(1);

/// A request may be the very one that brought the change about: a logout, which the service puts into Redis and only then
/// answers. So it has time to be answered; what has to be closed is closed within a second.
const GRACE: Duration = Duration::from_millis(700);
/// The same for one of which an observer knows that it was.
const SPARED: Duration = Duration::from_secs(30);
/// When a new configuration ends very many at once, they do not all come back in the same instant.
const SPREAD: Duration = Duration::from_secs(1);

/// What an exchange is, as far as its heads tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    /// A request and its answer.
    #[default]
    Plain,
    WebSocket,
    /// Server-sent events.
    Events,
    Grpc,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Plain, Self::WebSocket, Self::Events, Self::Grpc];

    /// Whoever wants events says so (every `EventSource` does).
    pub fn of(headers: &HeaderMap, websocket: bool) -> Self {
        if websocket {
            return Self::WebSocket;
        }
        let kind = |(name, value): (&HeaderName, &HeaderValue)| match *name {
            header::ACCEPT => {
                let mut ranges = value.as_bytes().split(|byte| *byte == b',');
                ranges.any(|range| starts(range.trim_ascii(), EVENTS)).then_some(Self::Events)
            }
            header::CONTENT_TYPE => starts(value.as_bytes(), b"application/grpc").then_some(Self::Grpc),
            _ => None,
        };
        headers.iter().find_map(kind).unwrap_or_default()
    }

    /// Whether an answer of this content type is a stream of events.
    pub fn is_events(content_type: &[u8]) -> bool {
        starts(content_type, EVENTS)
    }

    /// As in metrics and the control API. A plain one is shown when it has become long.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "request",
            Self::WebSocket => "websocket",
            Self::Events => "events",
            Self::Grpc => "grpc",
        }
    }
}

const EVENTS: &[u8] = b"text/event-stream";

fn starts(text: &[u8], with: &[u8]) -> bool {
    text.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with))
}

/// Why an exchange was cut.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It would not be granted any more.
    Denied(DenyReason),
    /// The gateway ends.
    GoingAway,
}

impl Fate {
    /// The word of metrics and logs.
    pub fn word(&self) -> &str {
        match self {
            Self::Denied(reason) => reason.word(),
            Self::GoingAway => "going_away",
        }
    }

    /// What a WebSocket's client is told (RFC 6455 section 7.4.1): policy violation, going away.
    pub(super) fn close_code(&self) -> u16 {
        match self {
            Self::Denied(_) => 1008,
            Self::GoingAway => 1001,
        }
    }

    /// What stands for the status of an exchange that was cut before it had one.
    pub(in crate::proxy) fn status(&self) -> u16 {
        match self {
            Self::Denied(reason) => reason.status(),
            Self::GoingAway => 503,
        }
    }
}

/// One open exchange.
pub(in crate::proxy) struct Visit {
    fate: OnceLock<Fate>,
    /// On which connection it came, and its turn there.
    arrival: Arc<Arrival>,
    turn: Turn,
    kind: AtomicU8,
    spared: AtomicBool,
    pub began: Instant,
    pub method: Method,
    /// Host and path, as they were judged. Short ones cost no allocation.
    place: SmallVec<[u8; 48]>,
    host: usize,
    pub client_certificate: bool,
}

impl Visit {
    pub fn new(
        (method, host, path): (&Method, &str, &str),
        kind: Kind,
        client_certificate: bool,
        arrival: &Arc<Arrival>,
        began: Instant,
    ) -> Self {
        let mut place = SmallVec::with_capacity(host.len() + path.len());
        place.extend_from_slice(host.as_bytes());
        place.extend_from_slice(path.as_bytes());
        Self {
            fate: OnceLock::new(),
            arrival: Arc::clone(arrival),
            turn: arrival.turn(),
            kind: AtomicU8::new(kind as u8),
            spared: AtomicBool::new(false),
            began,
            method: method.clone(),
            place,
            host: host.len(),
            client_certificate,
        }
    }

    pub fn host(&self) -> &str {
        text(self.place.get(..self.host))
    }

    pub fn path(&self) -> &str {
        text(self.place.get(self.host..))
    }

    pub fn kind(&self) -> Kind {
        let kind = self.kind.load(Ordering::Relaxed);
        Kind::ALL.into_iter().find(|known| *known as u8 == kind).unwrap_or_default()
    }

    /// The answer has turned out to be a stream of events.
    pub fn is_of_events(&self) {
        self.kind.store(Kind::Events as u8, Ordering::Relaxed);
    }

    /// Its own answer revokes what it was granted for: it is to be heard all the same.
    pub fn spare(&self) {
        self.spared.store(true, Ordering::Relaxed);
    }

    /// Whether its connection has rights that a new one would not get.
    pub(super) fn is_outdated(&self) -> bool {
        self.arrival.scheme.is_outdated()
    }

    /// How it ends, once that is decided.
    pub fn fate(&self) -> Option<&Fate> {
        self.fate.get()
    }

    /// Ends it. The first fate counts.
    pub(super) fn cut(&self, fate: Fate) -> bool {
        let (code, word) = (fate.close_code(), fate.word().to_owned());
        if self.fate.set(fate).is_err() {
            return false;
        }
        if self.kind() == Kind::WebSocket {
            // Nothing comes after it on its connection that could have another end.
            self.arrival.parting.say(code, &word);
        }
        self.arrival.cut(self.turn);
        true
    }

    /// How long it may go on that would not be granted any more; `None`: not at all.
    pub(super) fn patience(&self, spread: bool) -> Option<Duration> {
        let patience = match self.kind() {
            _ if self.spared.load(Ordering::Relaxed) => Some(SPARED),
            Kind::WebSocket | Kind::Events => None,
            // A unary call looks like a stream.
            Kind::Plain | Kind::Grpc => Some(GRACE),
        };
        match (patience, spread) {
            (None, true) => Some(SPREAD.mul_f64(rand::random())),
            (patience, _) => patience,
        }
    }

    /// What it is shown as, unless it is a request like any other.
    pub(super) fn shown_as(&self, now: Instant) -> Option<Kind> {
        let kind = self.kind();
        (kind != Kind::Plain || now.saturating_duration_since(self.began) >= LONG).then_some(kind)
    }
}

/// What was put down as text is text.
fn text(bytes: Option<&[u8]>) -> &str {
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// A stream as the control API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveStream {
    pub kind: &'static str,
    pub since: Timestamp,
    /// `sid`, where the token has one.
    pub session: Option<Box<str>>,
    pub fingerprint: Fingerprint,
}

impl LiveStream {
    pub(super) fn of(kind: Kind, visit: &Visit, credential: &Credential, now: Instant) -> Self {
        let open = now.saturating_duration_since(visit.began);
        let open = i64::try_from(open.as_millis()).unwrap_or(i64::MAX);
        Self {
            kind: kind.word(),
            since: Timestamp::from_millis(Timestamp::now().millis().saturating_sub(open)),
            session: credential.claims.session().map(Into::into),
            fingerprint: credential.fingerprint,
        }
    }
}
