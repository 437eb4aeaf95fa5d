//! Asking servers how they are, over the same kind of connection that requests take, and always a new one.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;

use super::Upstream;
use super::endpoint::Endpoint;
use super::settings::{Check, Probe};

/// Probes of one upstream that run at a time.
const AT_ONCE: usize = 32;

/// Why a server is not well, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwell {
    #[error("no answer in time")]
    Late,
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no answer")]
    Http(#[source] Box<pingora::Error>),
    #[error("answered {0}")]
    Status(u16),
}

/// Connections that are probed with. None is kept.
static CONNECTOR: LazyLock<Connector> = LazyLock::new(|| Connector::new(None));

/// Probes for ever.
pub(super) async fn forever(upstream: Arc<Upstream>, check: Check) {
    loop {
        let endpoints = stream::iter(upstream.endpoints());
        endpoints
            .for_each_concurrent(AT_ONCE, |endpoint| {
                let (upstream, check) = (&upstream, &check);
                async move { upstream.probed(&endpoint, probe(upstream, &endpoint, check).await, check) }
            })
            .await;
        // A fleet that was started at once does not probe at once for ever.
        let apart = check.interval.mul_f64(0.9 + 0.2 * rand::random::<f64>());
        tokio::time::sleep(apart).await;
    }
}

async fn probe(upstream: &Upstream, endpoint: &Endpoint, check: &Check) -> Result<(), Unwell> {
    let answer = async {
        match &check.probe {
            Probe::Tcp => {
                tokio::net::TcpStream::connect(endpoint.address).await.map(drop).map_err(Unwell::Connect)
            }
            Probe::Http { path, host, expect } => {
                let written = upstream.settings().servers.get(endpoint.server);
                let host = match host {
                    Some(host) => host.as_bytes().to_vec(),
                    None => written.map(|server| server.authority()).unwrap_or_default().into_bytes(),
                };
                let status = get(&endpoint.peer, path, &host, check.timeout).await;
                let status = status.map_err(Unwell::Http)?;
                match expect.iter().any(|range| range.contains(&status)) {
                    true => Ok(()),
                    false => Err(Unwell::Status(status)),
                }
            }
        }
    };
    tokio::time::timeout(check.timeout, answer).await.unwrap_or(Err(Unwell::Late))
}

/// The status of the answer. Its body is of no interest, and ends with the connection.
async fn get(peer: &HttpPeer, path: &str, host: &[u8], patience: Duration) -> pingora::Result<u16> {
    let mut peer = peer.clone();
    // With room for no second request an HTTP/2 connection is not put where others would find it.
    peer.options.max_h2_streams = 1;
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(4))?;
    request.insert_header("host", host)?;
    request.insert_header("user-agent", concat!("portcullis/", env!("CARGO_PKG_VERSION"), " health"))?;
    request.insert_header("connection", "close")?;
    let (mut session, _) = CONNECTOR.get_http_session(&peer).await?;
    if session.as_http2().is_some() {
        // RFC 9113 section 8.2.2.
        request.remove_header("connection");
    }
    session.set_read_timeout(Some(patience));
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    Ok(session.response_header().map_or(0, |header| header.status.as_u16()))
}
