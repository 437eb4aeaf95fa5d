//! From questions to one answer: Redis in one round trip, then the database for what Redis leaves open.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::breaker::Breaker;
use super::condition::{Finding, Moment};
use super::memory::{Kept, Memory, Recall};
use super::metrics::StoreMetrics;
use super::questions::{Asked, Bound, Compiled, Questions};
use super::redis::Answered;
use super::rule::{Condition, IfAbsent};
use super::sql::{Row, SqlStore, Statement};
use super::store::StoreError;
use super::thoroughness::Thoroughness;
use super::{Ledger, Lookup, Outage, Revocation, Source, redis};
use crate::claims::Claims;
use crate::time::Timestamp;

/// The database with all that spares it.
pub(super) struct Database {
    pub sql: SqlStore,
    pub memory: Memory,
    pub breaker: Breaker,
}

impl Database {
    /// The first row of a rule's query, from memory if somebody asked within the last second.
    pub async fn answer(&self, statement: &Statement, bound: &Bound) -> (Kept, Recall, Instant) {
        self.memory.answer(bound.key, || self.query(statement, bound)).await
    }

    /// The first row of a rule's query.
    pub async fn query(&self, statement: &Statement, bound: &Bound) -> Kept {
        let Some(attempt) = self.breaker.attempt() else {
            return Err(StoreError::unavailable("left alone until it answers a probe"));
        };
        let row = self.sql.first_row(statement, &bound.arguments).await;
        match &row {
            Err(error) if error.is_outage_of_the_store() => attempt.failed(error),
            Ok(_) | Err(_) => attempt.succeeded(),
        }
        row.map(|row| row.map(Arc::new))
    }
}

/// What is known so far. A known revocation outweighs an outage; of several the first rule's is told.
#[derive(Default)]
pub(super) struct Tally {
    denied: Option<(usize, Revocation)>,
    outage: Option<Outage>,
}

impl Tally {
    fn note(&mut self, place: usize, asked: &Asked, finding: Result<Finding, StoreError>, source: Source) {
        let rule = &asked.rule.rule;
        let (reason, status) = match finding {
            Ok(Finding::Clear | Finding::Absent) => return,
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
            Ok(Finding::Clear | Finding::Denied | Finding::Because(_)) => true,
            Err(_) => false,
        };
        if !settled || (!trusted && asked.rule.statement.is_some()) {
            return Some(Open { place, asked, redis: finding });
        }
        self.note(place, asked, finding, source);
        None
    }

    fn lookup(self) -> Lookup {
        match (self.denied, self.outage) {
            (Some((_, revocation)), _) => Lookup::Revoked(revocation),
            (None, Some(outage)) => Lookup::Unknown(outage),
            (None, None) => Lookup::Live,
        }
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
    pub(super) async fn ask(
        &self,
        questions: &Questions,
        claims: &Claims,
        thoroughness: Thoroughness,
        now: Timestamp,
    ) -> Lookup {
        if questions.asked.is_empty() {
            return Lookup::Live;
        }
        let at = Moment { issued_at: claims.issued_at(), now };
        let mut tally = Tally::default();
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
        if let (Lookup::Live, Some(voucher)) = (&lookup, voucher) {
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
        for (place, asked) in questions.asked.iter().enumerate() {
            let finding = match asked.reply {
                None => Ok(Finding::Absent),
                Some(index) => of_redis(asked, replies.as_ref().map(|all| all.get(index)), at),
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
                    let finding = kept.and_then(|row| match thoroughness {
                        Thoroughness::Usual => sql.deny_if.of_row(row.as_deref(), at),
                        Thoroughness::Strict => sql.deny_if.of_row_strictly(row.as_deref(), at),
                    });
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
        Some(match thoroughness {
            Thoroughness::Usual => self.database.answer(statement, bound).await,
            // An answer that is kept may be a second old.
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
    asked: &Asked,
    reply: Result<Option<&::redis::Value>, &StoreError>,
    at: Moment,
) -> Result<Finding, StoreError> {
    let Some(question) = &asked.rule.rule.redis else { return Ok(Finding::Absent) };
    match reply {
        Ok(Some(value)) => question.deny_if.of_reply(redis::reply(value)?, at),
        Ok(None) => Err(StoreError::malformed("a reply is missing")),
        Err(error) => Err(error.clone()),
    }
}

pub(super) fn count(store: &StoreMetrics, finding: &Result<Finding, StoreError>) {
    match finding {
        Ok(Finding::Clear) => store.clear.inc(),
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
    let text = match row.first() {
        _ if redis.deny_if == Condition::NativeUser => native_user(row),
        Some((_, value @ (Bool(_) | Number(_)))) => value.to_string(),
        Some((_, String(text))) => text.clone(),
        _ => return None,
    };
    // A token of the first second of time: void by any cut-off, so that both sides are compared in full.
    let at = Moment { issued_at: None, now: Timestamp::from_millis(0) };
    let in_redis = redis.deny_if.of_reply(super::condition::Reply::Value(text.as_bytes()), at).ok()?;
    let in_table = sql.deny_if.of_row(Some(row), at).ok()?;
    (rule.writes_back() && in_redis == in_table).then_some(text)
}
