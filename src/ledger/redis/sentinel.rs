//! Sentinels: which server is the primary is what a majority of them says, now.
//!
//! A primary that was deposed while it hung goes on answering as if nothing had happened, for ten seconds and more, until
//! the sentinels reach it: PING and ROLE look healthy all the while, and it lacks every ban since. So its word counts for
//! nothing: each sentinel is asked twice a second, and what they said holds for two seconds.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use redis::{ConnectionInfo, Pipeline, Value};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::lease::{Lease, Term};
use super::of_error;
use super::poll::{LEASE, POLL, Poll};
use super::servers::Maker;
use crate::ledger::settings::{HostPort, Login};
use crate::ledger::store::StoreError;

pub(super) struct Sentinels {
    sentinels: Vec<ConnectionInfo>,
    service: String,
    maker: Maker,
    seen: Mutex<Seen>,
    lease: Arc<Lease>,
    /// Rung when a sentinel tells of a change by itself.
    hurry: Arc<Notify>,
}

struct Seen {
    answers: Vec<Option<Answer>>,
    /// What the present term of the lease is about.
    named: Option<HostPort>,
    opinion: Opinion,
}

/// What one sentinel said.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    primary: HostPort,
    /// Raised with each failover that a majority of sentinels has authorised.
    epoch: u64,
    /// How many sentinels it knows, itself among them.
    known: usize,
    /// When it was asked.
    asked: Instant,
}

/// What all of them say together.
#[derive(Clone, Debug, PartialEq)]
enum Opinion {
    /// Vouched for by a majority; the youngest instant at which a majority had been asked.
    Named { primary: HostPort, since: Instant },
    /// Some know of a later failover than others: the primary is not what it was, and what it is is not settled.
    Unsettled,
    /// Too few answered.
    Silent { needed: usize },
}

impl Sentinels {
    pub fn new(
        sentinels: &[HostPort],
        service: &str,
        login: &Login,
        maker: Maker,
    ) -> Result<Self, StoreError> {
        let to_sentinels = maker.for_sentinels(login);
        let sentinels: Vec<_> = sentinels.iter().map(|it| to_sentinels.info(it)).collect::<Result<_, _>>()?;
        let answers = sentinels.iter().map(|_| None).collect();
        Ok(Self {
            sentinels,
            service: service.to_owned(),
            maker,
            seen: Mutex::new(Seen { answers, named: None, opinion: Opinion::Silent { needed: 0 } }),
            lease: Lease::new(),
            hurry: Arc::default(),
        })
    }

    /// Whom the sentinels name at this moment.
    pub fn primary(&self) -> Result<(ConnectionInfo, Term), StoreError> {
        let seen = self.seen();
        match (&seen.named, self.lease.term()) {
            (Some(primary), Some(term)) => Ok((self.maker.info(primary)?, term)),
            _ => Err(StoreError::unavailable(&seen.opinion)),
        }
    }

    pub fn turns(&self) -> Notified<'_> {
        self.lease.turns()
    }

    pub async fn watch(&self) {
        let each = self.sentinels.iter().enumerate().map(|(index, info)| self.follow(index, info));
        // Silence, too, has to be noticed.
        let judging = async {
            loop {
                tokio::time::sleep(POLL).await;
                self.judge();
            }
        };
        tokio::join!(join_all(each), judging);
    }

    async fn follow(&self, index: usize, info: &ConnectionInfo) {
        let mut question = Pipeline::with_capacity(2);
        question.cmd("SENTINEL").arg("MASTER").arg(&self.service);
        question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let channel = Some("+switch-master");
        let poll = Poll { info, who: "sentinel", question, channel, hurry: &self.hurry };
        let heard = |replies: Result<(Vec<Value>, Instant), StoreError>| {
            let answer = replies.and_then(|(replies, asked)| answer(replies, asked));
            let heard = answer.map(|answer| {
                if let Some(place) = self.seen().answers.get_mut(index) {
                    *place = Some(answer);
                }
            });
            self.judge();
            heard
        };
        poll.run(heard).await;
    }

    fn judge(&self) {
        let mut seen = self.seen();
        let opinion = opinion(&seen.answers, Instant::now());
        match &opinion {
            Opinion::Named { primary, since } => {
                if seen.named.as_ref() != Some(primary) {
                    self.lease.end();
                    seen.named = Some(primary.clone());
                }
                self.lease.renew(*since + LEASE);
            }
            Opinion::Unsettled => self.lease.end(),
            // Then the lease runs out.
            Opinion::Silent { .. } => {}
        }
        if !opinion.is_as(&seen.opinion) {
            match &opinion {
                Opinion::Named { .. } => tracing::info!(sentinels = %opinion, "Redis's primary"),
                _ => tracing::warn!(sentinels = %opinion, "Redis has no primary that could be believed"),
            }
        }
        seen.opinion = opinion;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opinion {
    /// The same, whenever it was said.
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named { primary, .. }, Self::Named { primary: other, .. }) => primary == other,
            (this, other) => this == other,
        }
    }
}

