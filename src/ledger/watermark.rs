//! Whether Redis holds what the database promised: the mark, and what this gateway may believe.
//!
//! The mark is a field of the hash `pc:watermark`: `<seq>:<run_id>:<round>`. Every change of the database with a
//! version up to `seq` is in the Redis that holds the mark; `run_id` is the process under which everything was last
//! reconciled; `round` is drawn anew by each reconciliation. It is asked for **with** every question, in the same round
//! trip and behind it: a Redis that was emptied, swapped, or put back to an older copy answers the very question it
//! would falsify with a mark that is missing or too old, and that question is then put to the database.
//!
//! What is compared with is read **before** a question is sent ([`Authority::capture`]). Replies of concurrent requests
//! are looked at in any order, so a mark lower than the highest known by now may merely have been read earlier; lower
//! than what was known before asking, it proves a loss. And a mark of another round than was known before asking may
//! have been written after the question had been answered from an emptied Redis: such an answer is not believed, and
//! the next one is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use redis::{Cmd, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::preset::Preset;

/// The hash with one field for each database (and set of layouts) that is kept in this Redis.
pub const KEY: &str = "pc:watermark";

/// What Redis says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub seq: i64,
    pub server: Box<str>,
    pub round: u64,
}

impl Mark {
    /// `None` for anything that this crate did not write.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split(':');
        let (seq, server, round) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || server.is_empty() || parts.next().is_some() {
            return None;
        }
        let round = u64::from_str_radix(round, 16).ok().filter(|round| *round != 0)?;
        Some(Self { seq: seq.parse().ok()?, server: server.into(), round })
    }

    /// A mark of a round that nobody has seen yet.
    pub fn of_new_round(seq: i64, server: &str) -> Self {
        Self { seq, server: server.into(), round: rand::random::<u64>().max(1) }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:016x}", self.seq, self.server, self.round)
    }
}

/// What was known before a question was sent; to be handed to [`Authority::hear`] with the reply.
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    seq: i64,
    round: u64,
}

/// What a mark says about the answers that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Believed,
    /// The mark is well, and of a round that was not known when the question was sent.
    Anew,
    Not(Why),
}

/// Why Redis is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was emptied, or never filled.
    Missing,
    /// It is another process than the one that was reconciled: restarted, or somebody else's copy.
    OtherServer,
    /// It once held more than it does now.
    Behind,
    /// It does not hold yet what the database held when this gateway started.
    Unproven,
    /// It refuses to tell, or tells nonsense.
    Unreadable,
    /// Nobody has asked it yet.
    Unasked,
}

impl Why {
    /// For logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "it has no mark",
            Self::OtherServer => "it is not the server that was reconciled",
            Self::Behind => "it has lost changes",
            Self::Unproven => "it lacks changes",
            Self::Unreadable => "its mark cannot be read",
            Self::Unasked => "it has not been asked yet",
        }
    }

    /// Whether Redis has to be filled anew.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Missing | Self::OtherServer | Self::Behind)
    }
}

/// Pure: what a mark proves, compared with what was known before it was asked for.
pub fn judge(captured: Captured, mark: Option<&Mark>, server: &str) -> Verdict {
    match mark {
        None => Verdict::Not(Why::Missing),
        Some(mark) if *mark.server != *server => Verdict::Not(Why::OtherServer),
        // A new round begins with a version above all before it.
        Some(mark) if mark.seq < captured.seq => Verdict::Not(Why::Behind),
        Some(mark) if mark.round != captured.round => Verdict::Anew,
        Some(_) => Verdict::Believed,
    }
}

/// Which field of the hash is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The database's, by its epoch.
    Field(Box<str>),
    /// The database has not been seen: the only field that a database with these layouts could have made.
    Only { ending: Box<str> },
    /// There is nothing of ours to fill Redis with: it is believed, as there is nothing it could be compared with.
    None,
}

impl Ground {
    /// `epoch`: `None` where the database has no tables of ours. Without presets nothing in Redis comes from there but
    /// the entries of services that were copied (`adopts`).
    pub fn of(epoch: Option<i64>, presets: &[Preset], adopts: bool) -> Self {
        let epoch = epoch.filter(|_| adopts || !presets.is_empty());
        epoch.map_or(Self::None, |epoch| Self::field(epoch, presets))
    }

