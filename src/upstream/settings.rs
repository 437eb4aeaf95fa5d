//! `[[upstreams]]`, resolved.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// One group of interchangeable servers.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// What routes call it.
    pub name: Arc<str>,
    /// Never empty.
    pub servers: Vec<ServerAddress>,
    /// Which server a request goes to.
    pub balance: Balance,
    /// How servers are spoken to.
    pub transport: Transport,
    /// HTTP/2: agreed on by ALPN over TLS, else from the first byte on (RFC 9113 section 3.3).
    pub http2: bool,
    /// How servers are found to be well.
    pub health: Health,
    /// When a server that fails is left alone for a while.
    pub eject: Eject,
    /// How long is waited for what.
    pub timeouts: Timeouts,
    /// How many other servers are asked when one fails and nothing is repeated by it.
    pub retries: usize,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerAddress {
    /// IP address or DNS name; names are resolved in the background.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// At least 1.
    pub weight: u32,
}

impl ServerAddress {
    /// The address, where it is not a name.
    pub fn literal(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// As in a URL: an IPv6 address stands in brackets.
    pub fn authority(&self) -> String {
        match self.literal() {
            Some(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Which server a request goes to. Weights count everywhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    RoundRobin,
    Random,
    /// The less busy one of two chosen at random, which spreads better than the least busy of all: that one would get
    /// every request until its numbers are seen to rise (Mitzenmacher, "The power of two choices", 2001).
    LeastRequest,
    /// The same key to the same server, for as long as it is there.
    Hash(HashBy),
}

/// What makes two requests go to one server. A request that has none of it goes by its client's address.
#[derive(Clone, Debug, PartialEq)]
pub enum HashBy {
    Subject,
    Ip,
    Header(HeaderName),
}

/// How servers are spoken to.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    Plain,
    Tls(Tls),
}

/// `tls`, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    pub name: TlsName,
    pub trust: Trust,
    pub client: Option<ClientCertificate>,
}

/// The name that is asked for and that the certificate must have.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsName {
    /// The host as written in `servers`.
    Server,
    Given(Box<str>),
}

/// Whose word about a server is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Trust {
    /// The system's certificate authorities.
    System,
    /// These, in DER.
    Only(Vec<Vec<u8>>),
    /// `verify = false`: anybody's. Warned of whenever the configuration is read.
    Nobody,
}

/// The certificate chain shown to servers, in DER, leaf first, and its key.
#[derive(Clone, PartialEq)]
pub struct ClientCertificate {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// How servers are found to be well.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// They are until a request says otherwise.
    Unasked,
    Checked(Check),
}

/// `health`
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub probe: Probe,
    /// From the end of one round to the beginning of the next.
    pub interval: Duration,
    /// For the whole of one probe.
    pub timeout: Duration,
    /// Failed probes in a row after which a server gets no requests.
    pub unhealthy_after: u32,
    /// Passed probes in a row after which it gets them again.
    pub healthy_after: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// `GET path` is answered with one of these statuses.
    Http {
        path: Box<str>,
        /// `Host`; the server's own address where it is not given.
        host: Option<HeaderValue>,
        expect: Vec<std::ops::RangeInclusive<u16>>,
    },
}

/// `eject`: a server that fails request after request is left alone for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Eject {
    /// Failures in a row; 0: never.
    pub failures: u32,
    /// The first time out; each further one is longer by as much.
    pub time: Duration,
    /// The longest.
    pub max_time: Duration,
    /// The share of an upstream's servers that may be out at a time; the last one never is.
    pub max_share: f64,
    /// Answers that count as failures.
    pub statuses: Vec<u16>,
}

/// How long an upstream may take. Pingora's own default for each is for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// To accept a connection, TLS included.
    pub connect: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    pub patience: Patience,
}

/// What a route may say otherwise than its upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Patience {
    /// Between two reads.
    pub read: Duration,
    /// For one write.
    pub write: Duration,
    /// Between two reads of a stream (WebSocket, server-sent events, gRPC); `None`: for ever.
    pub stream: Option<Duration>,
}

#[cfg(test)]
impl UpstreamSettings {
    /// Plain servers of weight one in turn, with a second for everything: a test changes what it is about.
    pub fn plain(servers: &[&str]) -> Self {
        let second = Duration::from_secs(1);
        let server = |host: &&str| ServerAddress { host: (*host).into(), port: 80, weight: 1 };
        Self {
            name: "app".into(),
            servers: servers.iter().map(server).collect(),
            balance: Balance::RoundRobin,
            transport: Transport::Plain,
            http2: false,
            health: Health::Unasked,
            eject: Eject {
                failures: 5,
                time: second,
                max_time: 10 * second,
                max_share: 0.5,
                statuses: vec![],
            },
            timeouts: Timeouts {
                connect: second,
                idle: second,
                patience: Patience { read: second, write: second, stream: None },
            },
            retries: 0,
        }
    }
}