impl fmt::Display for Opinion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { primary: HostPort { host, port }, .. } => {
                write!(f, "a majority names {host}:{port}")
            }
            Self::Unsettled => f.write_str("the sentinels have not settled on a primary"),
            Self::Silent { needed } => write!(f, "fewer than {needed} sentinels name a primary"),
        }
    }
}

/// What the answers say together. A failover is authorised by a majority of all sentinels that know of each other, not of
/// those that are configured here: only a majority of the same cannot miss it.
fn opinion(answers: &[Option<Answer>], now: Instant) -> Opinion {
    let fresh: Vec<_> = answers.iter().flatten().filter(|it| now < it.asked + LEASE).collect();
    let known = fresh.iter().map(|it| it.known).max().unwrap_or(0).max(answers.len());
    let needed = known / 2 + 1;
    let Some(latest) = fresh.iter().max_by_key(|it| it.epoch) else { return Opinion::Silent { needed } };
    let (votes, others): (Vec<_>, Vec<_>) = fresh.iter().partition(|it| it.primary == latest.primary);
    let contradicted = others.iter().any(|it: &&Answer| it.epoch == latest.epoch);
    let mut asked: Vec<_> = votes.iter().map(|it| it.asked).collect();
    asked.sort_unstable_by(|a, b| b.cmp(a));
    match asked.get(needed - 1) {
        Some(since) if !contradicted => Opinion::Named { primary: latest.primary.clone(), since: *since },
        _ if others.is_empty() => Opinion::Silent { needed },
        _ => Opinion::Unsettled,
    }
}

/// The replies to `SENTINEL MASTER` and to `SENTINEL GET-MASTER-ADDR-BY-NAME`: in this order, so that a failover in
/// between lends its address, not its epoch, to what was.
fn answer(replies: Vec<Value>, asked: Instant) -> Result<Answer, StoreError> {
    let malformed = || StoreError::malformed("a sentinel's answer");
    let [master, address] = <[Value; 2]>::try_from(replies).map_err(|_| malformed())?;
    let read = |value: Value| value.extract_error().map_err(|error| of_error(&error));
    let master: HashMap<String, String> = redis::from_redis_value(read(master)?).map_err(|_| malformed())?;
    let address: Option<(String, u16)> = redis::from_redis_value(read(address)?).map_err(|_| malformed())?;
    let number = |field: &str| master.get(field).and_then(|text| text.parse::<u64>().ok());
    let (host, port) = address.ok_or_else(|| StoreError::unavailable("it does not know the service"))?;
    let others = number("num-other-sentinels").ok_or_else(malformed)?;
    Ok(Answer {
        primary: HostPort { host, port },
        epoch: number("config-epoch").ok_or_else(malformed)?,
        known: usize::try_from(others).unwrap_or(usize::MAX).saturating_add(1),
        asked,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LATER: Duration = Duration::from_millis(100);

    fn said(port: u16, epoch: u64, asked: Instant) -> Option<Answer> {
        Some(Answer { primary: HostPort { host: "h".into(), port }, epoch, known: 3, asked })
    }

    fn named(port: u16, since: Instant) -> Opinion {
        Opinion::Named { primary: HostPort { host: "h".into(), port }, since }
    }

    #[test]
    fn a_majority_names_the_primary_and_counts_from_when_the_last_of_it_was_asked() {
        let now = Instant::now();
        let (first, second, third) = (now, now + LATER, now + LATER * 2);
        assert_eq!(opinion(&[said(1, 0, third), None, said(1, 0, first)], third), named(1, first));
        let all = [said(1, 0, third), said(1, 0, second), said(1, 0, first)];
        assert_eq!(opinion(&all, third), named(1, second));
        assert_eq!(opinion(&all, second + LEASE), Opinion::Silent { needed: 2 }, "only one answer is fresh");
        assert_eq!(opinion(&[None, said(1, 0, now), None], now), Opinion::Silent { needed: 2 });
    }

    #[test]
    fn one_sentinel_that_knows_of_a_later_failover_is_enough_to_doubt_and_not_enough_to_believe() {
        let now = Instant::now();
        let leader = |others: u64| [said(2, 5, now), said(1, 4, now), said(2, others, now)];
        assert_eq!(opinion(&[said(2, 5, now), said(1, 4, now), said(1, 4, now)], now), Opinion::Unsettled);
        assert_eq!(opinion(&leader(5), now), named(2, now));
        assert_eq!(opinion(&leader(4), now), named(2, now), "the address counts");
        let split = [said(1, 5, now), said(2, 5, now), said(2, 5, now)];
        assert_eq!(opinion(&split, now), Opinion::Unsettled, "one epoch has one primary");
    }

    #[test]
    fn a_majority_is_one_of_all_sentinels_there_are_not_of_those_that_are_configured() {
        let now = Instant::now();
        let five = |port| said(port, 1, now).map(|it| Answer { known: 5, ..it });
        assert_eq!(opinion(&[five(1), five(1)], now), Opinion::Silent { needed: 3 });
        assert_eq!(opinion(&[five(1), five(1), five(1)], now), named(1, now));
    }
}
