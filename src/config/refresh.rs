//! What concerns refresh tokens: how they differ from access tokens, and where a refresh route finds them.

use super::kinds::{list, name, parsed, placed, some};
use super::node::{Item, Node};
use super::reader::{Placed, Reader, Table};
use super::server::{media_type, place};
use crate::route::Refresh;
use crate::token::{BodyPlace, Place};
use crate::verify::RefreshTokens;

/// `[issuers.refresh]`; `required` are the claims that the issuer's access tokens must have.
///
/// Refresh tokens are meant for their issuer, and many systems leave `aud` out of them: unless told otherwise it is not
/// looked at. `at+jwt` says of itself that it is an access token (RFC 9068), and is not accepted as a refresh token.
pub fn tokens(table: &mut Table<'_>, required: &[Box<str>]) -> Option<RefreshTokens> {
    let audience = table.or("audience", list(name), []);
    let types = table.or("types", list(parsed(media_type)), ["JWT", "rt+jwt", "refresh+jwt"]);
    let written = table.maybe("required", list(name));
    let required = match (table.has("required"), written) {
        (true, written) => written?,
        (false, _) => {
            let of_refresh: Vec<Box<str>> =
                required.iter().filter(|claim| &***claim != "aud").cloned().collect();
            table.in_effect("required", of_refresh.iter().map(ToString::to_string).collect::<Vec<_>>());
            of_refresh
        }
    };
    let audience = audience?;
    if audience.is_empty() && required.iter().any(|claim| &**claim == "aud") {
        let message = "`audience` must name whom refresh tokens are for (or take `aud` out of `required`)";
        table.reader.problem(&table.place("required"), message);
    }
    Some(RefreshTokens { audience, types: types?, required })
}

/// One of the places of `token_from`.
#[derive(Clone, PartialEq)]
enum From {
    Head(Place),
    Body(BodyPlace),
}

/// `token_from`: one place or several.
pub fn token_from(reader: &Reader<'_>, node: &Node) -> Option<Vec<Placed<FromPlace>>> {
    let one = placed(parsed(|text| from(text).map(FromPlace)));
    match &node.item {
        Item::List(_) => some(one)(reader, node),
        _ => one(reader, node).map(|one| vec![one]),
    }
}

/// A place, opaque to whoever only passes it on.
#[derive(Clone, PartialEq)]
pub struct FromPlace(From);

impl FromPlace {
    /// Whether it is a place in the body.
    pub fn is_in_body(&self) -> bool {
        matches!(self.0, From::Body(_))
    }
}

fn from(text: &str) -> Result<From, String> {
    match text.split_once(':') {
        Some(("body", name)) => BodyPlace::parse(name).map(From::Body),
        Some(("query", _)) => {
            Err("a refresh token in a URL would stand in every log on its way; expected `body:`, `cookie:` or `header:`".into())
        }
        Some(("header" | "cookie", _)) => place(text).map(From::Head),
        _ => Err("expected `body:MEMBER`, `body:/json/pointer`, `cookie:NAME` or `header:NAME`".into()),
    }
}

/// Sorts the places by where they are looked for. A place that is listed twice is told.
pub fn places(
    reader: &Reader<'_>,
    from: Vec<Placed<FromPlace>>,
    policy: crate::route::Policy,
    body_bytes: usize,
) -> Refresh {
    let mut refresh = Refresh { places: Vec::new(), bodies: Vec::new(), body_bytes, policy };
    for Placed { at, value: FromPlace(place) } in from {
        let listed = match place {
            From::Head(place) => add(&mut refresh.places, place),
            From::Body(place) => add(&mut refresh.bodies, place),
        };
        if !listed {
            reader.problem(&at, "this place is listed twice");
        }
    }
    refresh
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    let is_new = !list.contains(&item);
    if is_new {
        list.push(item);
    }
    is_new
}
