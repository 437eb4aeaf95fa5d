//! Redis filled from the database, by one gateway for all, while every gateway asks the database.
//!
//! Everything that the database holds against anybody is written by compare-and-set, page by page and not faster than
//! Redis can take beside its work. How far it has come is noted in Redis itself, behind the writes it speaks of: a copy
//! of Redis that has the note has them too, and whoever has to take over goes on from there. A flush takes the note away
//! with the rest; the mark is then not set, and the work begins anew. The mark is set last of all.

mod gap;
mod lifted;
mod pages;
mod parcel;
mod work;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::adopt::Adoption;
use super::metrics::ReconcileMetrics;
use super::migrate;
use super::outbox::Outbox;
use super::recheck::{Cause, Queue};
use super::redis::{self, Link, RedisStore};
use super::store::StoreError;
use super::watermark::{Mark, Why};
use super::write::{Writer, next_version};
use crate::time::Timestamp;
use pages::{From, Page, Source};
use parcel::Parcel;
use work::{Keep, LOCK, Pace, Running};

pub use gap::Gap;

/// Writes in one round trip: two or three milliseconds of Redis's time, for which others wait.
const BATCH: usize = 200;
/// A note that nobody has touched for so long is no longer gone on from.
const STALE: Duration = Duration::from_secs(60);
/// A batch behind a slow command of somebody else's is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How an attempt ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Redis holds everything.
    Filled,
    /// Another gateway is at it.
    Elsewhere,
}

/// Why Redis could not be filled. It will be tried again.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error("Redis: {0}")]
    Redis(StoreError),
    #[error("the database: {0}")]
    Database(StoreError),
    /// The note is not as it was left: Redis was emptied, or another gateway thought this one dead.
    #[error("Redis was emptied again, or another gateway has taken over")]
    Overtaken,
}

/// How far it has come; kept in Redis.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Note {
    /// Tells two attempts apart.
    attempt: String,
    /// The process that is being filled.
    server: String,
    /// What the mark will say.
    version: i64,
    /// Whether Redis held an older state, rather than nothing.
    older: bool,
    source: String,
    after: Vec<String>,
    touched: i64,
}

/// Who fills.
pub struct Filler<'a> {
    pub writer: &'a Writer,
    pub redis: &'a RedisStore,
    /// What services had written there alone.
    pub adoption: Option<&'a Adoption>,
    /// Who may have been let in again while they were written down as denied.
    pub rechecks: &'a Queue,
    pub metrics: &'a ReconcileMetrics,
}

