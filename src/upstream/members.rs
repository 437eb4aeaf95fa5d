//! Who belongs to an upstream and who of them gets requests. Changed rarely, by the tasks that look names up and probe,
//! and by the request that fails once too often; each change ends in a new [`Table`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::balance::Table;
use super::endpoint::{Endpoint, Means};
use super::settings::{Check, Eject, UpstreamSettings};

/// One address with what is known of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    health: Known,
    ejection: Ejection,
}

/// What probes have found.
#[derive(Debug)]
enum Known {
    /// Nothing yet: it is taken to be well, and the first probe decides alone.
    Nothing,
    Well {
        failed: u32,
    },
    Unwell {
        passed: u32,
    },
}

#[derive(Debug, Default)]
struct Ejection {
    /// Until then it is left alone.
    until: Option<Instant>,
    /// How often in a row; makes the next one longer.
    times: u32,
    ended: Option<Instant>,
}

impl Member {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, health: Known::Nothing, ejection: Ejection::default() }
    }

    fn is_well(&self) -> bool {
        !matches!(self.health, Known::Unwell { .. })
    }

    fn is_out(&self) -> bool {
        self.ejection.until.is_some()
    }

    /// Whether requests are sent there while others are better off.
    fn is_good(&self) -> bool {
        self.is_well() && !self.is_out()
    }
}

/// Every address of every server.
#[derive(Debug, Default)]
pub(super) struct Members(Vec<Member>);

