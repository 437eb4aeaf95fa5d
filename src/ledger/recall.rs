//! Answers from memory, while it is known to say what Redis says: a memo per credential, then the kept answers, then
//! one round trip over the link for those that are missing.

use std::sync::Arc;
use std::time::Duration;

use redis::{Arg, Pipeline, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answers::{Answer, Answers};
use super::chain::{Open, Tally, count};
use super::coherence::{Coherence, Stamp, Tick};
use super::condition::{Finding, Held, Moment};
use super::link::{Link, Reading};
use super::metrics::LedgerMetrics;
use super::questions::{Asked, Kept, Questions, Rules};
use super::redis::{self as store, RedisStore};
use super::rule::Condition;
use super::settings::LedgerSettings;
use super::store::StoreError;
use super::{Ledger, Source, alias};

/// No answer is believed for longer without being asked for again, whatever its key's life: should a push be lost in a
/// way that nobody has thought of, this ends it.
const LONGEST: Duration = Duration::from_secs(60);

/// The link and what is kept of what came over it.
pub(super) struct Coherent {
    pub link: Arc<Link>,
    pub coherence: Arc<Coherence>,
    answers: Answers,
}

/// Under which stamp, and until when, what was found may be believed as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voucher {
    pub stamp: Stamp,
    pub until: Tick,
}

/// A question whose answer is not kept.
struct Missing<'a> {
    place: usize,
    asked: &'a Asked,
    kept: &'a Kept,
    stamp: Stamp,
}

/// What is known of one question.
type Told = (Result<Held, StoreError>, Source);

impl Coherent {
    /// Makes the memory and its link, which has yet to be connected.
    pub fn new(
        redis: &Arc<RedisStore>,
        rules: &mut Rules,
        settings: &LedgerSettings,
        turned: Arc<Notify>,
        metrics: &LedgerMetrics,
    ) -> Self {
        let coherence = Arc::new(Coherence::new(settings.answers, settings.max_staleness));
        rules.keep_answers(Arc::clone(&coherence));
        // Fails where it is set already, and then it is this ledger's other self.
        let _ = redis.memory.set(Arc::clone(&coherence));
        let (store, names, heard) = (Arc::clone(redis), Arc::clone(&coherence), metrics.link.clone());
        let link = Link::new(store, names, rules.iter(), settings, turned, heard);
        Self { link, coherence, answers: Answers::new(settings.answers) }
    }

    /// How many answers are kept.
    pub fn kept(&self) -> i64 {
        i64::try_from(self.answers.len()).unwrap_or(i64::MAX)
    }

    /// What is kept, and which questions have to be read.
    fn look_up<'a>(
        &self,
        questions: &'a Questions,
        now: Tick,
        voucher: &mut Voucher,
    ) -> (Vec<Told>, Vec<Missing<'a>>) {
        let mut missing = Vec::new();
        let told = questions.asked.iter().enumerate().map(|(place, asked)| {
            let Some(kept) = &asked.kept else { return (Ok(Held::Same(Finding::Absent)), Source::Redis) };
            let stamp = self.coherence.stamp(kept.slot);
            if let Some(answer) = self.answers.get(&kept.answer, stamp, now) {
                voucher.ends(answer.until);
                return (Ok(answer.held), Source::Memory);
            }
            missing.push(Missing { place, asked, kept, stamp });
            (Err(StoreError::malformed("a reply is missing")), Source::Redis)
        });
        (told.collect(), missing)
    }

    /// One round trip over the link. What it says is kept, unless it may have been overtaken.
    async fn read(
        &self,
        reading: &Reading,
        questions: &Questions,
        missing: &[Missing<'_>],
        voucher: &mut Voucher,
        learn: impl Fn(&Asked, &Value),
    ) -> Option<Vec<(usize, Result<Held, StoreError>)>> {
        let pipeline = fill(questions, missing)?;
        let sent = self.coherence.now();
        let replies = self.link.read(reading, pipeline).await?;
        // A server that cannot answer: the breaker has to hear of it.
        if replies.iter().any(|reply| store::outage(reply).is_some()) {
            return None;
        }
        let stands = self.link.stands(reading);
        let (answers, lives) = replies.split_at_checked(missing.len())?;
        let read = missing.iter().zip(answers).zip(lives).map(|((missing, answer), life)| {
            learn(missing.asked, answer);
            let held = missing.held(questions, answer);
            let until = held.as_ref().ok().and_then(|held| Self::until(sent, held, life));
            voucher.ends(until.unwrap_or(Tick::ZERO));
            if let (Ok(held), Some(until), true) = (&held, until, stands) {
                let answer = Answer { held: *held, stamp: missing.stamp, until };
                self.answers.insert(missing.kept.answer, answer);
            }
            (missing.place, held)
        });
        Some(read.collect())
    }

    /// When an answer ends: with its key's life, which Redis tells a while after the fact. `None`: it is over already.
    fn until(sent: Tick, held: &Held, life: &Value) -> Option<Tick> {
        let life = match life {
            Value::Int(-2) if *held != Held::Same(Finding::Absent) => return None,
            Value::Int(-2 | -1) => LONGEST,
            Value::Int(millis) => Duration::from_millis(u64::try_from(*millis).ok()?).min(LONGEST),
            _ => return None,
        };
        Some(sent.plus(life))
    }
}

