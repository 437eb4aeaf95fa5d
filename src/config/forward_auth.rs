//! `[forward_auth]`: proxies that ask and forward by themselves; and what that means for routes.

use std::net::SocketAddr;

use super::kinds::{parsed, placed, socket, some, word};
use super::node::{Item, Node};
use super::reader::{Placed, Reader, Table};
use super::routes::Written;
use super::server::network;
use crate::proxy::settings::{ForwardAuth, Style};

const STYLES: [(&str, Style); 4] =
    [("nginx", Style::Nginx), ("traefik", Style::Traefik), ("caddy", Style::Caddy), ("envoy", Style::Envoy)];

/// `taken` are the addresses of the server.
pub fn forward_auth(table: &mut Table<'_>, taken: &[SocketAddr]) -> Option<ForwardAuth> {
    let listen = table.need("listen", addresses);
    let style = table.need("style", word(&STYLES));
    let allow = table.or("allow", some(placed(parsed(network))), ["127.0.0.0/8", "::1/128"]);
    let listen = listen?.into_iter().fold(taken.to_vec(), |mut seen, Placed { at, value }| {
        if value.port() != 0 && seen.contains(&value) {
            table.reader.problem(&at, "this address is listed twice, or the server listens on it already");
        }
        seen.push(value);
        seen
    });
    for Placed { at, .. } in allow.iter().flatten().filter(|network| network.value.prefix_len() == 0) {
        let message = "every address may ask now, and say whose request it asks about";
        table.reader.warn(at, message);
    }
    Some(ForwardAuth {
        listen: listen.into_iter().skip(taken.len()).collect(),
        style: style?,
        allow: allow?.into_iter().map(|network| network.value).collect(),
    })
}

/// One, or a list.
fn addresses(reader: &Reader<'_>, node: &Node) -> Option<Vec<Placed<SocketAddr>>> {
    match &node.item {
        Item::List(_) => some(placed(socket))(reader, node),
        _ => placed(socket)(reader, node).map(|one| vec![one]),
    }
}

/// What must hold of a route whose requests another proxy forwards.
pub fn route(table: &Table<'_>, written: &Written, is_asked: bool) {
    let tell = |key: &str, message: &str| table.reader.problem(&table.place(key), message);
    if table.has("upstream") {
        return;
    }
    if !is_asked {
        let message =
            "`upstream` is missing in `routes`; only what a proxy of `[forward_auth]` forwards has none";
        return table.reader.problem(&table.at, message);
    }
    if table.has("on_response") {
        tell("on_response", "answers are not seen of a service that another proxy forwards to");
    }
    if table.has("timeouts") {
        tell("timeouts", "without an upstream there is nothing to wait for");
    }
    if written.wants_certificate() {
        tell("client_certificate", "a proxy that asks cannot show its clients' certificates");
    }
    if written.wants_body() {
        tell(
            "token_from",
            "bodies are not seen of requests that another proxy forwards; use `header:` or `cookie:`",
        );
    }
}