impl Filler<'_> {
    /// Fills Redis and sets the mark, unless another gateway is at it.
    pub async fn fill(&self, why: Why) -> Result<Ended, FillError> {
        let older = matches!(why, Why::OtherServer | Why::Behind);
        self.alone("fill", async |link, keep| self.fill_alone(link, keep, older).await).await
    }

    /// Writes again what denies users, for another while: what a layout lets end does not end while the database says
    /// banned.
    pub async fn renew(&self) -> Result<Ended, FillError> {
        self.alone("renew", async |link, keep| {
            let version = migrate::version(&self.writer.sql).await.map_err(FillError::Database)?;
            let mut pace = Pace::new(self.metrics);
            for source in Source::all(self.writer, Timestamp::now()).iter().filter(|it| it.is_of_users()) {
                let mut from = Some(From::Key(Vec::new()));
                while let Some(at) = from {
                    let page = source.read(self.writer, &at, version, Timestamp::now()).await;
                    let mut page = page.map_err(FillError::Database)?;
                    page.parcels.retain(|parcel| parcel.restrictive);
                    self.put(link, (source, &at), &page, version, &mut pace).await?;
                    keep.renew().await?;
                    from = page.next;
                }
            }
            Ok(())
        })
        .await
    }

    /// Raises the mark to what the database holds, if nothing waits in the outbox.
    pub async fn keep_up(&self, outbox: &Outbox, gap: Gap<'_>) -> Result<(), FillError> {
        if self.redis.authority.field().is_none() {
            return Ok(());
        }
        // In this order: what is committed after the version was read is not spoken of.
        let version = migrate::version(&self.writer.sql).await.map_err(FillError::Database)?;
        let waiting = outbox.is_waiting_up_to(version).await.map_err(FillError::Database)?;
        let Some(mark) = self.redis.mark().await.map_err(FillError::Redis)? else { return Ok(()) };
        if mark.seq >= version || waiting || !gap.lasts(mark.seq) {
            return Ok(());
        }
        self.close_gap(&mark, version).await?;
        let link = self.redis.link().map_err(FillError::Redis)?;
        self.redis.mark_on(&link).await.map(|_| ()).map_err(FillError::Redis)
    }

    /// Tells Redis once more of every change of ours since the mark, and raises it. Everything that waited has been
    /// delivered: what lies between is a change without anything to tell, or one whose teller died in between.
    async fn close_gap(&self, read: &Mark, version: i64) -> Result<(), FillError> {
        self.tell_since(read, version).await?;
        self.redis.raise(read, version).await.map(|_| ()).map_err(FillError::Redis)
    }

    /// Tells Redis of every change of ours since the mark, whoever made it, and leaves the mark as it is.
    pub async fn tell_all_since(&self) -> Result<(), FillError> {
        let version = migrate::version(&self.writer.sql).await.map_err(FillError::Database)?;
        match self.redis.mark().await.map_err(FillError::Redis)? {
            Some(mark) => self.tell_since(&mark, version).await,
            None => Ok(()),
        }
    }

    async fn tell_since(&self, read: &Mark, version: i64) -> Result<(), FillError> {
        let link = self.redis.link().map_err(FillError::Redis)?;
        let mut pace = Pace::new(self.metrics);
        for source in [Source::Users, Source::Tokens, Source::Sessions] {
            let mut from = Some(From::Version(read.seq));
            while let Some(at) = from {
                let page = source.read(self.writer, &at, version, Timestamp::now()).await;
                let page = page.map_err(FillError::Database)?;
                self.write(&link, &page.parcels, &mut pace).await?;
                from = page.next;
            }
        }
        Ok(())
    }

    /// Work that one gateway does for all, over a connection of its own: nobody's question waits behind a batch.
    async fn alone(
        &self,
        what: &str,
        work: impl AsyncFnOnce(&Arc<Link>, &Keep<'_>) -> Result<(), FillError>,
    ) -> Result<Ended, FillError> {
        let Some(field) = self.redis.authority.field() else { return Ok(Ended::Filled) };
        let link = Arc::new(self.redis.new_link(PATIENCE).await.map_err(FillError::Redis)?);
        let key = format!("pc:reconcile:{what}:{field}");
        let owner = uuid::Uuid::new_v4().simple().to_string();
        let keep = Keep { redis: self.redis, link: &link, key, owner };
        if !keep.take(LOCK).await? {
            return Ok(Ended::Elsewhere);
        }
        let done = work(&link, &keep).await;
        // Else it ends by itself.
        let _ = keep.take(Duration::ZERO).await;
        done.map(|()| Ended::Filled)
    }

    async fn fill_alone(&self, link: &Arc<Link>, keep: &Keep<'_>, older: bool) -> Result<(), FillError> {
        // Somebody else may have done it while the lock was waited for.
        self.redis.mark_on(link).await.map_err(FillError::Redis)?;
        if self.redis.authority.is_believed() {
            return Ok(());
        }
        let _running = Running::of(self.metrics);
        let (field, now) = (self.note_field(), Timestamp::now());
        let (mut note, mut written) = self.begin(link, &field, now, older).await?;
        let mut pace = Pace::new(self.metrics);
        let sources = Source::all(self.writer, now);
        let named = || sources.iter().enumerate().map(|(place, source)| (source.name(place), source));
        let first = named().position(|(name, _)| name == note.source).unwrap_or(0);
        for (name, source) in named().skip(first) {
            if note.source != name {
                (note.source, note.after) = (name, Vec::new());
            }
            loop {
                let from = From::Key(note.after.clone());
                let page = source.read(self.writer, &from, note.version, Timestamp::now()).await;
                let page = page.map_err(FillError::Database)?;
                self.put(link, (source, &from), &page, note.version, &mut pace).await?;
                pace.read(page.rows, &note.source);
                keep.renew().await?;
                let Some(From::Key(after)) = page.next else { break };
                (note.after, note.touched) = (after, Timestamp::now().millis());
                written = self.put_note(link, &field, &written, &note).await?;
            }
        }
        if let Some(adoption) = self.adoption {
            adoption.restore_all(self.redis).await.map_err(FillError::Redis)?;
        }
        if note.older {
            self.lift(link, keep, note.version, &mut pace).await?;
        }
        let mark = Mark::of_new_round(note.version, &link.server.run_id);
        let set = self.redis.finish(link, (&field, &written), &mark).await.map_err(FillError::Redis)?;
        if !set {
            return Err(FillError::Overtaken);
        }
        tracing::info!(rows = pace.rows, keys = pace.keys, "Redis has been filled from the database");
        // Heard on the connection that requests use, so that the next of them is believed already.
        if let Ok(link) = self.redis.link() {
            self.redis.mark_on(&link).await.map_err(FillError::Redis)?;
        }
        Ok(())
    }

    fn note_field(&self) -> String {
        format!("{}:filling", self.redis.authority.field().unwrap_or_default())
    }

    /// Goes on from somebody's note, or begins anew. Returns the note and its text.
    async fn begin(
        &self,
        link: &Arc<Link>,
        field: &str,
        now: Timestamp,
        older: bool,
    ) -> Result<(Note, String), FillError> {
        let found = self.redis.note(link, field).await.map_err(FillError::Redis)?;
        let fresh = |note: &Note| {
            *note.server == *link.server.run_id && Timestamp::from_millis(note.touched).until(now) < STALE
        };
        let note = match serde_json::from_str::<Note>(&found).ok().filter(fresh) {
            Some(note) => {
                tracing::info!(
                    source = note.source,
                    "Redis is filled from the database, from where somebody stopped"
                );
                Note { touched: now.millis(), ..note }
            }
            None => {
                tracing::info!(
                    cause = self.redis.authority.why().word(),
                    "Redis is filled from the database"
                );
                Note {
                    attempt: uuid::Uuid::new_v4().simple().to_string(),
                    server: link.server.run_id.to_string(),
                    version: self.draw(now).await.map_err(FillError::Database)?,
                    older,
                    source: String::new(),
                    after: Vec::new(),
                    touched: now.millis(),
                }
            }
        };
        let written = self.put_note(link, field, &found, &note).await?;
        Ok((note, written))
    }

    /// A version of its own, above all before it: higher than any mark of this database that anybody has seen, also where
    /// the database itself was put back to an older copy.
    async fn draw(&self, now: Timestamp) -> Result<i64, StoreError> {
        let mut open = self.writer.sql.begin().await?;
        let now = open.clock(now).await?;
        let drawn = next_version(&mut open, now).await?;
        open.commit().await?;
        Ok(drawn.version)
    }

    async fn put_note(
        &self,
        link: &Arc<Link>,
        field: &str,
        expected: &str,
        note: &Note,
    ) -> Result<String, FillError> {
        let text = serde_json::to_string(note).unwrap_or_default();
        match self.redis.swap(link, field, expected, &text).await.map_err(FillError::Redis)? {
            true => Ok(text),
            false => Err(FillError::Overtaken),
        }
    }

    /// Writes a page, and reads it once more: of rows without versions nothing else tells whom a service has let in again
    /// between the reading and the writing. Their entry would be the last word, and stand for its whole life.
    async fn put(
        &self,
        link: &Arc<Link>,
        (source, from): (&Source<'_>, &From),
        page: &Page,
        version: i64,
        pace: &mut Pace<'_>,
    ) -> Result<(), FillError> {
        self.write(link, &page.parcels, pace).await?;
        if page.denied.is_empty() {
            return Ok(());
        }
        let again = source.read(self.writer, from, version, Timestamp::now()).await;
        let again = again.map_err(FillError::Database)?;
        let still: HashSet<&String> = again.denied.iter().collect();
        for subject in page.denied.iter().filter(|subject| !still.contains(subject)) {
            self.rechecks.put(subject.as_str().into(), Cause::Row).await;
        }
        Ok(())
    }

    async fn write(
        &self,
        link: &Arc<Link>,
        parcels: &[Parcel],
        pace: &mut Pace<'_>,
    ) -> Result<(), FillError> {
        let mut batch: Vec<redis::Parcel<'_>> = Vec::new();
        let mut writes = 0;
        for parcel in parcels {
            batch.push(parcel.as_told());
            writes += parcel.writes.len();
            if writes >= BATCH {
                self.write_batch(link, &batch, pace).await?;
                batch.clear();
                writes = 0;
            }
        }
        self.write_batch(link, &batch, pace).await
    }

    async fn write_batch(
        &self,
        link: &Arc<Link>,
        batch: &[redis::Parcel<'_>],
        pace: &mut Pace<'_>,
    ) -> Result<(), FillError> {
        let told = self.redis.write_on(link, batch).await.map_err(FillError::Redis)?;
        if !told.refused.is_empty() {
            // Whoever asks such a key is told so, and asks the database.
            tracing::warn!(rows = told.refused.len(), "Redis holds values of another type; left as they are");
        }
        pace.wrote(batch.iter().map(|parcel| parcel.writes.len()).sum()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
