//! `[[upstreams]]`: the services behind.

use std::sync::Arc;
use std::time::Duration;

use super::kinds::{HOUR, MILLISECOND, duration, integer, name, parsed};
use super::node::Node;
use super::reader::{Placed, Reader, Table};
use crate::upstream::{ServerAddress, Timeouts, UpstreamSettings};

/// One `[[upstreams]]`. Its name is known even where the rest is wrong: routes are not blamed for that.
pub struct Upstream {
    pub name: Placed<Arc<str>>,
    pub settings: Option<UpstreamSettings>,
}

pub fn upstream(table: &mut Table<'_>) -> Option<Upstream> {
    let at = table.place("name");
    let called = table.need("name", name);
    let servers = table.tables("servers", Some(bare), |server| {
        let address = server.need("address", parsed(address));
        let weight = server.or("weight", integer(1..=1000), 1);
        let (host, port) = address?;
        Some(ServerAddress { host, port, weight: weight? })
    });
    if servers.is_empty() && !table.has("servers") {
        table.reader.problem(&table.at, "`servers` is missing in `upstreams`");
    } else if servers.is_empty() {
        table.reader.problem(&table.place("servers"), "`servers` must name at least one server");
    }
    let timeouts = table.table("timeouts", |timeouts| {
        let any = || duration(MILLISECOND..=24 * HOUR);
        let connect = timeouts.or("connect", any(), "1s");
        let read = timeouts.or("read", any(), "60s");
        let write = timeouts.or("write", any(), "60s");
        let idle: Option<Duration> = timeouts.or("idle", any(), "60s");
        Some(Timeouts { connect: connect?, read: read?, write: write?, idle: idle? })
    });
    let retries = table.or("retries", integer(0..=10), 1);
    let name: Arc<str> = called?.into();
    let resolve = |name| {
        let servers = servers.into_iter().map(|server| server.value).collect::<Option<_>>()?;
        Some(UpstreamSettings { name, servers, timeouts: timeouts?, retries: retries? })
    };
    let settings = resolve(Arc::clone(&name));
    Some(Upstream { name: Placed { at, value: name }, settings })
}

/// `"host:port"`, of weight one.
fn bare(reader: &Reader<'_>, node: &Node) -> Option<ServerAddress> {
    let (host, port) = parsed(address)(reader, node)?;
    Some(ServerAddress { host, port, weight: 1 })
}

/// `host:port`; an IPv6 address stands in brackets.
fn address(text: &str) -> Result<(Box<str>, u16), String> {
    let expected = "expected a host and a port, such as \"10.0.0.5:3000\", without a scheme";
    let (host, port) = text.rsplit_once(':').ok_or(expected)?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(expected)?;
    if let Some(inside) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address = inside.parse::<std::net::Ipv6Addr>().map_err(|_| expected)?;
        return Ok((address.to_string().into(), port));
    }
    if !is_host_name(host) {
        return Err(expected.into());
    }
    Ok((host.to_ascii_lowercase().into(), port))
}

/// Labels of letters, digits, `-` and `_` (RFC 1123, and what container networks add).
pub fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}
