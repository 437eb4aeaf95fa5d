//! Portcullis's own record of a user, beside layouts that cannot say why somebody is denied or since when.
//!
//! It comes with the presets that need it and is no preset by name: the key `pc:user:{user}` and `portcullis_users`, as
//! the preset `native` keeps them. Where another layout has a flag or a status, that decides and the record tells the word;
//! where none has, the record decides. A cut-off is always the record's.

use super::native::USER_QUERY;
use super::{
    Condition, Guards, IfAbsent, Preset, PresetContext, RedisQuestion, Rule, SqlQuestion, Standing,
    UserLayout, template,
};
use crate::ledger::redis::RedisWrite;
use crate::time::Timestamp;

/// See above.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whether its status denies, or only tells why another layout does.
    decides: bool,
}

/// The presets with the record that they need, asked first: its word is the exact one.
pub(in crate::ledger) fn complete(presets: &[Preset]) -> Vec<Preset> {
    let cannot_say = |preset: &Preset| {
        matches!(preset, Preset::ActiveFlagCache(_) | Preset::UserCache(_) | Preset::SessionStore(_))
    };
    let has_status = |preset: &Preset| {
        matches!(preset, Preset::ActiveFlagCache(_) | Preset::UserCache(_) | Preset::InvalidUsers(_))
    };
    let native = presets.iter().any(|preset| matches!(preset, Preset::Native(_)));
    let needed = presets.iter().any(cannot_say) && !native;
    let record = needed.then(|| Preset::Record(Record { decides: !presets.iter().any(has_status) }));
    record.into_iter().chain(presets.iter().cloned()).collect()
}

impl Record {
    pub(super) fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        let condition = Condition::Record { decides: self.decides };
        let rule = template("pc:user:{user}").map(|key| Rule {
            name: "record.user".into(),
            guards: Guards::User,
            redis: Some(RedisQuestion { key, deny_if: condition.clone(), if_absent: IfAbsent::Allow }),
            sql: Some(SqlQuestion { query: USER_QUERY.to_owned(), deny_if: condition }),
            reason: "user_banned".into(),
            status: 403,
            ttl: context.longest_life(),
        });
        rule.into_iter().collect()
    }
}

impl UserLayout for Record {
    fn writes(&self, standing: &Standing, context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        vec![standing.write(format!("pc:user:{}", standing.user), context, now)]
    }

    fn carries_cut_off(&self, _context: &PresetContext) -> bool {
        true
    }
}