impl Members {
    /// The servers that get requests. Where all that are well have been ejected, ejections count for nothing: it is
    /// better to try than to refuse. What probes have found unwell is not tried.
    pub(super) fn table(&self) -> Table {
        let chosen = |wanted: fn(&Member) -> bool| -> Vec<_> {
            self.0.iter().filter(|member| wanted(member)).map(|member| Arc::clone(&member.endpoint)).collect()
        };
        let good = chosen(Member::is_good);
        Table::new(if good.is_empty() { chosen(Member::is_well) } else { good })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// The share of a server's addresses that are good.
    pub(super) fn share(&self, server: usize) -> f64 {
        let own = || self.0.iter().filter(|member| member.endpoint.server == server);
        let good = own().filter(|member| member.is_good()).count();
        if good == 0 { 0.0 } else { good as f64 / own().count() as f64 }
    }

    /// Takes the addresses that servers have now, in the order of the servers. What is known of one that stays is kept.
    /// Returns whether anything is different.
    pub(super) fn resolved(
        &mut self,
        settings: &UpstreamSettings,
        how: &Means,
        now: &[Vec<SocketAddr>],
    ) -> bool {
        let wanted =
            || now.iter().enumerate().flat_map(|(server, all)| all.iter().map(move |it| (server, *it)));
        let has = |member: &Member| (member.endpoint.server, member.endpoint.address);
        if wanted().eq(self.0.iter().map(has)) {
            return false;
        }
        let mut before = std::mem::take(&mut self.0);
        self.0 = wanted()
            .map(|(server, address)| {
                match before.iter().position(|member| has(member) == (server, address)) {
                    Some(place) => before.swap_remove(place),
                    None => Member::new(Arc::new(Endpoint::new(settings, how, server, address))),
                }
            })
            .collect();
        true
    }

    /// Takes the outcome of a probe. `Some` where it changed the member's health; the value is what it is now.
    pub(super) fn probed(&mut self, address: SocketAddr, passed: bool, check: &Check) -> Option<bool> {
        let member = self.0.iter_mut().find(|member| member.endpoint.address == address)?;
        let before = member.is_well();
        member.health = match (&member.health, passed) {
            (Known::Nothing | Known::Well { .. }, true) => Known::Well { failed: 0 },
            (Known::Nothing, false) | (Known::Unwell { .. }, false) => Known::Unwell { passed: 0 },
            (Known::Well { failed }, false) if failed + 1 >= check.unhealthy_after => {
                Known::Unwell { passed: 0 }
            }
            (Known::Well { failed }, false) => Known::Well { failed: failed + 1 },
            (Known::Unwell { passed }, true) if passed + 1 >= check.healthy_after => {
                Known::Well { failed: 0 }
            }
            (Known::Unwell { passed }, true) => Known::Unwell { passed: passed + 1 },
        };
        let after = member.is_well();
        (before != after).then_some(after)
    }

    /// Leaves a member alone for a while, unless too many are left alone already. Returns for how long.
    pub(super) fn eject(&mut self, address: SocketAddr, eject: &Eject, now: Instant) -> Option<Duration> {
        let allowed = (self.0.len() as f64 * eject.max_share).floor();
        let out = self.0.iter().filter(|member| member.is_out()).count();
        let others = self.0.iter().filter(|it| it.is_good() && it.endpoint.address != address).count();
        let member = self.0.iter_mut().find(|member| member.endpoint.address == address)?;
        if member.is_out() || others == 0 || (out + 1) as f64 > allowed {
            return None;
        }
        let Ejection { until, times, ended } = &mut member.ejection;
        let last = eject.time.saturating_mul(*times).min(eject.max_time);
        // As long in use as it was out before: that is forgiven.
        if ended.is_some_and(|ended| now.saturating_duration_since(ended) > last) {
            *times = 0;
        }
        *times = times.saturating_add(1);
        let length = eject.time.saturating_mul(*times).min(eject.max_time);
        *until = Some(now + length);
        Some(length)
    }

    /// Lets those back whose time is over. Returns them, and when the next one's will be.
    pub(super) fn readmit(&mut self, now: Instant) -> (Vec<SocketAddr>, Option<Instant>) {
        let mut back = Vec::new();
        for member in &mut self.0 {
            if member.ejection.until.is_some_and(|until| until <= now) {
                member.ejection.ended = member.ejection.until.take();
                member.endpoint.answered();
                back.push(member.endpoint.address);
            }
        }
        (back, self.0.iter().filter_map(|member| member.ejection.until).min())
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Probe;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn members(count: u8) -> Members {
        let settings = UpstreamSettings::plain(&["a.test"]);
        let mut members = Members::default();
        let addresses = (1..=count).map(address).collect();
        assert!(members.resolved(&settings, &Means::new(&settings), &[addresses]));
        members
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn in_use(members: &Members) -> Vec<SocketAddr> {
        members.table().candidates().iter().map(|endpoint| endpoint.address).collect()
    }

    fn eject() -> Eject {
        UpstreamSettings::plain(&[]).eject
    }

    #[test]
    fn no_more_than_their_share_are_ejected_and_never_the_last() {
        let now = Instant::now();
        let mut four = members(4);
        assert_eq!(four.eject(address(1), &eject(), now), Some(SECOND));
        assert_eq!(four.eject(address(1), &eject(), now), None, "it is out already");
        assert_eq!(four.eject(address(2), &eject(), now), Some(SECOND));
        assert_eq!(four.eject(address(3), &eject(), now), None, "half of them are out");
        assert_eq!(in_use(&four), [address(3), address(4)]);
        assert_eq!(four.share(0), 0.5);
        let all = Eject { max_share: 1.0, ..eject() };
        assert!(four.eject(address(3), &all, now).is_some());
        assert_eq!(four.eject(address(4), &all, now), None, "it is the last");
        assert_eq!(members(1).eject(address(1), &all, now), None);
    }

    #[test]
    fn an_ejection_ends_and_the_next_one_is_longer_until_it_is_forgiven() {
        let start = Instant::now();
        let mut two = members(2);
        two.eject(address(1), &eject(), start);
        assert_eq!(two.readmit(start).1, Some(start + SECOND));
        assert_eq!(two.readmit(start + SECOND), (vec![address(1)], None));
        assert_eq!(in_use(&two).len(), 2);
        let second = two.eject(address(1), &eject(), start + SECOND * 3 / 2);
        assert_eq!(second, Some(2 * SECOND));
        let over = start + SECOND * 7 / 2;
        assert_eq!(two.readmit(over).0, [address(1)]);
        assert_eq!(two.eject(address(1), &eject(), over + 3 * SECOND), Some(SECOND));
    }

    #[test]
    fn the_first_probe_decides_alone_and_then_it_takes_several() {
        let check = Check {
            probe: Probe::Tcp,
            interval: SECOND,
            timeout: SECOND,
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut two = members(2);
        assert_eq!(two.probed(address(1), false, &check), Some(false));
        assert_eq!(in_use(&two), [address(2)]);
        let outcomes = [true, true, false, false, true, false, false, false]
            .map(|it| two.probed(address(1), it, &check));
        assert_eq!(outcomes, [None, Some(true), None, None, None, None, None, Some(false)]);
        assert_eq!(two.probed(address(2), false, &check), Some(false));
        assert!(in_use(&two).is_empty(), "what is known to be unwell is not tried");
    }

    #[test]
    fn where_all_that_are_well_are_ejected_ejections_count_for_nothing() {
        let check = Check {
            probe: Probe::Tcp,
            interval: SECOND,
            timeout: SECOND,
            unhealthy_after: 1,
            healthy_after: 1,
        };
        let mut two = members(2);
        two.eject(address(1), &eject(), Instant::now());
        two.probed(address(2), false, &check);
        assert_eq!(in_use(&two), [address(1)]);
    }

    #[test]
    fn an_address_that_stays_keeps_what_is_known_of_it() {
        let settings = UpstreamSettings::plain(&["a.test"]);
        let how = Means::new(&settings);
        let mut two = members(2);
        two.eject(address(2), &eject(), Instant::now());
        assert!(!two.resolved(&settings, &how, &[vec![address(1), address(2)]]));
        assert!(two.resolved(&settings, &how, &[vec![address(2), address(3)]]));
        assert_eq!(in_use(&two), [address(3)]);
    }
}