impl Voucher {
    fn ends(&mut self, until: Tick) {
        self.until = self.until.min(until);
    }
}

impl Ledger {
    /// Whether memory may be asked at this very moment.
    pub(super) fn is_coherent(&self) -> bool {
        self.coherent().is_some()
    }

    pub(super) fn coherent(&self) -> Option<(&Coherent, Tick)> {
        let coherent = self.coherent.as_ref()?;
        let now = coherent.coherence.now();
        // While the database holds a change that Redis lacks, nobody's silence there means anything.
        let believed = self.redis.as_ref().is_some_and(|redis| redis.authority.is_believed());
        (believed && !self.doubt.is_raised() && coherent.link.is_live(now)).then_some((coherent, now))
    }

    /// Whether a credential is known to be good: a clock, and a few numbers to compare. Denials are not remembered
    /// like this: they have reasons, and are rarer.
    pub(super) fn vouches(&self, questions: &Questions) -> bool {
        let Some((coherent, now)) = self.coherent() else { return false };
        let good = questions.memo.vouches(self.stamp(coherent, questions), now);
        if good {
            self.metrics.memory_hit.inc_by(questions.asked.len() as u64);
        }
        good
    }

    /// Keeps that nothing was held against a credential.
    pub(super) fn vouch(&self, questions: &Questions, mut voucher: Voucher, database_asked: Option<Instant>) {
        let Some(coherent) = &self.coherent else { return };
        if let Some(asked) = database_asked {
            voucher.ends(coherent.coherence.tick(asked).plus(self.database.life));
        }
        questions.memo.keep(voucher.stamp, voucher.until);
    }

    /// The present stamp of everything a credential's answers depend on.
    pub(super) fn stamp(&self, coherent: &Coherent, questions: &Questions) -> Stamp {
        coherent.coherence.stamp_of_all(&questions.slots).and(self.database.memory.generation())
    }

    /// As [`Ledger::ask_redis`], from memory. `None` where memory cannot be asked, or what is missing in it not be read
    /// over the link: then Redis is asked directly, as if there were no memory.
    pub(super) async fn recall<'a>(
        &self,
        questions: &'a Questions,
        at: Moment,
        tally: &mut Tally,
    ) -> Option<(Vec<Open<'a>>, Voucher)> {
        let (coherent, now) = self.coherent()?;
        let stamp = self.stamp(coherent, questions);
        let mut voucher = Voucher { stamp, until: now.plus(LONGEST) };
        // Before any version is captured.
        let reading = coherent.link.begin();
        let (mut told, missing) = coherent.look_up(questions, now, &mut voucher);
        if !missing.is_empty() {
            let learn = |asked: &Asked, answer: &Value| {
                self.rules.learn_reply(asked, Ok(Some(answer)), &tally.stamps);
            };
            let reading = reading?;
            let read = coherent.read(&reading, questions, &missing, &mut voucher, learn);
            for (place, held) in read.await? {
                if let Some(told) = told.get_mut(place) {
                    told.0 = held;
                }
            }
        }
        Some((self.settle_all(questions, told, at, tally), voucher))
    }

    fn settle_all<'a>(
        &self,
        questions: &'a Questions,
        told: Vec<Told>,
        at: Moment,
        tally: &mut Tally,
    ) -> Vec<Open<'a>> {
        let mut open = Vec::new();
        for (place, (asked, (held, source))) in questions.asked.iter().zip(told).enumerate() {
            let finding = held.map(|held| held.judge(at));
            match source {
                _ if asked.kept.is_none() => {}
                Source::Memory => self.metrics.memory_hit.inc(),
                Source::Redis | Source::Database => {
                    self.metrics.memory_miss.inc();
                    count(&self.metrics.redis, &finding);
                }
            }
            open.extend(tally.settle(place, asked, finding, source, true));
        }
        open
    }
}

impl Missing<'_> {
    fn held(&self, questions: &Questions, answer: &Value) -> Result<Held, StoreError> {
        match &self.asked.rule.rule.redis {
            Some(question) if question.deny_if == Condition::Leads => {
                alias::leads(store::reply(answer)?, questions.user.as_ref()).map(Held::Same)
            }
            Some(question) => question.deny_if.held(store::reply(answer)?),
            None => Ok(Held::Same(Finding::Absent)),
        }
    }
}

/// The missing questions, and after them how long each one's key has to live.
fn fill(questions: &Questions, missing: &[Missing<'_>]) -> Option<Pipeline> {
    let all = questions.pipeline.as_ref()?;
    let mut pipeline = Pipeline::with_capacity(2 * missing.len() + 1);
    let commands = || missing.iter().filter_map(|missing| all.cmd_iter().nth(missing.asked.reply?));
    for command in commands() {
        pipeline.add_command(command.clone());
    }
    for command in commands() {
        let Some(Arg::Simple(key)) = command.args_iter().nth(1) else { return None };
        pipeline.cmd("PTTL").arg(key);
    }
    (pipeline.len() == 2 * missing.len()).then_some(pipeline)
}
