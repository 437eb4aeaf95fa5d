//! Which keys Redis has to tell us of.

use crate::ledger::rule::Rule;

/// Under this stand the watermark and our canaries.
pub const WATERMARK: &str = "pc:watermark";

/// What the rules' keys and our own begin with: no two overlap, since Redis refuses such (a shorter one speaks for
/// both). One empty prefix means every key there is.
pub fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Box<[Box<str>]> {
    let heads = rules.filter_map(|rule| rule.redis.as_ref()).map(|redis| redis.key.head());
    let mut heads: Vec<&str> = heads.chain([WATERMARK]).collect();
    // Sorted, a prefix stands before everything that begins with it.
    heads.sort_unstable();
    let mut kept: Vec<&str> = Vec::with_capacity(heads.len());
    for head in heads {
        if kept.last().is_none_or(|last| !head.starts_with(last)) {
            kept.push(head);
        }
    }
    kept.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::rule::{Condition, Guards, IfAbsent, RedisQuestion};
    use crate::template::Template;

    fn prefixes(keys: &[&str]) -> Vec<String> {
        let rules: Vec<_> = keys
            .iter()
            .map(|key| Rule {
                name: "r".into(),
                guards: Guards::User,
                redis: Some(RedisQuestion {
                    key: Template::parse(key).expect("a key"),
                    deny_if: Condition::Exists,
                    if_absent: IfAbsent::Allow,
                }),
                sql: None,
                reason: "r".into(),
                status: 403,
                ttl: std::time::Duration::ZERO,
            })
            .collect();
        of(rules.iter()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_overlaps_is_shortened_and_the_watermark_is_always_watched() {
        assert_eq!(prefixes(&[]), ["pc:watermark"]);
        assert_eq!(
            prefixes(&["user:tokens:{sub}", "user:{sub}:active", "blacklist:{token}", "user:{sub}"]),
            ["blacklist:", "pc:watermark", "user:"]
        );
        assert_eq!(
            prefixes(&["invalid_users", "invalid_user:{sub}"]),
            ["invalid_user:", "invalid_users", "pc:watermark"]
        );
        assert_eq!(prefixes(&["pc:{user}"]), ["pc:"]);
    }

    #[test]
    fn a_key_that_begins_with_a_placeholder_means_every_key() {
        assert_eq!(prefixes(&["{sub}:active", "user:{sub}"]), [""]);
    }
}
