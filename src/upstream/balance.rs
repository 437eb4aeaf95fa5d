//! Choosing a server. Everything that can be known beforehand is in an immutable [`Table`], made anew when a server
//! comes or goes: a choice takes no lock and allocates nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::endpoint::Endpoint;

/// A schedule this long tells weights apart to a hundredth among a hundred servers.
const LONGEST_SCHEDULE: u64 = 16 * 1024;

/// The servers that get requests, and in which order.
#[derive(Debug, Default)]
pub(super) struct Table {
    candidates: Box<[Arc<Endpoint>]>,
    /// Places in `candidates`, each as often as its weight says, as far apart as can be.
    schedule: Box<[u32]>,
    /// What each candidate's draws are made of, side by side: every one is looked at.
    draws: Box<[Draw]>,
    /// Whether all weigh the same.
    even: bool,
}

#[derive(Debug)]
struct Draw {
    seed: u64,
    weight: f64,
}

impl Table {
    pub(super) fn new(candidates: Vec<Arc<Endpoint>>) -> Self {
        let weights: Vec<u32> = candidates.iter().map(|endpoint| endpoint.weight).collect();
        let draw = |endpoint: &Arc<Endpoint>| Draw { seed: endpoint.seed, weight: endpoint.weight.into() };
        Self {
            schedule: schedule(&weights),
            draws: candidates.iter().map(draw).collect(),
            even: weights.windows(2).all(|pair| matches!(pair, [one, other] if one == other)),
            candidates: candidates.into(),
        }
    }

    pub(super) fn candidates(&self) -> &[Arc<Endpoint>] {
        &self.candidates
    }

    pub(super) fn in_turn(&self, turn: &AtomicUsize, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        // A second attempt is not a turn: else two servers, of which one is dead, would always begin with the dead one.
        let turn = match tried {
            [] => turn.fetch_add(1, Ordering::Relaxed),
            _ => turn.load(Ordering::Relaxed),
        };
        self.from(turn.checked_rem(self.schedule.len())?, |endpoint| !tried.contains(&endpoint.address))
    }

    pub(super) fn at_random(&self, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        self.from(self.anywhere(), |endpoint| !tried.contains(&endpoint.address))
    }

    /// The less busy of two different ones, in proportion to their weights.
    pub(super) fn less_busy(&self, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        let untried = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
        let one = self.from(self.anywhere(), untried)?;
        let other = self.from(self.anywhere(), |other| untried(other) && other.address != one.address);
        let busier =
            |a: &Endpoint, b: &Endpoint| a.load(1) * u64::from(b.weight) > b.load(1) * u64::from(a.weight);
        Some(other.filter(|other| busier(one, other)).unwrap_or(one))
    }

    /// Weighted rendezvous: every server draws a number from the key, the highest wins. When a server goes, only its own
    /// keys move, in exact proportion to the weights; a ring of points does both only roughly, and has to be built. Costs
    /// some 5 ns for each server, 9 ns where weights differ.
    pub(super) fn by_hash(&self, key: u64, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        let all = self.draws.iter().zip(&self.candidates);
        let asked = all.filter(|(_, endpoint)| tried.is_empty() || !tried.contains(&endpoint.address));
        let number = |draw: &Draw| mix(key ^ draw.seed);
        let highest = match self.even {
            // The score rises with its number: where weights are the same it adds nothing.
            true => asked.max_by_key(|(draw, _)| number(draw)),
            false => asked
                .map(|(draw, endpoint)| (score(number(draw), draw.weight), (draw, endpoint)))
                .max_by(|(a, _), (b, _)| a.total_cmp(b))
                .map(|(_, highest)| highest),
        };
        highest.map(|(_, endpoint)| endpoint)
    }

    /// The first that will do, in the order of the schedule.
    fn from(&self, start: usize, will_do: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let (before, after) = self.schedule.split_at_checked(start)?;
        let places = after.iter().chain(before).map(|place| usize::try_from(*place).unwrap_or(usize::MAX));
        places.filter_map(|place| self.candidates.get(place)).find(|endpoint| will_do(endpoint))
    }

    fn anywhere(&self) -> usize {
        let drawn = u64::from(rand::random::<u32>()) * (self.schedule.len() as u64);
        usize::try_from(drawn >> 32).unwrap_or(0)
    }
}

/// Each place as often as its weight, spread evenly: the k-th turn of weight w is due at (k + ½) / w.
fn schedule(weights: &[u32]) -> Box<[u32]> {
    const PRECISION: u64 = 1 << 32;
    let common = weights.iter().fold(0, |common, weight| gcd(common, *weight)).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(weight / common)).sum();
    let turns = |weight: u32| match u64::from(weight / common) {
        share if total > LONGEST_SCHEDULE => (share * LONGEST_SCHEDULE / total).max(1),
        share => share,
    };
    let mut due = Vec::new();
    for (place, weight) in (0_u32..).zip(weights) {
        let turns = turns(*weight);
        due.extend((0..turns).map(|turn| ((2 * turn + 1) * PRECISION / turns, place)));
    }
    due.sort_unstable();
    due.into_iter().map(|(_, place)| place).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005): -w / ln(u) for u uniform in (0, 1).
