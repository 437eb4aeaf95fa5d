//! From questions to one answer: Redis in one round trip, then the database for what Redis leaves open.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::condition::{Finding, Moment};
use super::memory::{Kept, Recall};
use super::metrics::StoreMetrics;
use super::questions::{Asked, Compiled, Questions};
use super::redis::Answered;
use super::rule::{Condition, Flag, IfAbsent, Spelling};
use super::sql::Row;
use super::store::StoreError;
use super::thoroughness::Thoroughness;
use super::{Ledger, Lookup, Outage, Revocation, Source, adopt, alias, profile, redis};
use crate::claims::Claims;
use crate::time::Timestamp;

/// What is known so far. A known revocation outweighs an outage; of several the first rule's is told.
#[derive(Default)]
pub(super) struct Tally {
    denied: Option<(usize, Revocation)>,
    outage: Option<Outage>,
    /// Of the keys that tell of users, from before anything is asked.
    pub stamps: profile::Stamps,
    /// Why, should somebody deny without knowing it.
    told: Option<(usize, Revocation)>,
    moved: bool,
}

impl Tally {
    fn note(&mut self, place: usize, asked: &Asked, finding: Result<Finding, StoreError>, source: Source) {
        let rule = &asked.rule.rule;
        if rule.only_tells() {
            return;
        }
        if let Ok(Finding::Tells(why)) = finding {
            let (rule, reason) = (rule.name.clone(), why.reason().into());
            self.told = Some((place, Revocation { rule, reason, status: why.status(), source }));
            return;
        }
        let (reason, status) = match finding {
            Ok(Finding::Clear | Finding::Absent | Finding::Tells(_)) => return,
            Ok(Finding::Moved) => {
                self.moved = true;
                return;
            }
            Ok(Finding::Denied) => (rule.reason.clone(), rule.status),
            Ok(Finding::Because(why)) => (why.reason().into(), why.status()),
            Err(error) => {
                self.outage.get_or_insert_with(|| Outage {
                    rule: rule.name.clone(),
                    cause: error.to_string().into(),
                });
                return;
            }
        };
        if self.denied.as_ref().is_none_or(|(first, _)| place < *first) {
            self.denied = Some((place, Revocation { rule: rule.name.clone(), reason, status, source }));
        }
    }

    /// Notes what settles a rule; what does not is returned.
    pub fn settle<'a>(
        &mut self,
        place: usize,
        asked: &'a Asked,
        finding: Result<Finding, StoreError>,
        source: Source,
        trusted: bool,
    ) -> Option<Open<'a>> {
        let silent = asked.reply.is_none() || asked.rule.silence() == IfAbsent::AskDatabase;
        let settled = match &finding {
            Ok(Finding::Absent) => !silent,
            Ok(_) => true,
            Err(_) => false,
        };
        if !settled || (!trusted && asked.rule.statement.is_some()) {
            return Some(Open { place, asked, redis: finding });
        }
        self.note(place, asked, finding, source);
        None
    }

    /// `None`: asked about the wrong user.
    fn lookup(self) -> Option<Lookup> {
        if self.moved {
            return None;
        }
        Some(match (self.denied, self.outage) {
            (Some((_, denied)), _) => Lookup::Revoked(match self.told {
                Some((_, told)) if &*denied.reason == "user_deactivated" => {
                    Revocation { reason: told.reason, status: told.status, ..denied }
                }
                _ => denied,
            }),
            // Whoever could take it back cannot be asked.
            (None, Some(outage)) => match self.told {
                Some((_, told)) => Lookup::Revoked(told),
                None => Lookup::Unknown(outage),
            },
            (None, None) => Lookup::Live,
        })
    }
}

/// A rule that Redis did not settle.
pub(super) struct Open<'a> {
    place: usize,
    asked: &'a Asked,
    /// What Redis said, where it is not to be relied on or could not answer.
    redis: Result<Finding, StoreError>,
}

impl Ledger {
    /// `None`: the alias by which the credential names its user leads to somebody else by now.
    pub(super) async fn ask(
        &self,
        questions: &Questions,
        claims: &Claims,
        thoroughness: Thoroughness,
        now: Timestamp,
    ) -> Option<Lookup> {
        if questions.asked.is_empty() {
            return Some(Lookup::Live);
        }
        let at = Moment { issued_at: claims.issued_at(), now };
        let mut tally = Tally { stamps: self.profile_stamps(questions), ..Tally::default() };
        let recalled = match thoroughness {
            Thoroughness::Usual => self.recall(questions, at, &mut tally).await,
            Thoroughness::Strict => None,
        };
        let (open, voucher) = match recalled {
            Some((open, voucher)) => (open, Some(voucher)),
            None => (self.ask_redis(questions, thoroughness, at, &mut tally).await, None),
        };
        let mut database_asked = None;
        // What Redis says against a credential is enough; the database need not be asked for more.
        if !open.is_empty() && tally.denied.is_none() {
            let at = (thoroughness, at);
            database_asked = self.ask_database(questions, open, claims, at, &mut tally).await;
        }
        let lookup = tally.lookup();
        if let (Some(Lookup::Live), Some(voucher)) = (&lookup, voucher) {
            self.vouch(questions, voucher, database_asked);
        }
        lookup
    }

