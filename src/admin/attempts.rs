//! Wrong control tokens, counted by address in bounded memory, so that guessing is slow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens an address may send at once.
const BURST: u32 = 10;
/// One more is forgiven every so often.
const FORGIVEN: Duration = Duration::from_secs(3);
/// Addresses remembered. More attackers than that share what the last of them left.
const ADDRESSES: usize = 4096;

/// Who has failed, and until when it counts.
#[derive(Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, Instant>>);

impl Attempts {
    /// Whether this address has to wait before it may guess again.
    pub fn is_blocked(&self, address: IpAddr, now: Instant) -> bool {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = failures.get(&group(address)).copied();
        let full = || failures.len() >= ADDRESSES;
        match until {
            Some(until) => until.saturating_duration_since(now) > FORGIVEN * (BURST - 1),
            // Nobody new can be counted at present, hence nobody new may guess; loopback is not shut out by it.
            None => full() && failures.values().all(|until| *until > now) && !address.is_loopback(),
        }
    }

    /// A wrong token came from this address.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES {
            failures.retain(|_, until| *until > now);
        }
        let key = group(address);
        if failures.len() < ADDRESSES || failures.contains_key(&key) {
            let until = failures.entry(key).or_insert(now);
            *until = (*until).max(now) + FORGIVEN;
        }
    }
}

/// An IPv6 network of 64 bits is one customer: its addresses count together.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_waits_and_is_forgiven() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..BURST {
            assert!(!attempts.is_blocked(guesser, now));
            attempts.failed(guesser, now);
        }
        assert!(attempts.is_blocked(guesser, now));
        assert!(!attempts.is_blocked(other, now));
        assert!(!attempts.is_blocked(guesser, now + FORGIVEN));
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(group(parse("2001:db8::1")), group(parse("2001:db8::ffff:1")));
        assert_ne!(group(parse("2001:db8::1")), group(parse("2001:db8:0:1::1")));
        assert_eq!(group(parse("::ffff:192.0.2.1")), parse("192.0.2.1"));
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_attackers() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..2 * u32::try_from(ADDRESSES).expect("small") {
            attempts.failed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(attempts.0.lock().expect("whole").len(), ADDRESSES);
        let newcomer = IpAddr::from([203, 0, 113, 9]);
        assert!(attempts.is_blocked(newcomer, now), "who cannot be counted may not guess");
        assert!(!attempts.is_blocked(newcomer, now + FORGIVEN), "and is let in when others are forgotten");
    }
}