fn score(number: u64, weight: f64) -> f64 {
    // 53 bits are what a double holds; one half keeps it off both ends.
    let uniform = ((number >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -weight / uniform.ln()
}

/// FNV-1a, then mixed. Not the standard library's hasher: every gateway, of whatever version, has to come to the same
/// server. Whoever wants all of his requests on one server need only send one key, so it has to keep no secret.
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::upstream::UpstreamSettings;

    fn table(weights: &[u32]) -> Table {
        let settings = UpstreamSettings::plain(&[]);
        let endpoint = |(last, weight): (u8, &u32)| {
            let address = SocketAddr::from(([10, 0, 0, last], 80));
            Arc::new(Endpoint::for_test(&settings, address, *weight))
        };
        Table::new((1..).zip(weights).map(endpoint).collect())
    }

    /// How often each server is chosen, by the last byte of its address.
    fn shares<'t>(choose: impl Fn(u32) -> Option<&'t Arc<Endpoint>>) -> HashMap<u8, u32> {
        let mut shares = HashMap::new();
        for number in 0..40_000 {
            *shares.entry(last(choose(number).unwrap())).or_default() += 1;
        }
        shares
    }

    fn last(endpoint: &Endpoint) -> u8 {
        endpoint.address.to_string().split([':', '.']).nth(3).unwrap().parse().unwrap()
    }

    fn key(number: u32) -> u64 {
        hash(format!("user-{number}").as_bytes())
    }

    #[test]
    fn turns_are_as_many_as_the_weight_says_and_as_far_apart_as_can_be() {
        assert_eq!(*schedule(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(*schedule(&[2, 2]), [0, 1]);
        assert_eq!(*schedule(&[1, 5, 1]), [1, 1, 0, 1, 2, 1, 1]);
        assert!(schedule(&[]).is_empty());
        let long = schedule(&[997; 100].iter().chain(&[1; 100]).copied().collect::<Vec<_>>());
        assert!(long.len() as u64 <= LONGEST_SCHEDULE + 200 && long.contains(&199), "{}", long.len());
    }

    #[test]
    fn every_way_of_choosing_follows_the_weights() {
        let table = table(&[1, 3, 4]);
        let turn = AtomicUsize::new(0);
        let ways = [
            ("in turn", shares(|_| table.in_turn(&turn, &[]))),
            ("random", shares(|_| table.at_random(&[]))),
            ("hash", shares(|number| table.by_hash(key(number), &[]))),
        ];
        for (name, shares) in ways {
            for (server, expected) in [(1, 5_000), (2, 15_000), (3, 20_000)] {
                let seen = shares[&server];
                assert!(seen.abs_diff(expected) < 500, "{name}: {server} got {seen} of {expected}");
            }
        }
    }

    #[test]
    fn when_a_server_goes_its_own_keys_move_and_no_others() {
        let (all, fewer) = (table(&[1, 2, 1, 1]), table(&[1, 2, 1]));
        let mut moved = [0; 5];
        for number in 0..10_000 {
            let before = last(all.by_hash(key(number), &[]).unwrap());
            let after = last(fewer.by_hash(key(number), &[]).unwrap());
            assert!(before == after || before == 4, "{before} to {after}");
            if before != after {
                moved[usize::from(after)] += 1;
            }
        }
        // Its fifth is shared out by weight.
        assert!(moved[2] > moved[1] * 3 / 2 && moved[2] > moved[3] * 3 / 2, "{moved:?}");
        let gone = [SocketAddr::from(([10, 0, 0, 4], 80))];
        let same = |number| {
            last(all.by_hash(key(number), &gone).unwrap()) == last(fewer.by_hash(key(number), &[]).unwrap())
        };
        assert!((0..1000).all(same), "a retry goes where the key would go without that server");
    }

    #[test]
    fn a_key_stays_where_it_is_when_those_that_remain_come_to_weigh_the_same() {
        let (uneven, even) = (table(&[1, 1, 3]), table(&[1, 1]));
        for number in 0..2000 {
            let before = last(uneven.by_hash(key(number), &[]).unwrap());
            let after = last(even.by_hash(key(number), &[]).unwrap());
            assert!(before == after || before == 3, "{before} to {after}");
        }
    }

    #[test]
    fn the_busy_one_of_two_is_never_chosen_and_weights_count() {
        let pair = table(&[1, 1]);
        let busy = Arc::clone(&pair.candidates()[0]);
        busy.begin();
        assert!((0..100).all(|_| last(pair.less_busy(&[]).unwrap()) == 2));
        busy.end();
        let uneven = table(&[1, 10]);
        uneven.candidates()[1].begin();
        uneven.candidates()[1].begin();
        assert!(
            (0..100).all(|_| last(uneven.less_busy(&[]).unwrap()) == 2),
            "three tenths are less than one"
        );
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        let table = table(&[1, 1, 5]);
        let tried = [table.candidates()[2].address, table.candidates()[0].address];
        let turn = AtomicUsize::new(0);
        for number in 0..50 {
            assert_eq!(table.in_turn(&turn, &tried).map(|it| last(it)), Some(2));
            assert_eq!(table.at_random(&tried).map(|it| last(it)), Some(2));
            assert_eq!(table.less_busy(&tried).map(|it| last(it)), Some(2));
            assert_eq!(table.by_hash(number, &tried).map(|it| last(it)), Some(2));
        }
        let all: Vec<_> = table.candidates().iter().map(|it| it.address).collect();
        assert!(table.less_busy(&all).is_none() && table.by_hash(1, &all).is_none());
        assert!(Table::default().in_turn(&turn, &[]).is_none() && Table::default().at_random(&[]).is_none());
    }

    #[test]
    fn gateways_of_every_version_agree_where_a_key_goes() {
        assert_eq!(hash(b"alice"), 14_254_268_223_963_220_572);
    }
}
