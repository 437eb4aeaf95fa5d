//! `rate_limit`: how often requests may come.

use std::time::Duration;

use super::kinds::{DAY, SECOND, boolean, duration, integer, parsed, word};
use super::reader::{Placed, Table};
use crate::rate::{By, RateLimit};

const BY: [(&str, By); 3] = [("subject", By::Subject), ("ip", By::Ip), ("route", By::Route)];
const MOST: i64 = 1_000_000_000;
/// Redis counts in microseconds.
const SHORTEST_INTERVAL: Duration = Duration::from_micros(1);
/// Whoever has used up everything waits so long at most until all of it is there again.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// `rate_limit`, one table or several; `redis`: whether there is one. `None` only after a problem was told.
pub fn limits(table: &mut Table<'_>, redis: bool) -> Option<Vec<Placed<RateLimit>>> {
    let read = table.table_or_tables("rate_limit", |table| limit(table, redis));
    let mut limits: Vec<Placed<RateLimit>> = Vec::with_capacity(read.len());
    for Placed { at, value } in read {
        let (named, mut value) = value?;
        let taken = |name: &str| limits.iter().any(|other| *other.value.name == *name);
        if named && taken(&value.name) {
            table.reader.problem(&at, "two limits have this name");
        } else if !named {
            let numbered = (2..).map(|number| format!("default-{number}"));
            let free = std::iter::once("default".to_owned()).chain(numbered).find(|name| !taken(name));
            value.name = free.unwrap_or_default().into();
        }
        limits.push(Placed { at, value });
    }
    Some(limits)
}

/// Whether it has a name of its own, and the limit.
fn limit(table: &mut Table<'_>, redis: bool) -> Option<(bool, RateLimit)> {
    let name = table.maybe("name", parsed(name));
    let named = table.has("name");
    let by = table.need("by", word(&BY));
    let requests = table.need("requests", integer::<u64>(1..=MOST));
    let per = table.or("per", duration(SECOND..=30 * DAY), "1m");
    let burst = table.maybe("burst", integer::<u64>(1..=MOST));
    let has_burst = table.has("burst");
    let shared = table.or("shared", boolean, false);
    if shared == Some(true) && !redis {
        let message = "gateways count together in Redis: there is no `[redis]`";
        table.reader.problem(&table.place("shared"), message);
    }
    let (requests, per) = (requests?, per?);
    if let (false, Ok(shown)) = (has_burst, i64::try_from(requests)) {
        table.in_effect("burst", shown);
    }
    let burst = if has_burst { burst? } else { requests };
    let interval = per.checked_div(u32::try_from(requests).unwrap_or(u32::MAX)).unwrap_or_default();
    if interval < SHORTEST_INTERVAL {
        table.reader.problem(&table.place("requests"), "more than a million requests a second");
    } else if interval.as_secs_f64() * burst as f64 > LONGEST.as_secs_f64() {
        table
            .reader
            .problem(&table.place("burst"), "it would take more than a year until that is allowed again");
    }
    let name = if named { name? } else { "default".into() };
    Some((named, RateLimit { name: name.into(), by: by?, requests, per, burst, shared: shared? }))
}

fn name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a name is of letters, digits, `.`, `_` and `-`, at most 64".into()),
    }
}
