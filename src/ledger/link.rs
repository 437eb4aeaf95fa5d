//! The link: one connection to Redis over which it pushes the names of changed keys, and over which memory is filled.
//!
//! One connection for both, and torn down as a whole: answers of one server and pushes of another would never meet. It
//! speaks RESP3 and is tracked by prefix (`CLIENT TRACKING … BCAST`), so that keys nobody has read yet are told of too.
//! To a cluster it is one connection to each primary, torn down together when any of them falters or the primaries are
//! not what they were. Nothing here is needed for an answer: without the link every request asks Redis over the ledger's
//! other connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::BackoffBuilder as _;
use parking_lot::Mutex;
use redis::{Pipeline, ProtocolVersion, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::coherence::{Coherence, Tick};
use super::metrics::LinkMetrics;
use super::redis::{self as store, Connection, RedisStore, Sight, deposed};
use super::rule::Rule;
use super::settings::LedgerSettings;
use super::store::StoreError;
use canary::Canary;
use ear::Ear;
use handshake::Probe;

mod canary;
mod ear;
mod handshake;
mod prefixes;

/// A server that can push nothing is asked again after so long; one that is away much sooner.
const REFUSED: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(1);

/// The link, for as long as the ledger lives; its connections come and go.
pub struct Link {
    redis: Arc<RedisStore>,
    coherence: Arc<Coherence>,
    /// The round of the mark under which memory was filled.
    round: AtomicU64,
    prefixes: Box<[Box<str>]>,
    probes: Box<[Probe]>,
    heartbeat: Duration,
    lease: Duration,
    pub(super) ear: Arc<Ear>,
    names: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    current: ArcSwapOption<Tracked>,
    /// Connections so far.
    connections: AtomicU64,
    /// Whether a question has gone unanswered since the last fence: nobody else should have to wait for that.
    hushed: AtomicBool,
    /// Rung when the mode may have changed.
    turned: Arc<Notify>,
    metrics: LinkMetrics,
}

/// Why there is no link, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    /// The server will not do what coherence needs, until somebody changes it.
    #[error("{0}")]
    Refused(String),
    #[error("no sign of life")]
    Silent,
    #[error(transparent)]
    Away(#[from] StoreError),
}

impl Trouble {
    fn refused(what: impl std::fmt::Display) -> Self {
        Self::Refused(what.to_string())
    }
}

/// A connection that is tracked, to servers that have said who they are.
struct Tracked {
    connection: Connection,
    sight: Sight,
}

/// A read over the link, begun under one generation; see [`Link::begin`].
pub struct Reading {
    connection: Arc<Tracked>,
    generation: u64,
}

impl Link {
    /// Makes the link, not connected yet.
    pub fn new<'a>(
        redis: Arc<RedisStore>,
        coherence: Arc<Coherence>,
        rules: impl Iterator<Item = &'a Rule> + Clone,
        settings: &LedgerSettings,
        turned: Arc<Notify>,
        metrics: LinkMetrics,
    ) -> Arc<Self> {
        let (ear, names) = Ear::new(Arc::clone(&coherence), metrics.clone());
        Arc::new(Self {
            redis,
            coherence,
            round: AtomicU64::new(0),
            prefixes: prefixes::of(rules.clone()),
            probes: handshake::probes(rules),
            heartbeat: settings.heartbeat,
            lease: settings.max_staleness,
            ear: Arc::new(ear),
            names: Mutex::new(Some(names)),
            current: ArcSwapOption::empty(),
            connections: AtomicU64::new(0),
            hushed: AtomicBool::new(false),
            turned,
            metrics,
        })
    }

    /// The names of changed keys under the rules' prefixes, from now on. They are hints: when nobody takes them fast
    /// enough some are dropped, and a flush names none. `None` when they have been taken already.
    pub fn pushes(&self) -> Option<mpsc::Receiver<Vec<u8>>> {
        let names = self.names.lock().take();
        if names.is_some() {
            self.ear.follow();
        }
        names
    }

    /// A number that changes when names may have been missed: with every connection, and when some were dropped. `None`
    /// while there is no connection.
    pub fn session(&self) -> Option<u64> {
        let connections = self.connections.load(Ordering::Acquire);
        let number = connections.wrapping_add(self.metrics.pushes_dropped.get() << 32);
        self.current.load().is_some().then_some(number)
    }

    /// Whether memory may be believed at `now`.
    pub fn is_live(&self, now: Tick) -> bool {
        self.coherence.holds(now)
    }

    /// Begins a read whose answers may be kept; `None` where there is nobody to read from just now. Versions have to be
    /// captured after this and before [`Link::read`].
    pub fn begin(&self) -> Option<Reading> {
        if self.hushed.load(Ordering::Relaxed) {
            return None;
        }
        // The connection first: see `Link::stands`.
        let connection = self.current.load_full()?;
        Some(Reading { connection, generation: self.coherence.generation() })
    }

    /// Puts questions over the link, and the authority's with them. `None` where no answers came, or where they come
    /// from a Redis that is not to be believed.
    pub async fn read(&self, reading: &Reading, mut questions: Pipeline) -> Option<Vec<Value>> {
        let authority = &self.redis.authority;
        questions.add_command(authority.command().clone());
        let before = authority.capture();
        let connection = &reading.connection.connection;
        let Ok(replies) = timeout(self.redis.timeout(), connection.round_trip_straight(&questions)).await
        else {
            self.hushed.store(true, Ordering::Relaxed);
            return None;
        };
        let mut replies = replies.ok()?;
        // Whoever serves the key by now may be somebody of whom we hear nothing.
        if replies.iter().any(store::leads_elsewhere) {
            self.ear.everything_changed();
            connection.look_anew();
            return None;
        }
        let watermark = replies.pop()?;
        authority.hear(before, &watermark, &connection.server().run_id).then_some(replies)
    }

    /// Whether a reading's answers may be kept: the connection is still the one in use, and the generation the same.
    /// A connection takes its place *before* it counts the generation up, so that nobody can have captured the new
    /// generation and still read over the old connection.
    pub fn stands(&self, reading: &Reading) -> bool {
        let current = self.current.load();
        current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &reading.connection))
            && self.coherence.generation() == reading.generation
    }

    /// Connects if Redis is there just now, so that a gateway begins with its memory believed; else the background
    /// task does, when it is.
    pub async fn try_once(&self) {
        if let Err(trouble) = self.connect().await {
            self.drop_connection();
            tracing::debug!(%trouble, "No link yet");
        }
    }

    /// The background task: connects, fences, and connects again, until `shutdown`.
    pub async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        let () = shutdown.run_until_cancelled(self.keep_forever()).await.unwrap_or_default();
        self.drop_connection();
    }

    async fn keep_forever(&self) {
        let mut told = None;
        let mut delays = delays();
        loop {
            let began = Instant::now();
            let connected = if self.current.load().is_some() { Ok(()) } else { self.connect().await };
            let trouble = match connected {
                Ok(()) => {
                    tracing::info!("Memory follows Redis");
                    told = None;
                    self.follow().await
                }
                Err(trouble) => trouble,
            };
            self.drop_connection();
            if told.as_ref() != Some(&trouble) {
                tracing::warn!(cause = %trouble, "Memory does not follow Redis: every request asks it");
            }
            if began.elapsed() > AWAY {
                delays = self::delays();
            }
            let delay = match trouble {
                Trouble::Refused(_) => REFUSED.mul_f64(rand::random_range(0.5..1.5)),
                Trouble::Silent | Trouble::Away(_) => delays.next().unwrap_or(AWAY),
            };
            told = Some(trouble);
            sleep(delay).await;
        }
    }

    async fn connect(&self) -> Result<(), Trouble> {
        let ear = Arc::clone(&self.ear);
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.patience()))
            // Fences are waited for as long as it takes, and questions as long as `[redis] timeout` says.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024)
            // The closure itself, not a channel: it must have run before a later answer is handed out.
            .set_push_sender(move |push| {
                ear.hear(push);
                Ok::<(), std::convert::Infallible>(())
            });
        // Only in RESP3 does a connection carry pushes among answers.
        let connecting =
            timeout(self.patience() * 2, self.redis.servers().connect(ProtocolVersion::RESP3, &config));
        let connection = connecting.await.map_err(|_| Trouble::Silent)??;
        let shaken = timeout(self.patience(), self.shake_hands(&connection));
        let sight = shaken.await.map_err(|_| Trouble::Silent)??;
        let connection = Arc::new(Tracked { connection, sight });
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.current.store(Some(Arc::clone(&connection)));
        self.ear.everything_changed();
        self.fence(&connection).await
    }

    /// Fences over the connection in use until it is of no use any more.
    async fn follow(&self) -> Trouble {
        let Some(connection) = self.current.load_full() else { return Trouble::Silent };
        let mut beats = interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut canary = Canary::later();
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = self.ear.alarm.notified() => {}
                () = connection.connection.deposed() => return deposed().into(),
            }
            let beat = async {
                if canary.is_due() {
                    self.probe(&connection.connection).await?;
                    canary = Canary::fly(&self.redis, &self.ear, &connection.connection);
                }
                // It has to be written before the fence is sent, for the fence to prove anything.
                let written = canary.is_written();
                self.fence(&connection).await?;
                if written { canary.judge(&self.ear, &self.metrics).await } else { Ok(()) }
            };
            if let Err(trouble) = beat.await {
                return trouble;
            }
        }
    }

    /// Asks for a sign of life. Its answer means that every change up to the asking has been heard of.
    async fn fence(&self, link: &Tracked) -> Result<(), Trouble> {
        let authority = &self.redis.authority;
        let (sent, generation) = (self.coherence.now(), self.coherence.generation());
        let before = authority.capture();
        let asking = link.connection.fence(authority.command(), &link.sight);
        tokio::pin!(asking);
        let fenced = match timeout(self.lease, &mut asking).await {
            Ok(fenced) => fenced,
            Err(_) => {
                // The lease is over by now; a stalled server gets as long again to come back to us.
                self.turned.notify_one();
                timeout(self.lease, asking).await.map_err(|_| Trouble::Silent)?
            }
        };
        let fenced = fenced.map_err(|failure| failure.error)?;
        fenced.roles.iter().try_for_each(handshake::is_master)?;
        let was_live = self.is_live(self.coherence.now());
        let believed = authority.hear(before, &fenced.mark, &link.connection.server().run_id);
        // Redis was filled anew, and somebody else may have heard of that before this fence was sent.
        let round = authority.round();
        let anew = self.round.swap(round, Ordering::AcqRel) != round;
        if believed && !anew {
            self.coherence.fenced(sent, generation);
            self.hushed.store(false, Ordering::Relaxed);
            self.metrics.push_lag.observe(self.coherence.now().since(sent).as_secs_f64());
        } else if was_live || anew {
            // What was read from it so far is not to be believed either, not even when it has been put right.
            self.ear.everything_changed();
        }
        if was_live != self.is_live(self.coherence.now()) {
            self.turned.notify_one();
        }
        Ok(())
    }

    fn drop_connection(&self) {
        self.current.store(None);
        self.ear.everything_changed();
        self.turned.notify_one();
    }

    /// A handshake is several round trips, with TLS some more.
    fn patience(&self) -> Duration {
        self.redis.timeout().saturating_mul(10).max(Duration::from_secs(1))
    }
}

fn delays() -> impl Iterator<Item = Duration> {
    let delays =
        backon::ExponentialBuilder::default().with_jitter().with_min_delay(Duration::from_millis(50));
    delays.with_max_delay(AWAY).without_max_times().build()
}