    /// While the database is away.
    pub fn unseen(presets: &[Preset], adopts: bool) -> Self {
        match presets {
            [] if !adopts => Self::None,
            _ => Self::Only { ending: ending(presets).into() },
        }
    }

    fn field(epoch: i64, presets: &[Preset]) -> Self {
        Self::Field(format!("{epoch}{}", ending(presets)).into())
    }
}

/// Redis is filled for certain layouts: one more preset, or another prefix, has a mark of its own.
fn ending(presets: &[Preset]) -> String {
    let digest = Sha256::digest(format!("{presets:?}").as_bytes());
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(":{short}")
}

/// What this gateway knows of Redis's mark. Shared by all that ask Redis.
#[derive(Debug)]
pub struct Authority {
    ground: Ground,
    command: Cmd,
    seen: AtomicI64,
    round: AtomicU64,
    /// What the mark has to reach before it is believed for the first time; 0 once it has.
    floor: AtomicI64,
    /// What the last mark said.
    believed: AtomicBool,
    why: AtomicU8,
    /// Rung when belief is lost or won: the mode may have changed.
    turned: Arc<Notify>,
    /// Rung when Redis has to be filled anew.
    lost: Notify,
}

impl Authority {
    /// `floor`: the version that the database held when this gateway started.
    pub fn new(ground: Ground, floor: i64, turned: Arc<Notify>) -> Self {
        let command = match &ground {
            Ground::Field(field) => {
                let mut command = redis::cmd("HGET");
                command.arg(KEY).arg(&**field);
                command
            }
            Ground::Only { .. } => {
                let mut command = redis::cmd("HGETALL");
                command.arg(KEY);
                command
            }
            // Whoever fences wants an answer.
            Ground::None => {
                let mut command = redis::cmd("EXISTS");
                command.arg(KEY);
                command
            }
        };
        Self {
            believed: AtomicBool::new(ground == Ground::None),
            ground,
            command,
            seen: AtomicI64::new(0),
            round: AtomicU64::new(0),
            floor: AtomicI64::new(floor),
            why: AtomicU8::new(Why::Unasked as u8),
            turned,
            lost: Notify::new(),
        }
    }

    /// What asks for the mark, to be put behind every question.
    pub fn command(&self) -> &Cmd {
        &self.command
    }

