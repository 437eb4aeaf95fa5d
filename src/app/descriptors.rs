//! File descriptors: each connection takes one, and so does each connection to an upstream. Where they run out, nothing can
//! be accepted any more, calls of the control listener included, and no store be reached.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For stores, key sets, logs, upstreams, and the control listener with its 256 connections.
const RESERVE: u64 = 512;

/// Raises the soft limit to the hard one, as servers do, and returns how many there may be when a client is let in: the rest
/// is not for clients. `wanted`: `server.limits.connections`.
pub(super) fn for_clients(wanted: usize) -> usize {
    let all = raise();
    let for_clients = usize::try_from(all.saturating_sub(RESERVE.min(all / 4))).unwrap_or(usize::MAX);
    if for_clients < wanted {
        tracing::info!(
            connections = wanted,
            descriptors = all,
            "There may be fewer file descriptors (ulimit -n, LimitNOFILE) than connections"
        );
    }
    for_clients
}

/// How many there may be from now on.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (current, maximum) = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
    if current >= maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}
