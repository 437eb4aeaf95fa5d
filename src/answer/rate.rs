//! What clients are told of rate limits (draft-ietf-httpapi-ratelimit-headers-10), so that they need not find out by being
//! refused.

use std::fmt::Write as _;
use std::time::Duration;

use crate::rate::Standing;

pub const POLICY: &str = "ratelimit-policy";
pub const STANDING: &str = "ratelimit";

/// The fields `RateLimit-Policy` and `RateLimit`: `"default";q=100;w=60` and `"default";r=50;t=30`. Names of limits need no
/// escaping. `t` is until the whole allowance is there again; it comes back bit by bit.
pub fn fields(standings: &[Standing]) -> (String, String) {
    let (mut policy, mut standing) = (String::new(), String::new());
    for Standing { limit, remaining, reset } in standings {
        let comma = if policy.is_empty() { "" } else { ", " };
        // Writing into a `String` cannot fail.
        let _ = write!(policy, "{comma}\"{}\";q={};w={}", limit.name, limit.requests, seconds(limit.per));
        if limit.burst != limit.requests {
            let _ = write!(policy, ";burst={}", limit.burst);
        }
        let _ = write!(standing, "{comma}\"{}\";r={remaining};t={}", limit.name, seconds(*reset));
    }
    (policy, standing)
}

/// Whole seconds, and never too few of them; at least one.
pub fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rate::{By, RateLimit};

    #[test]
    fn several_limits_are_one_list_each() {
        let standing = |name: &str, burst, remaining| {
            let per = Duration::from_secs(60);
            let limit = RateLimit { name: name.into(), by: By::Ip, requests: 100, per, burst, shared: false };
            Standing { limit: Arc::new(limit), remaining, reset: Duration::from_millis(29_001) }
        };
        let (policy, now) = fields(&[standing("default", 100, 50), standing("slow", 20, 0)]);
        assert_eq!(policy, r#""default";q=100;w=60, "slow";q=100;w=60;burst=20"#);
        assert_eq!(now, r#""default";r=50;t=30, "slow";r=0;t=30"#);
        assert_eq!((seconds(Duration::ZERO), seconds(Duration::from_millis(1))), (1, 1));
    }
}
