//! The limit of open files: raised as far as it goes, and told of where that is not far enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proxy::settings::ServerSettings;

/// For stores, key sets, probes, control calls and the log.
const OTHERS: u64 = 256;

/// Descriptors that are not for clients.
const RESERVE: u64 = 512;

/// Raises the soft limit to the hard one and returns it; `None`: there is none. 1024, the usual soft one, is there for
/// programs that use `select`.
pub(super) fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        return current;
    }
    maximum
}

/// How many there may be when one more client is let in: the rest is for stores, key sets, logs, upstreams, and the control
/// listener with its 256 connections. Where descriptors run out, nothing can be accepted any more and no store be reached.
pub(super) fn for_clients() -> usize {
    let all = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(all.saturating_sub(RESERVE.min(all / 4))).unwrap_or(usize::MAX)
}

/// What the configuration allows to be open at one time: each connection may have one to an upstream.
pub(super) fn needed(server: &ServerSettings) -> u64 {
    let (connections, idle) = (server.limits.connections as u64, server.limits.idle_upstreams as u64);
    connections.saturating_mul(2).saturating_add(idle).saturating_add(OTHERS)
}

/// Says so where the system will refuse connections that the configuration allows.
pub(super) fn compare(limit: Option<u64>, server: &ServerSettings) {
    let needed = needed(server);
    if let Some(limit) = limit.filter(|&limit| limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "The limit of open files is lower than `server.limits.connections` needs; raise it (systemd: LimitNOFILE, \
             docker: --ulimit nofile) or allow fewer connections"
        );
    }
}