    /// One round trip. Answers that settle their rule go to `tally`, the others are returned.
    async fn ask_redis<'a>(
        &self,
        questions: &'a Questions,
        thoroughness: Thoroughness,
        at: Moment,
        tally: &mut Tally,
    ) -> Vec<Open<'a>> {
        // Read before asking: a change that is pending now is not in the answer, even if it is delivered meanwhile.
        let trusted = !self.doubt.is_raised();
        // While Redis is left alone nothing is asked, and nothing counted.
        let asks = self.redis.as_ref().is_some_and(|redis| !redis.breaker.is_open());
        let answered = match (&self.redis, &questions.pipeline) {
            (Some(redis), Some(pipeline)) => redis.ask(pipeline).await,
            (None, _) | (_, None) => Ok(Answered { replies: Vec::new(), believed: true }),
        };
        let trusted = trusted && answered.as_ref().is_ok_and(|answered| answered.believed);
        let replies = answered.map(|answered| answered.replies);
        let mut open = Vec::new();
        let asked = questions.asked.iter().enumerate();
        for (place, asked) in asked.filter(|(_, asked)| thoroughness.concerns(&asked.rule.rule)) {
            let finding = match asked.reply {
                None => Ok(Finding::Absent),
                Some(index) => {
                    let reply = replies.as_ref().map(|all| all.get(index));
                    self.rules.learn_reply(asked, reply, &tally.stamps);
                    of_redis(questions, asked, reply, at)
                }
            };
            if asks && asked.reply.is_some() {
                count(&self.metrics.redis, &finding);
            }
            let trusted = trusted && !thoroughness.doubts(&finding);
            open.extend(tally.settle(place, asked, finding, Source::Redis, trusted));
        }
        open
    }

    /// All open questions at once. Returns when the oldest of the answers was asked for.
    async fn ask_database(
        &self,
        questions: &Questions,
        open: Vec<Open<'_>>,
        claims: &Claims,
        (thoroughness, at): (Thoroughness, Moment),
        tally: &mut Tally,
    ) -> Option<Instant> {
        let answers = open.iter().map(|open| self.ask_row(questions, open.asked, claims, thoroughness));
        let answers = join_all(answers).await;
        let oldest = answers.iter().flatten().map(|(_, _, asked)| *asked).min();
        for (open, answer) in open.into_iter().zip(answers) {
            let Open { place, asked, redis } = open;
            let (finding, source) = match (answer, asked.rule.rule.sql.as_ref()) {
                (Some((kept, recall, _)), Some(sql)) => {
                    self.rules.learn_row(asked, &kept, &tally.stamps);
                    let finding = match (&asked.copy, thoroughness) {
                        (Some(hash), _) => self.judge_copy(asked, hash, kept, &redis, at),
                        (None, Thoroughness::Usual) => {
                            kept.and_then(|row| sql.deny_if.of_row(row.as_deref(), at))
                        }
                        (None, Thoroughness::Strict) => {
                            kept.and_then(|row| sql.deny_if.of_row_strictly(row.as_deref(), at))
                        }
                    };
                    let source = self.count_database(&finding, recall);
                    (finding, source)
                }
                // Redis alone could have known.
                (None, _) | (_, None) => match &redis {
                    Err(error) => (Err(error.clone()), Source::Redis),
                    Ok(_) => (
                        Err(StoreError::unavailable("the rule has no `sql`, and there is no Redis")),
                        Source::Redis,
                    ),
                },
            };
            match (finding, redis) {
                // The database cannot take back what a Redis that lags behind holds against the credential.
                (Err(_), Ok(held @ (Finding::Denied | Finding::Because(_)))) => {
                    tally.note(place, asked, Ok(held), Source::Redis);
                }
                (finding, redis) => {
                    if finding.is_ok() && redis == Ok(Finding::Absent) && asked.reply.is_some() {
                        self.write_back(questions, asked, claims);
                    }
                    tally.note(place, asked, finding, source);
                }
            }
        }
        oldest
    }

    /// What our copy of a key says. That there is none says something only where we would have one.
    fn judge_copy(
        &self,
        asked: &Asked,
        hash: &str,
        kept: Kept,
        redis: &Result<Finding, StoreError>,
        at: Moment,
    ) -> Result<Finding, StoreError> {
        let finding = kept.and_then(|row| adopt::judge(&asked.rule.rule, row.as_deref(), at));
        let vouched = self.adoption.as_ref().is_some_and(|it| it.vouches_for(hash));
        match (finding, redis) {
            // Redis did answer, of something that is newer than any copy.
            (_, Err(error @ StoreError::Malformed(_))) => Err(error.clone()),
            (Ok(denied @ (Finding::Denied | Finding::Because(_))), _) => Ok(denied),
            (Ok(finding), _) if vouched => Ok(finding),
            // What kept the one who knows from answering.
            (_, Err(error)) => Err(error.clone()),
            (Err(error), Ok(_)) => Err(error),
            (Ok(_), Ok(_)) => {
                Err(StoreError::unavailable("the rule has no `sql`, and not all of its entries were copied"))
            }
        }
    }

    /// `None` where the rule has no query.
    async fn ask_row(
        &self,
        questions: &Questions,
        asked: &Asked,
        claims: &Claims,
        thoroughness: Thoroughness,
    ) -> Option<(Kept, Recall, Instant)> {
        let statement = asked.rule.statement.as_ref()?;
        let bound = questions.bound(asked, claims, &self.database.memory)?;
        let subject = questions.user.as_ref().map_or(claims.subject(), |user| &user.subject);
        let life = self.database.life(&asked.rule.rule);
        Some(match thoroughness {
            Thoroughness::Usual => self.database.answer(statement, bound, subject, life).await,
            // An answer that is kept may be a moment old.
            Thoroughness::Strict => {
                (self.database.query(statement, bound).await, Recall::Miss, Instant::now())
            }
        })
    }

    /// Counts an answer where it came from.
    fn count_database(&self, finding: &Result<Finding, StoreError>, recall: Recall) -> Source {
        match recall {
            Recall::Hit => {
                self.metrics.memory_hit.inc();
                Source::Memory
            }
            Recall::Miss => {
                self.metrics.memory_miss.inc();
                count(&self.metrics.database, finding);
                Source::Database
            }
        }
    }
}