    /// The round of the mark that was believed last. Whoever keeps answers gives them up with it.
    pub fn round(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// Our field of [`KEY`]; `None` while it is not known, and nothing must be written.
    pub fn field(&self) -> Option<&str> {
        match &self.ground {
            Ground::Field(field) => Some(field),
            Ground::Only { .. } | Ground::None => None,
        }
    }

    /// Whether Redis has to have a mark at all.
    pub fn wants_mark(&self) -> bool {
        self.ground != Ground::None
    }

    /// To be read before a question is sent.
    pub fn capture(&self) -> Captured {
        // The round first: a round that is too old costs one answer, a mark that is too old none.
        let round = self.round.load(Ordering::Acquire);
        Captured { seq: self.seen.load(Ordering::Acquire), round }
    }

    /// The reply to [`Authority::command`], from the server of that `run_id`. Says whether to believe the answers that
    /// came before it on the same connection.
    pub fn hear(&self, captured: Captured, reply: &Value, server: &str) -> bool {
        if self.ground == Ground::None {
            let told = matches!(reply, Value::Int(_));
            return self.note(if told { Verdict::Believed } else { Verdict::Not(Why::Unreadable) });
        }
        let found = match self.find(reply) {
            Ok(found) => found,
            Err(()) => return self.note(Verdict::Not(Why::Unreadable)),
        };
        self.weigh(captured, found.as_ref(), server)
    }

    /// As [`Authority::hear`], for the bare value of our field: `None` where it is missing.
    pub fn seen(&self, captured: Captured, reply: Option<&[u8]>, server: &str) -> bool {
        match reply.map(Mark::parse) {
            Some(None) => self.note(Verdict::Not(Why::Unreadable)),
            Some(Some(mark)) => self.weigh(captured, Some(&mark), server),
            None => self.weigh(captured, None, server),
        }
    }

    fn weigh(&self, captured: Captured, mark: Option<&Mark>, server: &str) -> bool {
        let mut verdict = judge(captured, mark, server);
        if let Some(mark) = mark
            && matches!(verdict, Verdict::Believed | Verdict::Anew)
        {
            self.seen.fetch_max(mark.seq, Ordering::AcqRel);
            self.round.store(mark.round, Ordering::Release);
            let floor = self.floor.load(Ordering::Acquire);
            if mark.seq >= floor {
                if floor != 0 {
                    self.floor.store(0, Ordering::Release);
                }
            } else {
                verdict = Verdict::Not(Why::Unproven);
            }
        }
        self.note(verdict)
    }

    fn note(&self, verdict: Verdict) -> bool {
        if let Verdict::Not(why) = verdict {
            self.why.store(why as u8, Ordering::Relaxed);
        }
        let believed = !matches!(verdict, Verdict::Not(_));
        // Reading is cheap and shared by all cores; writing is not.
        if self.believed.load(Ordering::Relaxed) != believed
            && self.believed.swap(believed, Ordering::AcqRel) != believed
        {
            self.turned.notify_one();
            match verdict {
                Verdict::Not(why) => tracing::warn!(
                    cause = why.word(),
                    "Redis does not hold what it should; the database is asked"
                ),
                Verdict::Believed | Verdict::Anew => {
                    tracing::info!("Redis holds every change; it is believed")
                }
            }
        }
        if let Verdict::Not(why) = verdict
            && (why.is_loss() || why == Why::Unproven)
        {
            self.lost.notify_one();
        }
        verdict == Verdict::Believed
    }

    /// The mark in a reply; `Err` where it cannot be told.
    pub fn find(&self, reply: &Value) -> Result<Option<Mark>, ()> {
        let value = match (&self.ground, reply) {
            (Ground::None, _) => return Err(()),
            (_, Value::Nil) => None,
            (Ground::Field(_), Value::BulkString(bytes)) => Some(bytes),
            (Ground::Only { ending }, Value::Array(pairs)) => only(pairs.chunks_exact(2), ending)?,
            (Ground::Only { ending }, Value::Map(pairs)) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(field, value)| [field.clone(), value.clone()]).collect();
                return match only(pairs.iter().map(<[Value; 2]>::as_slice), ending)? {
                    Some(bytes) => Mark::parse(bytes).map(Some).ok_or(()),
                    None => Ok(None),
                };
            }
            _ => return Err(()),
        };
        match value {
            Some(bytes) => Mark::parse(bytes).map(Some).ok_or(()),
            None => Ok(None),
        }
    }

    /// Whether the last mark was believed.
    pub fn is_believed(&self) -> bool {
        self.believed.load(Ordering::Acquire)
    }

    /// Whether the last mark told the truth, be it only that something is missing.
    pub fn is_true(&self) -> bool {
        self.is_believed() || self.why() == Why::Unproven
    }

    /// Why not, the last time that Redis was not.
    pub fn why(&self) -> Why {
        let all = [Why::Missing, Why::OtherServer, Why::Behind, Why::Unproven, Why::Unreadable, Why::Unasked];
        let code = self.why.load(Ordering::Relaxed);
        all.into_iter().find(|why| *why as u8 == code).unwrap_or(Why::Unasked)
    }

    /// This gateway has itself raised the mark so far.
    pub fn raised(&self, seq: i64) {
        self.seen.fetch_max(seq, Ordering::AcqRel);
    }

    /// Returns when Redis may have to be filled.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

/// With two databases in one Redis nobody can tell which is ours; neither is believed then.
fn only<'a>(pairs: impl Iterator<Item = &'a [Value]>, ending: &str) -> Result<Option<&'a Vec<u8>>, ()> {
    let ours = |pair: &'a [Value]| match pair {
        [Value::BulkString(field), Value::BulkString(value)] if field.ends_with(ending.as_bytes()) => {
            Some(value)
        }
        _ => None,
    };
    let mut found = pairs.filter_map(ours);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(()),
        (first, _) => Ok(first),
    }
}

#[cfg(test)]
mod tests;
