//! Looking names up, in the background and again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Upstream;
use super::settings::ServerAddress;

/// How often names are looked up again. The system's resolver does not tell how long an answer may be kept.
const EVERY: Duration = Duration::from_secs(15);

/// Looks names up for ever.
pub(super) async fn forever(upstream: Arc<Upstream>) {
    let mut told = Vec::new();
    loop {
        tokio::time::sleep(EVERY).await;
        once(&upstream, &mut told).await;
    }
}

/// Looks every name up. One that does not resolve keeps the addresses it had: the resolver's failure is not the
/// server's. `told` are the names whose failure the log has been told.
pub(super) async fn once(upstream: &Upstream, told: &mut Vec<Box<str>>) {
    let settings = upstream.settings();
    let found = join_all(settings.servers.iter().map(look_up)).await;
    let mut all = Vec::with_capacity(found.len());
    for (place, (server, found)) in settings.servers.iter().zip(found).enumerate() {
        match found {
            Ok(addresses) => {
                told.retain(|name| *name != server.host);
                all.push(addresses);
            }
            Err(error) => {
                if !told.contains(&server.host) {
                    tracing::warn!(upstream = %settings.name, host = %server.host, %error, "Name not resolved");
                    told.push(server.host.clone());
                }
                all.push(upstream.addresses(place));
            }
        }
    }
    upstream.resolved(&all);
}

async fn look_up(server: &ServerAddress) -> std::io::Result<Vec<SocketAddr>> {
    if let Some(address) = server.literal() {
        return Ok(vec![SocketAddr::new(address, server.port)]);
    }
    let mut found: Vec<_> = tokio::net::lookup_host((&*server.host, server.port)).await?.collect();
    // Resolvers turn their answers round; nothing has changed by that.
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { Err(std::io::Error::other("the name has no address")) } else { Ok(found) }
}