/// The user's row in the form of the user's key.
fn native_user(row: &Row) -> String {
    let member = |(column, value): &(String, serde_json::Value)| {
        let name = if column == "until_at" { "until" } else { column };
        (name.to_owned(), value.clone())
    };
    serde_json::Value::Object(row.iter().map(member).collect()).to_string()
}

fn of_redis(
    questions: &Questions,
    asked: &Asked,
    reply: Result<Option<&::redis::Value>, &StoreError>,
    at: Moment,
) -> Result<Finding, StoreError> {
    let Some(question) = &asked.rule.rule.redis else { return Ok(Finding::Absent) };
    match reply {
        Ok(Some(value)) if question.deny_if == Condition::Leads => {
            alias::leads(redis::reply(value)?, questions.user.as_ref())
        }
        Ok(Some(value)) => question.deny_if.of_reply(redis::reply(value)?, at),
        Ok(None) => Err(StoreError::malformed("a reply is missing")),
        Err(error) => Err(error.clone()),
    }
}

pub(super) fn count(store: &StoreMetrics, finding: &Result<Finding, StoreError>) {
    match finding {
        Ok(Finding::Clear | Finding::Tells(_) | Finding::Moved) => store.clear.inc(),
        Ok(Finding::Absent) => store.absent.inc(),
        Ok(Finding::Denied | Finding::Because(_)) => store.deny.inc(),
        Err(_) => store.error.inc(),
    }
}

/// The text with which Redis would give the same answer as the database; `None` where there is no such text, or where
/// other services keep more under that key than we know.
pub(super) fn text_for_redis(rule: &Compiled, kept: &Kept) -> Option<String> {
    use serde_json::Value::{Bool, Number, String};
    let (redis, sql) = (rule.rule.redis.as_ref()?, rule.rule.sql.as_ref()?);
    let Ok(Some(row)) = kept else { return None };
    if let Condition::Flag(flag) = &redis.deny_if {
        return users_text(flag, row);
    }
    let text = match row.first() {
        _ if !rule.writes_back() => return None,
        _ if redis.deny_if == Condition::NativeUser => native_user(row),
        Some((_, String(id))) if redis.deny_if == Condition::Leads => return Some(id.clone()),
        Some((_, value @ (Bool(_) | Number(_)))) => value.to_string(),
        Some((_, String(text))) => text.clone(),
        _ => return None,
    };
    // A token of the first second of time: void by any cut-off, so that both sides are compared in full.
    let at = Moment { issued_at: None, now: Timestamp::from_millis(0) };
    let in_redis = redis.deny_if.of_reply(super::condition::Reply::Value(text.as_bytes()), at).ok()?;
    let in_table = sql.deny_if.of_row(Some(row), at).ok()?;
    (in_redis == in_table).then_some(text)
}

/// A flag's value, or the whole row.
fn users_text(flag: &Flag, row: &Row) -> Option<String> {
    match flag.spelling {
        Spelling::Row => profile::document(row, &flag.member),
        _ => {
            let (_, active) = row.iter().find(|(column, _)| column == "portcullis_active")?;
            flag.text(active.as_i64()? == 1)
        }
    }
}
