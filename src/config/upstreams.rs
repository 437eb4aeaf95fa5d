//! `[[upstreams]]`: the services behind.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::kinds::{HOUR, MILLISECOND, boolean, duration, integer, list, name, parsed, placed, share, some};
use super::node::Node;
use super::reader::{Placed, Reader, Table, did_you_mean};
use crate::upstream::settings::{
    Balance, Check, Eject, HashBy, Health, Patience, Probe, ServerAddress, Timeouts, Tls, TlsName, Transport,
    UpstreamSettings,
};

/// One `[[upstreams]]`. Its name is known even where the rest is wrong: routes are not blamed for that.
pub struct Upstream {
    pub name: Placed<Arc<str>>,
    pub settings: Option<UpstreamSettings>,
}

pub fn upstream(table: &mut Table<'_>) -> Option<Upstream> {
    let at = table.place("name");
    let called = table.need("name", name);
    let servers = servers(table);
    let balance = table.or("balance", parsed(balance), "round_robin");
    let transport = match table.has("tls") {
        true => table.table("tls", super::upstream_tls::tls).map(Transport::Tls),
        false => Some(Transport::Plain),
    };
    table.exists("tls");
    if let Some(Transport::Tls(Tls { name: TlsName::Server, .. })) = &transport
        && servers.iter().flatten().any(|server| !super::upstream_tls::is_server_name(&server.host))
    {
        let message = "a server's name cannot stand in a certificate: say which name does (`sni`)";
        table.reader.problem(&table.place("tls"), message);
    }
    let http2 = table.or("http2", boolean, false);
    let health = match table.has("health") {
        true => table.table("health", health).map(Health::Checked),
        false => Some(Health::Unasked),
    };
    table.exists("health");
    let eject = table.table("eject", eject);
    let timeouts = table.table("timeouts", timeouts);
    let retries = table.or("retries", integer(0..=10), 1);
    let name: Arc<str> = called?.into();
    let resolve = |name| {
        Some(UpstreamSettings {
            name,
            servers: servers?,
            balance: balance?,
            transport: transport?,
            http2: http2?,
            health: health?,
            eject: eject?,
            timeouts: timeouts?,
            retries: retries?,
        })
    };
    let settings = resolve(Arc::clone(&name));
    Some(Upstream { name: Placed { at, value: name }, settings })
}

fn servers(table: &mut Table<'_>) -> Option<Vec<ServerAddress>> {
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
    let mut seen: Vec<(Box<str>, u16)> = Vec::with_capacity(servers.len());
    for server in &servers {
        let Some(ServerAddress { host, port, .. }) = &server.value else { continue };
        if seen.contains(&(host.clone(), *port)) {
            table.reader.problem(&server.at, "this server is listed twice; give it a weight instead");
        }
        seen.push((host.clone(), *port));
    }
    servers.into_iter().map(|server| server.value).collect()
}

fn timeouts(table: &mut Table<'_>) -> Option<Timeouts> {
    let connect = table.or("connect", any_length(), "1s");
    let idle = table.or("idle", any_length(), "60s");
    let patience = patience(table, None);
    Some(Timeouts { connect: connect?, idle: idle?, patience: patience? })
}

/// The keys that a route may write too; there the upstream's are the defaults.
pub fn patience(table: &mut Table<'_>, inherited: Option<&Patience>) -> Option<Patience> {
    let text = |length: Duration| humantime::format_duration(length).to_string();
    let read = inherited.map_or("60s".into(), |upstream| text(upstream.read));
    let write = inherited.map_or("60s".into(), |upstream| text(upstream.write));
    let stream = inherited.and_then(|upstream| upstream.stream).map_or("never".into(), text);
    let read = table.or("read", any_length(), read.as_str());
    let write = table.or("write", any_length(), write.as_str());
    let stream = table.or("stream", length_or_never, stream.as_str());
    Some(Patience { read: read?, write: write?, stream: stream? })
}

fn any_length() -> impl Fn(&Reader<'_>, &Node) -> Option<Duration> {
    duration(MILLISECOND..=24 * HOUR)
}

/// A duration, or `"never"`.
fn length_or_never(reader: &Reader<'_>, node: &Node) -> Option<Option<Duration>> {
    match &node.item {
        super::node::Item::Text(text) if text.value == "never" => Some(None),
        _ => any_length()(reader, node).map(Some),
    }
}

