//! Answers that a route gives itself: `redirect`, `answer`, `maintenance`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::kinds::{DAY, SECOND, boolean, duration, filled, integer, list, parsed, path, placed, text};
use super::reader::{Placed, Table};
use super::server::network;
use crate::route::Maintenance;
use crate::route::phrase::header_value;
use crate::route::reply::{Fixed, Location, Redirect};

/// `redirect = { to, status }` of a route whose path is `pattern`. `hosts`: whether the route names its hosts.
pub fn redirect(table: &mut Table<'_>, pattern: Option<&str>, hosts: bool) -> Option<Redirect> {
    let to = table
        .need("to", filled(|text| pattern.map(|pattern| Location::parse(text, pattern, hosts)).transpose()));
    let status = table.or("status", integer::<u16>(300..=399), 308);
    if let Some(status) = status
        && !matches!(status, 301 | 302 | 303 | 307 | 308)
    {
        table.reader.problem(&table.place("status"), "a redirect is 301, 302, 303, 307 or 308");
        return None;
    }
    Some(Redirect { to: to??, status: StatusCode::from_u16(status?).ok()? })
}

/// `answer = { status, body, body_file, content_type, headers }`
pub fn answer(table: &mut Table<'_>) -> Option<Fixed> {
    let status = table.or("status", integer::<u16>(200..=599), 200);
    let body = body(table);
    let headers = match table.has("headers") {
        true => table.map("headers", placed(text)),
        false => {
            table.exists("headers");
            Some(Vec::new())
        }
    };
    let empty = matches!(status, Some(204 | 205 | 304));
    if empty && (table.has("body") || table.has("body_file")) {
        table.reader.problem(&table.place("status"), "an answer with this status has no body (RFC 9110)");
    }
    let (content_type, body) = body?;
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    if !empty && !body.is_empty() {
        fields.push((http::header::CONTENT_TYPE, header_value(&content_type)?));
    }
    for (name, Placed { at, value }) in headers? {
        let Some(field) = super::route_headers::name(table.reader, &name) else { continue };
        if field == http::header::CONTENT_TYPE {
            table.reader.problem(&name.at, "`content_type` says this");
        }
        match header_value(&value) {
            Some(value) => fields.push((field, value)),
            None => table.reader.problem(&at, "this cannot stand in a header"),
        }
    }
    Some(Fixed { status: StatusCode::from_u16(status?).ok()?, headers: fields, body })
}

/// `maintenance`: `true`, `false`, or a table. `None` where it is not written, or after a problem was told.
pub fn maintenance(table: &mut Table<'_>) -> Option<Option<Arc<Maintenance>>> {
    if !table.has("maintenance") {
        table.exists("maintenance");
        return None;
    }
    if !table.has_table("maintenance") {
        let on = table.maybe("maintenance", boolean)?;
        let plain =
            || Arc::new(Maintenance { except: Vec::new(), status: 503, retry_after: None, body: None });
        return Some(on.then(plain));
    }
    table.table("maintenance", |table| {
        let status = table.or("status", integer(400..=599), 503);
        let retry_after = table.maybe("retry_after", duration(SECOND..=30 * DAY));
        let except = table.or("except", list(parsed(network)), []);
        let written = table.has("body") || table.has("body_file");
        let body = body(table);
        if !written && table.has("content_type") {
            table.reader.problem(&table.place("content_type"), "this is about `body`, which is not given");
        }
        let body = body.filter(|_| written);
        Some(Some(Arc::new(Maintenance { except: except?, status: status?, retry_after, body })))
    })
}

/// `body` or `body_file`, and what it is. Empty where neither is written; `None` only after a problem was told.
fn body(table: &mut Table<'_>) -> Option<(Box<str>, Bytes)> {
    let written = table.maybe("body", text);
    let read = table.maybe("body_file", |reader, node| {
        // What it is follows from its name, where nobody says.
        let name = path(reader, node)?;
        super::kinds::file(reader, node).map(|content| (name, content))
    });
    let by_name = read.as_ref().and_then(|(name, _)| name.extension()?.to_str()).unwrap_or_default();
    let default = match by_name.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "json" => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    let content_type = table.or("content_type", parsed(content_type), default);
    if table.has("body") && table.has("body_file") {
        table
            .reader
            .problem(&table.place("body_file"), "`body` and `body_file` are both given; one is enough");
        return None;
    }
    if table.has("body") && written.is_none() || table.has("body_file") && read.is_none() {
        return None;
    }
    let body = read.map(|(_, content)| content).or(written.map(String::into_bytes)).unwrap_or_default();
    Some((content_type?, body.into()))
}

fn content_type(text: &str) -> Result<Box<str>, String> {
    let fits = text.contains('/') && HeaderValue::from_str(text).is_ok();
    fits.then(|| text.into())
        .ok_or_else(|| "expected a media type, such as \"text/html; charset=utf-8\"".to_owned())
}
