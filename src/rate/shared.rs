//! Limits for which all gateways count together. Where Redis does not answer, each counts alone: more may pass then, and
//! nobody is refused for it.

use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};

use super::{Limit, Limiter, Taken, Who, nanos};
use crate::ledger::RedisStore;

/// No rule's key begins so: Redis pushes changes of those, and these would be many.
const PREFIX: &str = "pc:rate:";

impl Limiter {
    /// Who was refused is refused here until the next one may pass: a flood costs Redis nothing.
    pub(super) async fn together(&self, limit: &Limit, who: Who<'_>, redis: &RedisStore, now: u64) -> Taken {
        let quota = &limit.quota;
        let shut = limit.key(&self.table, who, "shut");
        if let Some(until) = self.table.is_shut(shut, now) {
            return Taken { passed: false, debt: quota.debt_of(until.saturating_sub(now)) };
        }
        match redis.throttle(&limit.name(who), quota.interval(), quota.capacity()).await {
            Ok(throttled) => {
                if self.alone.load(Ordering::Relaxed) && self.alone.swap(false, Ordering::Relaxed) {
                    tracing::info!("Gateways count requests together again");
                }
                let taken = Taken { passed: throttled.passed, debt: nanos(throttled.debt) };
                if !taken.passed {
                    self.table.shut(shut, now.saturating_add(quota.wait(taken.debt)), now);
                }
                taken
            }
            Err(error) => {
                self.metrics.fallbacks.inc();
                if !self.alone.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "Redis does not answer: this gateway counts the requests of shared limits alone");
                }
                self.table.take(limit.key(&self.table, who, "own"), now, quota)
            }
        }
    }
}

impl Limit {
    /// The key in Redis. Who it is about stands there by hash: a subject may hold anything.
    fn name(&self, who: Who<'_>) -> String {
        let (by, user, network) = self.counted(who);
        let mut digest = Sha256::new();
        if let Some(user) = user {
            digest.update(user.realm.as_bytes());
            // No realm holds it: `a` in `b/c` is nobody else.
            digest.update([0]);
            digest.update(user.subject.as_bytes());
        }
        if let Some(network) = network {
            digest.update(network.bytes());
        }
        let mut name = format!("{PREFIX}{}:{}:{by}", self.place, self.settings.name);
        if user.is_some() || network.is_some() {
            name.push(':');
            let hash = digest.finalize();
            name.extend(hash.iter().take(16).flat_map(|byte| {
                [byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0'))
            }));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::settings::{By, RateLimit};
    use super::super::{Limits, Who};
    use crate::claims::User;

    #[test]
    fn keys_name_nobody_and_no_two_users_share_one() {
        let limit = |by| {
            let (name, per) = ("default".into(), Duration::from_secs(60));
            let settings = RateLimit { name, by, requests: 10, per, burst: 10, shared: true };
            Limits::new(&"api".into(), &[settings])
        };
        let (subject, ip, route) = (limit(By::Subject), limit(By::Ip), limit(By::Route));
        let user = |realm: &str, subject: &str| User { realm: realm.into(), subject: subject.into() };
        let who = |user, address: &str| Who {
            address: address.parse().expect("an address"),
            ipv6_prefix: 64,
            user,
        };
        let [a, b] = [user("b", "c/a"), user("b/c", "a")];
        let of_a = subject.after[0].name(who(Some(&a), "192.0.2.1"));
        assert!(of_a.starts_with("pc:rate:api:default:subject:") && !of_a.contains('/'), "{of_a}");
        assert_ne!(of_a, subject.after[0].name(who(Some(&b), "192.0.2.1")));
        assert_eq!(of_a, subject.after[0].name(who(Some(&a), "192.0.2.2")));
        let nobody = subject.after[0].name(who(None, "2001:db8::1"));
        assert_eq!(nobody, ip.before[0].name(who(Some(&a), "2001:db8::2")));
        assert_eq!(route.after[0].name(who(Some(&a), "192.0.2.1")), "pc:rate:api:default:route");
    }
}
