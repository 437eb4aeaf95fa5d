//! What a route's own rules make of heads: the request's on its way to the service, and every answer's on its way back,
//! be it the service's or the gateway's.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};

use super::exchange::Exchange;
use crate::claims::Claims;
use crate::route::headers::{Edits, Value};
use crate::route::phrase::Facts;
use crate::route::{Cors, Rewrite, Route, cors};
use crate::target;
use crate::token::{self, Place};

const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PREFIX: &str = "x-forwarded-prefix";

/// Whose words an answer of the gateway is made of.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Words {
    /// The route's: its rules for headers hold as for a service's answer.
    Operators,
    /// A denial's: what it says of itself stands (a page that was refused is not to be cached like one that was not), and
    /// the rules only add to it.
    Gateways,
}

/// The target as judged: visible ASCII. That of the request that another proxy asks about, where one does.
pub(super) fn target<'a>(request: &'a RequestHeader, exchange: &'a Exchange) -> &'a str {
    let target = exchange.asked.as_ref().map_or(request.raw_path(), |asked| &asked.target);
    std::str::from_utf8(target).unwrap_or_default()
}

/// The target without the tokens in it: what is told of it to others is not how they get one.
pub(super) fn without_tokens<'a>(request: &'a RequestHeader, exchange: &'a Exchange) -> Cow<'a, str> {
    let target = target(request, exchange);
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    let names = exchange.snapshot.gate.places.iter().filter_map(|place| match place {
        Place::Query(name) => Some(name),
        Place::Header(_) | Place::Cookie(_) => None,
    });
    let mut left = query.to_owned();
    for name in names {
        left = token::without_parameter(&left, name).unwrap_or_default();
    }
    match left.len() {
        0 => Cow::Borrowed(path),
        same if same == query.len() => Cow::Borrowed(target),
        _ => Cow::Owned(format!("{path}?{left}")),
    }
}

/// What is known of a request for whoever makes text of it. `request` is the client's own.
pub(super) fn facts<'a>(
    request: &'a RequestHeader,
    exchange: &'a Exchange,
    claims: Option<&'a Claims>,
    target: &'a str,
) -> Facts<'a> {
    Facts {
        client: exchange.client,
        request_id: exchange.id.as_str(),
        scheme: exchange.arrival.scheme.word(),
        method: exchange.asked.as_ref().map_or(&request.method, |asked| &asked.method),
        host: request.headers.get(header::HOST).map(HeaderValue::as_bytes),
        target,
        claims,
    }
}

/// Makes values for one request, and says them. Of who was refused nothing is known.
fn for_each_value(
    request: &RequestHeader,
    exchange: &Exchange,
    values: &mut dyn Iterator<Item = &(HeaderName, Value)>,
    mut say: impl FnMut(&HeaderName, HeaderValue) -> Result<()>,
) -> Result<()> {
    let credential = exchange.grant().and_then(|grant| grant.credential.as_ref());
    let target = without_tokens(request, exchange);
    let facts = facts(request, exchange, credential.map(|credential| &credential.claims), &target);
    for (name, value) in values {
        if let Some(value) = value.of(&facts) {
            say(name, value)?;
        }
    }
    Ok(())
}

/// The service's request, made of the client's `request`. Comes last of all, so that nothing is put back behind it.
pub(super) fn request(
    sent: &mut RequestHeader,
    request: &RequestHeader,
    exchange: &Exchange,
    route: &Arc<Route>,
) -> Result<()> {
    let handling = &route.settings.handling;
    if let Some(rewrite) = &handling.rewrite {
        rewritten(sent, rewrite)?;
    }
    let Some(rules) = &handling.headers else { return Ok(()) };
    let edits = &rules.request;
    let unwanted: Vec<HeaderName> =
        sent.headers.keys().filter(|name| edits.replaces(name)).cloned().collect();
    for name in &unwanted {
        sent.remove_header(name);
    }
    for_each_value(request, exchange, &mut edits.set.iter().chain(&edits.add), |name, value| {
        sent.append_header(name.clone(), value).map(drop)
    })
}

