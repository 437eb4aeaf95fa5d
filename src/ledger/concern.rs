//! What whoever keeps an eye on open exchanges has to know: whether anything was heard, and whom it may concern. Says
//! nothing about who is revoked: for that [`Ledger::find`] is asked again.

use super::Ledger;
use super::coherence::Tick;
use super::questions::Questions;
use super::recall::Coherent;

/// Counts everything heard of changes so far, from whomever: the same only while nothing new was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard(u64);

/// Counts the changes that may be about one credential; others may share its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concern(u64);

/// The ledger at one moment, for looking at many credentials.
pub struct Outlook<'a> {
    ledger: &'a Ledger,
    coherent: Option<(&'a Coherent, Tick)>,
}

impl Ledger {
    /// To be taken before a judgment. When it is the same after the judged exchange has been put down as open, no change
    /// has slipped between the two.
    pub fn heard(&self) -> Heard {
        let pushed = self.coherent.as_ref().map_or(0, |coherent| coherent.coherence.heard());
        Heard(pushed.wrapping_add(self.database.memory.generation()))
    }

    /// Waits until something is heard. For one listener.
    pub async fn hears(&self) {
        let forgets = self.database.memory.forgets();
        match &self.coherent {
            Some(coherent) => tokio::select! {
                () = coherent.coherence.hears() => {}
                () = forgets => {}
            },
            None => forgets.await,
        }
    }

    /// Counts the changes that may be about anybody.
    pub fn heard_of_all(&self) -> Heard {
        let pushed = self.coherent.as_ref().map_or(0, |coherent| coherent.coherence.generation());
        Heard(pushed.wrapping_add(self.database.memory.clearings()))
    }

    /// The ledger as it is now.
    pub fn outlook(&self) -> Outlook<'_> {
        Outlook { ledger: self, coherent: self.coherent() }
    }
}

impl Outlook<'_> {
    /// Whether a credential is known to be good without anybody being asked: what a request would find.
    pub fn vouches(&self, questions: &Questions) -> bool {
        let Some((coherent, now)) = self.coherent else { return false };
        let good = |it: &Questions| it.memo.vouches(self.ledger.stamp(coherent, it), now);
        match &questions.named {
            None => good(questions),
            Some(named) => named.found().map_or_else(|| good(questions), |found| good(&found)),
        }
    }

    /// How the changes stand that may be about a credential.
    pub fn concern(&self, questions: &Questions) -> Concern {
        let found = questions.named.as_ref().and_then(|named| named.found());
        let own = self.counted(questions);
        Concern(found.map_or(own, |found| own.wrapping_add(self.counted(&found))))
    }

    /// A sum of counters that only ever grow.
    fn counted(&self, questions: &Questions) -> u64 {
        let forgotten = self.ledger.database.memory.forgotten_at(questions.place);
        let Some(coherent) = &self.ledger.coherent else { return forgotten };
        let versions = questions.slots.iter().map(|slot| coherent.coherence.version(*slot));
        versions.fold(forgotten, u64::wrapping_add)
    }
}
