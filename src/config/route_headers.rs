//! `headers` of a route: what is removed, set and added on the way there and back.

use http::{HeaderName, header};

use super::kinds::{filled, list, placed, text};
use super::reader::{Placed, Reader, Table};
use crate::route::HeaderRules;
use crate::route::headers::{Edits, Value, is_alias};
use crate::route::phrase::{Phrase, header_value};

/// Fields that say where a message ends and how the connection goes on: theirs who write the message, never a rule's.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the gateway itself says of a request.
const OURS: [&str; 5] =
    ["x-forwarded-for", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto", "x-request-id"];

/// Which way a head goes.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToService,
    ToClient,
}

/// `headers` of a route whose path is `pattern`. `identity` are the names in `[identity] headers`.
pub fn headers(
    table: &mut Table<'_>,
    pattern: Option<&str>,
    identity: &[HeaderName],
    cors: bool,
) -> Option<HeaderRules> {
    let mut way = |key, way| table.table(key, |table| edits(table, pattern, identity, cors, way));
    let (request, response) = (way("request", Way::ToService), way("response", Way::ToClient));
    Some(HeaderRules { request: request?, response: response? })
}

fn edits(
    table: &mut Table<'_>,
    pattern: Option<&str>,
    identity: &[HeaderName],
    cors: bool,
    way: Way,
) -> Option<Edits> {
    let remove = table.or("remove", list(placed(text)), []);
    let mut values = |key| match table.has(key) {
        true => table.map(key, placed(filled(|text| pattern.map(|it| Phrase::parse(text, it)).transpose()))),
        false => {
            table.exists(key);
            Some(Vec::new())
        }
    };
    let (set, add) = (values("set"), values("add"));
    let reader = table.reader;
    let check = |at: &Placed<&str>, says: bool| {
        let name = name(reader, at)?;
        match refused(&name, identity, cors, way, says) {
            Some(message) => {
                reader.problem(&at.at, message);
                None
            }
            None => Some(name),
        }
    };
    let (mut removed, mut named) = (Vec::new(), Vec::new());
    for Placed { at, value } in remove? {
        let at = Placed { at, value: value.as_str() };
        if let Some(name) = check(&at, false) {
            removed.push(name);
        }
    }
    let mut said = |values: Vec<(Placed<&str>, Placed<Option<Phrase>>)>, once: bool| {
        let mut made = Vec::new();
        for (at, value) in values {
            let Some(name) = check(&at, true) else { continue };
            if once && named.contains(&name) {
                reader.problem(&at.at, "this header is named twice");
            }
            if once && removed.contains(&name) {
                reader.problem(&at.at, "this header is removed too: `set` alone replaces it");
            }
            if let Some(value) = sayable(reader, value) {
                made.push((name.clone(), value));
            }
            named.push(name);
        }
        made
    };
    let (set, add) = (said(set?, true), said(add?, false));
    Some(Edits { remove: removed, set, add })
}

/// A header's name, in any case.
pub fn name(reader: &Reader<'_>, Placed { at, value }: &Placed<&str>) -> Option<HeaderName> {
    match HeaderName::from_bytes(value.as_bytes()) {
        Ok(name) if FRAMING.contains(&name.as_str()) => {
            reader.problem(at, "this header is part of how messages are framed and cannot be touched");
            None
        }
        Ok(name) => Some(name),
        Err(_) => {
            reader.problem(at, "not the name of a header");
            None
        }
    }
}

/// Why a rule may not touch a header. `says`: it gives a value, rather than taking one away.
fn refused(
    name: &HeaderName,
    identity: &[HeaderName],
    cors: bool,
    way: Way,
    says: bool,
) -> Option<&'static str> {
    let is = |other: &str| HeaderName::from_bytes(other.as_bytes()).is_ok_and(|other| is_alias(name, &other));
    match way {
        Way::ToService if *name == header::HOST => {
            Some("what services get for Host is said by `rewrite.host`")
        }
        Way::ToService if *name == header::EXPECT => {
            Some("this header is part of how messages are framed and cannot be touched")
        }
        Way::ToService if says && identity.iter().any(|own| is_alias(own, name)) => {
            Some("this header tells services who is calling: `identity.headers` says what stands in it")
        }
        Way::ToService if says && OURS.iter().any(|own| is(own)) => {
            Some("the gateway itself says this of every request")
        }
        Way::ToClient if *name == header::CONTENT_ENCODING => {
            Some("this header says how the body is written and cannot be touched")
        }
        Way::ToClient if cors && name.as_str().starts_with("access-control-") => {
            Some("on this route `cors` says what pages of other origins may do")
        }
        Way::ToService | Way::ToClient => None,
    }
}

fn sayable(reader: &Reader<'_>, Placed { at, value }: Placed<Option<Phrase>>) -> Option<Value> {
    // Without a path that parses, placeholders mean nothing; that has been told.
    let phrase = value?;
    let value = match phrase.constant() {
        Some("") => {
            reader.problem(&at, "an empty value: say `remove` to take a header away");
            return None;
        }
        Some(text) => header_value(text).map(Value::Fixed),
        None => phrase.is_sayable().then_some(Value::Made(phrase)),
    };
    if value.is_none() {
        reader.problem(&at, "this cannot stand in a header");
    }
    value
}