fn rewritten(sent: &mut RequestHeader, rewrite: &Rewrite) -> Result<()> {
    let target = String::from_utf8_lossy(sent.raw_path()).into_owned();
    let end = target.find('?').unwrap_or(target.len());
    let (path, query) = target.split_at_checked(end).unwrap_or((&target, ""));
    let path = rewrite.apply(path);
    // The rules are such that this cannot be; and if it could, nothing would be sent.
    if !target::is_canonical(&path) {
        return Error::e_explain(ErrorType::InternalError, "a rewritten path is not canonical");
    }
    sent.set_raw_path([&path, query].concat().as_bytes())?;
    if let Some(prefix) = rewrite.stripped() {
        // Behind what a trusted proxy has taken off; anybody else's word is gone by now.
        sent.append_header(X_FORWARDED_PREFIX, prefix)?;
    }
    if let Some(host) = &rewrite.host {
        // What a trusted proxy says of it stands. Where the service gets the client's `Host`, it needs no second copy.
        if !sent.headers.contains_key(X_FORWARDED_HOST)
            && let Some(asked) = sent.headers.get(header::HOST).cloned()
        {
            sent.insert_header(X_FORWARDED_HOST, asked)?;
        }
        sent.insert_header(header::HOST, host)?;
    }
    Ok(())
}

/// The service's answer to the client's `request`.
pub(super) fn service(
    response: &mut ResponseHeader,
    request: &RequestHeader,
    exchange: &Exchange,
) -> Result<()> {
    let Some(handling) = exchange.route().map(|route| &route.settings.handling) else { return Ok(()) };
    if let Some(rewrite) = handling.rewrite.as_ref().filter(|rewrite| rewrite.restore) {
        restored(response, request, rewrite)?;
    }
    own(response, request, exchange, Words::Operators)
}

/// An answer of the gateway.
pub(super) fn own(
    response: &mut ResponseHeader,
    request: &RequestHeader,
    exchange: &Exchange,
    words: Words,
) -> Result<()> {
    let Some(handling) = exchange.route().map(|route| &route.settings.handling) else { return Ok(()) };
    if let Some(rules) = &handling.headers {
        edited(response, &rules.response, words, request, exchange)?;
    }
    match &handling.cors {
        Some(cors) => spoken(response, cors, &request.headers, exchange.preflight),
        None => Ok(()),
    }
}

fn edited(
    response: &mut ResponseHeader,
    edits: &Edits,
    words: Words,
    request: &RequestHeader,
    exchange: &Exchange,
) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    if words == Words::Operators {
        for name in edits.remove.iter().chain(edits.set.iter().map(|(name, _)| name)) {
            response.remove_header(name);
        }
    }
    let said: Vec<HeaderName> = match words {
        Words::Operators => Vec::new(),
        Words::Gateways => response.headers.keys().cloned().collect(),
    };
    let mut values = edits.set.iter().chain(&edits.add).filter(|(name, _)| !said.contains(name));
    for_each_value(request, exchange, &mut values, |name, value| {
        response.append_header(name.clone(), value).map(drop)
    })
}

/// What pages of other origins may read, in the place of whatever the service said about it.
fn spoken(response: &mut ResponseHeader, cors: &Cors, request: &HeaderMap, preflight: bool) -> Result<()> {
    for name in &cors::SAID_BY_SERVICES {
        response.remove_header(name);
    }
    for (name, value) in cors.said(request, preflight) {
        response.insert_header(name, value)?;
    }
    for name in cors.vary(preflight) {
        if !varies(&response.headers, name) {
            response.append_header(header::VARY, *name)?;
        }
    }
    Ok(())
}

fn varies(headers: &HeaderMap, name: &str) -> bool {
    let lines = headers.get_all(header::VARY).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|own| own == "*" || own.eq_ignore_ascii_case(name))
}

/// Places that the service names, by the names that the client knows.
fn restored(response: &mut ResponseHeader, request: &RequestHeader, rewrite: &Rewrite) -> Result<()> {
    let host = request.headers.get(header::HOST).map(HeaderValue::as_bytes);
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let said = response.headers.get(&name).and_then(|value| value.to_str().ok());
        if let Some(heard) = said.and_then(|said| rewrite.location(said, host)) {
            response.insert_header(name, heard)?;
        }
    }
    let cookies: Vec<HeaderValue> = response.headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    let heard = |cookie: &HeaderValue| HeaderValue::from_str(&rewrite.cookie(cookie.to_str().ok()?)?).ok();
    if cookies.iter().any(|cookie| heard(cookie).is_some()) {
        response.remove_header(&header::SET_COOKIE);
        for cookie in cookies {
            let heard = heard(&cookie).unwrap_or(cookie);
            response.append_header(header::SET_COOKIE, heard)?;
        }
    }
    Ok(())
}