fn health(table: &mut Table<'_>) -> Option<Check> {
    let path = table.maybe("path", parsed(origin_form));
    let tcp = table.or("tcp", boolean, false);
    let host = table.maybe("host", parsed(header_value));
    let expect = table.or("expect", some(parsed(statuses)), ["2xx", "3xx"]);
    let interval = table.or("interval", duration(100 * MILLISECOND..=HOUR), "5s");
    let timeout = table.or("timeout", duration(10 * MILLISECOND..=HOUR), "2s");
    let unhealthy_after = table.or("unhealthy_after", integer(1..=100), 3);
    let healthy_after = table.or("healthy_after", integer(1..=100), 2);
    let probe = match (table.has("path"), tcp?) {
        (true, true) => {
            let message = "a probe asks for a `path` or only connects (`tcp = true`), not both";
            table.reader.problem(&table.place("tcp"), message);
            return None;
        }
        (false, false) => {
            table.reader.problem(&table.at, "`health` needs a `path` to ask for, or `tcp = true`");
            return None;
        }
        (false, true) => {
            for key in ["host", "expect"].into_iter().filter(|key| table.has(key)) {
                let message = format!("`{key}` does nothing where a probe only connects");
                table.reader.problem(&table.place(key), message);
            }
            table.not_in_effect("expect");
            Probe::Tcp
        }
        (true, false) => Probe::Http { path: path?, host, expect: expect? },
    };
    Some(Check {
        probe,
        interval: interval?,
        timeout: timeout?,
        unhealthy_after: unhealthy_after?,
        healthy_after: healthy_after?,
    })
}

fn eject(table: &mut Table<'_>) -> Option<Eject> {
    let failures = table.or("failures", integer(0..=1_000_000), 5);
    let time = table.or("time", duration(100 * MILLISECOND..=HOUR), "10s");
    let max_time = table.or("max_time", placed(duration(100 * MILLISECOND..=24 * HOUR)), "5m");
    let max_share = table.or("max_share", share, 0.5);
    let statuses = table.or("statuses", list(integer::<u16>(500..=599)), []);
    if let (Some(time), Some(max_time)) = (time, &max_time)
        && max_time.value < time
    {
        table.reader.problem(&table.place("max_time"), "`max_time` is shorter than `time`");
    }
    Some(Eject {
        failures: failures?,
        time: time?,
        max_time: max_time?.value,
        max_share: max_share?,
        statuses: statuses?,
    })
}

/// `"round_robin"`, `"random"`, `"least_request"`, `"hash:{sub}"`, `"hash:{ip}"`, `"hash:header:NAME"`.
fn balance(text: &str) -> Result<Balance, String> {
    if let Some(header) = text.strip_prefix("hash:header:") {
        let header = HeaderName::from_bytes(header.as_bytes());
        return header
            .map(|name| Balance::Hash(HashBy::Header(name)))
            .map_err(|_| "behind `hash:header:` stands the name of a header".into());
    }
    let words = [
        ("round_robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("least_request", Balance::LeastRequest),
        ("hash:{sub}", Balance::Hash(HashBy::Subject)),
        ("hash:{ip}", Balance::Hash(HashBy::Ip)),
    ];
    let hint = did_you_mean(text, words.iter().map(|(word, _)| *word));
    let found = words.into_iter().find_map(|(word, value)| (word == text).then_some(value));
    found.ok_or_else(|| {
        format!(
            "expected `round_robin`, `random`, `least_request`, `hash:{{sub}}`, `hash:{{ip}}` or \
             `hash:header:NAME`{hint}"
        )
    })
}

/// A path and query as they stand in a request line.
fn origin_form(text: &str) -> Result<Box<str>, String> {
    let plain = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match plain && text.parse::<http::uri::PathAndQuery>().is_ok() {
        true => Ok(text.into()),
        false => Err("expected a path, such as \"/healthz\"".into()),
    }
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "this cannot stand in a header".into())
}

/// `"2xx"` or `"204"`.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let expected = || "expected a status, such as \"204\", or a class of them, such as \"2xx\"".to_owned();
    let status =
        |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status)).ok_or_else(expected);
    match text.strip_suffix("xx") {
        Some(class) => status(&format!("{class}00")).map(|first| first..=first + 99),
        None => status(text).map(|status| status..=status),
    }
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
