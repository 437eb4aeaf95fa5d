//! Redis: one multiplexed connection per server and process, kept by a background task; all questions of a request in one round
//! trip; writes as compare-and-set by database version.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::BackoffBuilder as _;
use redis::{Pipeline, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::breaker::Breaker;
use super::coherence::Coherence;
use super::settings::RedisSettings;
use super::store::StoreError;
use super::watermark::Authority;
use connection::Failure;
use script::{Form, Lua};
use write::{Scripted, WRITE_BACK, millis};

pub use connection::{Connection, Fenced, One};
pub(super) use keyspace::Eviction;
pub use link::{Link, ServerIdentity};
pub use mark::{Marked, Step};
pub(super) use said::{deposed, leads_elsewhere, of_error, outage, reply};
pub(super) use scan::Walk;
pub use servers::{Primary, Servers};
pub use sight::Sight;
pub use throttle::Throttled;
pub(super) use write::version_key;
pub use write::{Parcel, RedisWrite, Told};

mod cluster;
mod connection;
mod ground;
mod keyspace;
mod lease;
mod link;
mod many;
mod mark;
mod members;
mod poll;
mod scan;
mod said;
mod script;
mod sentinel;
mod servers;
mod sight;
mod slots;
mod throttle;
mod write;

/// How often the background task asks whether Redis is well.
pub(super) const PROBE: Duration = Duration::from_secs(1);

/// So many probes may go unanswered before the connection is given up.
const UNANSWERED: u32 = 2;

/// The Redis of the ledger.
pub struct RedisStore {
    servers: Servers,
    timeout: Duration,
    link: ArcSwapOption<Link>,
    /// Rung by whoever finds the connection broken, so that the keeper does not sleep on.
    broken: Notify,
    pub(super) breaker: Breaker,
    /// Whether what it says is to be believed.
    pub(super) authority: Arc<Authority>,
    latency_micros: AtomicU64,
    /// What has to hear of writes at once, so that whoever wrote reads what they have written.
    pub(super) memory: OnceLock<Arc<Coherence>>,
}

/// What Redis said to one request's questions.
#[derive(Debug)]
pub struct Answered {
    /// One for each question, errors among them.
    pub replies: Vec<Value>,
    /// Whether its silence means anything.
    pub believed: bool,
}

impl RedisStore {
    /// Tries to connect once; [`RedisStore::keep`] goes on trying.
    pub async fn open(
        settings: &RedisSettings,
        breaker: Breaker,
        authority: Arc<Authority>,
    ) -> Result<Arc<Self>, StoreError> {
        let store = Arc::new(Self {
            servers: Servers::of(settings)?,
            timeout: settings.timeout,
            link: ArcSwapOption::empty(),
            broken: Notify::new(),
            breaker,
            authority,
            latency_micros: AtomicU64::new(0),
            memory: OnceLock::new(),
        });
        // A server that is loading lets us in and answers nothing yet: only a probe tells.
        let probed = match store.connect_at_first().await {
            Ok(()) => store.ping().await,
            Err(error) => Err(error),
        };
        match probed {
            Ok(latency) => store.well(latency),
            Err(error) => store.breaker.trip(&error),
        }
        Ok(store)
    }

    /// Which servers there are, for whoever needs a connection of its own.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Puts all questions in one round trip, and behind them the one for the mark.
    pub async fn ask(&self, questions: &Pipeline) -> Result<Answered, StoreError> {
        let Some(attempt) = self.breaker.attempt() else {
            return Err(StoreError::unavailable("left alone until it answers a probe"));
        };
        match self.put(questions).await {
            Ok(answered) => {
                // `LOADING`, `NOAUTH`, `MASTERDOWN` are answers of a server that cannot answer.
                match answered.replies.iter().find_map(outage) {
                    None => attempt.succeeded(),
                    Some(error) => attempt.failed(&error),
                }
                Ok(answered)
            }
            Err(error) => {
                attempt.failed(&error);
                Err(error)
            }
        }
    }

    async fn put(&self, questions: &Pipeline) -> Result<Answered, StoreError> {
        let link = self.link()?;
        let mut pipeline = Pipeline::with_capacity(questions.len() + 1);
        questions.cmd_iter().for_each(|question| {
            pipeline.add_command(question.clone());
        });
        pipeline.add_command(self.authority.command().clone());
        let captured = self.authority.capture();
        let mut replies = self.round_trip_on(&link, &pipeline).await?;
        let mark = replies.pop().unwrap_or(Value::Nil);
        let believed = self.authority.hear(captured, &mark, &link.server.run_id);
        Ok(Answered { replies, believed })
    }

    /// Applies the writes of one change in one round trip, each atomically, and only where nothing newer has been
    /// applied. `restrictive`: at the same version a ban beats its own lifting.
    pub async fn write(
        &self,
        writes: &[RedisWrite],
        version: i64,
        restrictive: bool,
    ) -> Result<Told, StoreError> {
        let link = self.link()?;
        self.write_on(&link, &[Parcel { writes, version, restrictive, strict: false }]).await
    }

    /// Several changes' writes in one round trip.
    pub async fn write_on(&self, link: &Arc<Link>, parcels: &[Parcel<'_>]) -> Result<Told, StoreError> {
        let build = |form| {
            let mut pipeline = Pipeline::new();
            for parcel in parcels {
                for write in parcel.writes {
                    pipeline.add_command(Scripted::of(write).command(parcel, form));
                }
            }
            pipeline
        };
        let replies = self.scripted(link, build).await;
        parcels.iter().for_each(|parcel| self.forget(parcel.writes));
        Told::of(parcels, replies?)
    }

    /// Memory hears of our own writes at once, also after an error: what was not heard of may have happened. Others are
    /// told by Redis itself.
    fn forget(&self, writes: &[RedisWrite]) {
        if let Some(memory) = self.memory.get() {
            writes.iter().for_each(|write| memory.changed(write.key().as_bytes()));
        }
    }

    /// Runs scripts by their hashes, and by their text where the server does not know one of them. They may be run
    /// twice: each is made for that.
    async fn scripted(
        &self,
        link: &Arc<Link>,
        build: impl Fn(Form) -> Pipeline,
    ) -> Result<Vec<Value>, StoreError> {
        let pipeline = build(Form::Hash);
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.round_trip_on(link, &pipeline).await?;
        let unknown =
            |reply: &Value| matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT");
        if replies.iter().any(unknown) {
            return self.round_trip_on(link, &build(Form::Text)).await;
        }
        Ok(replies)
    }

    /// The version last applied to a key, as text; to be handed to [`RedisStore::write_back`].
    pub(super) async fn version(&self, key: &str) -> Result<String, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("GET").arg(version_key(key, ""));
        match self.round_trip(&pipeline).await?.pop() {
            Some(Value::Nil) => Ok(String::new()),
            Some(Value::BulkString(bytes)) => {
                String::from_utf8(bytes).map_err(|_| StoreError::malformed("a version"))
            }
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Err(StoreError::malformed("a version")),
        }
    }

    /// Keeps an answer of the database, unless the key exists by now or a change has been applied since `seen`.
    pub(super) async fn write_back(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
        seen: &str,
    ) -> Result<(), StoreError> {
        let build = |form| {
            let mut pipeline = Pipeline::with_capacity(1);
            let mut command = WRITE_BACK.command(form);
            command.arg(2).arg(key).arg(version_key(key, "")).arg(value).arg(millis(ttl)).arg(seen);
            pipeline.add_command(command);
            pipeline
        };
        match self.scripted(&self.link()?, build).await?.pop() {
            Some(Value::ServerError(error)) => Err(StoreError::unavailable(error.code())),
            _ => Ok(()),
        }
    }

    /// Changes keys for the link to hear of. `false` where a server does not let us.
    pub(super) async fn write_canaries(&self, keys: &[String]) -> Result<bool, StoreError> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("SET").arg(key).arg(1).arg("PX").arg(60_000);
        }
        let replies = self.round_trip(&pipeline).await?;
        Ok(!replies.iter().any(|reply| matches!(reply, Value::ServerError(_))))
    }

    /// How long one round trip may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long Redis takes to answer; of several servers, the slowest.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let link = self.link()?;
        let started = Instant::now();
        match link.connection.ping().await {
            Ok(()) => Ok(started.elapsed()),
            Err(failure) => Err(self.failed(&link, failure)),
        }
    }

    /// The latency of the last probe that was answered.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_micros.load(Relaxed))
    }

    /// The background task: connects, probes, and connects again.
    pub(super) async fn keep(self: Arc<Self>) {
        tokio::join!(self.servers.watch(), self.keep_forever());
    }

    async fn keep_forever(&self) {
        let mut unanswered = 0;
        loop {
            let link = match self.link.load_full() {
                Some(link) => link,
                None => {
                    unanswered = 0;
                    self.connect_at_last().await
                }
            };
            match self.ping().await {
                Ok(latency) => {
                    unanswered = 0;
                    self.well(latency);
                }
                // TCP would wait a quarter of an hour for a server that is gone without a word.
                Err(StoreError::Timeout) if unanswered == UNANSWERED => {
                    self.breaker.trip(&StoreError::Timeout);
                    self.link.store(None);
                    continue;
                }
                Err(error) => {
                    unanswered += u32::from(error == StoreError::Timeout);
                    // The link stays: a server that is loading answers soon enough.
                    self.breaker.failed(&error);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE) => {}
                () = self.broken.notified() => {}
                // Believed by nobody any more, however well it answers.
                () = link.connection.deposed() => drop(self.failed(&link, Failure { error: deposed(), fatal: true })),
            }
        }
    }

    fn well(&self, latency: Duration) {
        self.latency_micros.store(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.breaker.reset();
    }

    async fn connect_at_last(&self) -> Arc<Link> {
        let mut delays = backon::ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(PROBE)
            .without_max_times()
            .build();
        loop {
            match self.connect().await {
                Ok(link) => return link,
                Err(error) => self.breaker.trip(&error),
            }
            let delay = delays.next().unwrap_or(PROBE);
            let _ = tokio::time::timeout(delay, self.servers.turns()).await;
        }
    }

    /// Where somebody has to be asked for the primary first, that is waited for a moment.
    async fn connect_at_first(&self) -> Result<(), StoreError> {
        let named = async {
            loop {
                let turns = self.servers.turns();
                if self.servers.are_known() {
                    return;
                }
                turns.await;
            }
        };
        tokio::select! {
            () = named => {}
            () = self.servers.watch() => {}
            () = tokio::time::sleep(PROBE) => {}
        }
        self.connect().await.map(drop)
    }

    async fn connect(&self) -> Result<Arc<Link>, StoreError> {
        let link = Arc::new(self.new_link(self.timeout).await?);
        self.link.store(Some(Arc::clone(&link)));
        Ok(link)
    }

    /// The connection that stands at present.
    pub(super) fn link(&self) -> Result<Arc<Link>, StoreError> {
        self.link.load_full().ok_or_else(|| StoreError::unavailable("not connected"))
    }

    async fn round_trip(&self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.round_trip_on(&self.link()?, pipeline).await
    }

    async fn round_trip_on(&self, link: &Arc<Link>, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        link.connection.round_trip(pipeline).await.map_err(|failure| self.failed(link, failure))
    }

    /// Drops the link that failed, and only that: another request may have seen it first, and a new one stand in its place.
    fn failed(&self, link: &Arc<Link>, failure: Failure) -> StoreError {
        if failure.fatal {
            let before = self.link.compare_and_swap(link, None);
            if before.as_ref().is_some_and(|it| Arc::ptr_eq(it, link)) {
                self.breaker.trip(&failure.error);
                self.broken.notify_one();
            }
        }
        failure.error
    }
}

#[cfg(test)]
pub(super) mod tests;
