//! Keys backwards: whose key has been pushed, and what kind of key it is.

use crate::claims::User;
use crate::ledger::condition::{Finding, Moment, Reply};
use crate::ledger::questions::Compiled;
use crate::ledger::rule::{Condition, Guards, IfAbsent};
use crate::template::{Field, Template};

/// A key that says something of one user.
#[derive(Clone, Debug)]
pub struct Guarded {
    template: Template,
    deny_if: Condition,
    silence: IfAbsent,
}

/// All keys of users.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Guarded>);

impl Guarded {
    /// The keys that speak of users; of a key that is one for all, the member does.
    pub fn of(rule: &Compiled) -> Option<Self> {
        let redis = rule.rule.redis.as_ref().filter(|_| rule.rule.guards == Guards::User)?;
        Some(Self { template: redis.key.clone(), deny_if: redis.deny_if.clone(), silence: rule.silence() })
    }

    /// Whether it is a copy of a row, so that its absence says nothing and what contradicts the row is stale. The other
    /// kind are deny lists: an entry may have been made by a service that keeps no row, and stands.
    pub fn is_cache(&self) -> bool {
        self.silence == IfAbsent::AskDatabase
    }

    /// Whether nobody but gateways writes such values: then an entry says what the row said when it was written, and one
    /// that contradicts the row is stale.
    pub fn is_ours(&self) -> bool {
        matches!(self.deny_if, Condition::NativeUser | Condition::Record { .. })
    }

    /// What a value says against the user: of every token, and of one that has just been issued.
    pub fn says(&self, value: Option<&[u8]>, moment: Moment) -> [Option<bool>; 2] {
        let reply = value.map_or(Reply::Absent, Reply::Value);
        let newest = Moment { issued_at: Some(moment.now), ..moment };
        // A value that cannot be understood denies nothing and lets nobody pass.
        [moment, newest].map(|at| self.deny_if.of_reply(reply, at).ok().map(denies))
    }
}

fn denies(finding: Finding) -> bool {
    matches!(finding, Finding::Denied | Finding::Because(_))
}

impl Keys {
    pub fn of<'a>(rules: impl Iterator<Item = &'a Compiled>) -> Self {
        Self(rules.filter_map(Guarded::of).collect())
    }

    /// Whose key it is. A template of several placeholders names nobody for certain.
    pub fn subject<'a>(&self, key: &'a [u8]) -> Option<(&'a str, &Guarded)> {
        let key = std::str::from_utf8(key).ok()?;
        self.0.iter().find_map(|guarded| {
            let (field, value) = guarded.template.sole(key)?;
            let subject = match field {
                Field::Subject => value,
                // `realm/subject`: neither may hold another `/`, or it would not have been written.
                Field::User => value.rsplit_once('/').map_or(value, |(_, subject)| subject),
                _ => return None,
            };
            Some((subject, guarded))
        })
    }

    /// The keys under which copies of this user's row are kept.
    pub fn copies(&self, subject: &str) -> Vec<(String, &Guarded)> {
        let user = User { realm: "".into(), subject: subject.into() };
        let whole = |guarded: &&Guarded| guarded.is_cache() && guarded.deny_if.member().is_none();
        let key = |guarded: &Guarded| guarded.template.fill(|field| field.of_user(&user)).ok();
        self.0.iter().filter(whole).filter_map(|guarded| Some((key(guarded)?, guarded))).collect()
    }

    /// What kind of key that is.
    pub fn guarded(&self, key: &str) -> Option<&Guarded> {
        self.0.iter().find(|guarded| guarded.template.could_produce(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_backwards_to_the_user_it_names() {
        let guarded = |key: &str| Guarded {
            template: Template::parse(key).expect("a template"),
            deny_if: Condition::Exists,
            silence: IfAbsent::Allow,
        };
        let keys = ["invalid_user:{sub}", "user:{sub}:active", "pc:user:{user}", "t:{claims.t}:{sub}", "all"];
        let keys = Keys(keys.map(guarded).into());
        let subject = |key: &'static str| keys.subject(key.as_bytes()).map(|(subject, _)| subject);
        assert_eq!(subject("invalid_user:7"), Some("7"));
        assert_eq!(subject("user:7:active"), Some("7"));
        assert_eq!(subject("pc:user:7"), Some("7"));
        assert_eq!(subject("pc:user:acme/7"), Some("7"));
        assert_eq!(subject("t:a:7"), None);
        assert_eq!(subject("all"), None);
        assert_eq!(subject("invalid_user:"), None);
        assert_eq!(subject("user:7:inactive"), None);
        assert!(keys.subject(b"invalid_user:\xff").is_none());
    }
}
