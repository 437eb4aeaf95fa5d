//! Readers of single values. Each tells its problem and returns `None`; none quotes the value.

use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::node::{Item, Node};
use super::problem::Span;
use super::reader::{Placed, Reader, did_you_mean};
use crate::template::{Field, Template};

/// No file named in the configuration is larger.
const LARGEST_FILE: u64 = 1 << 20;

/// Tells what was expected.
fn expected<T>(reader: &Reader<'_>, node: &Node, what: &str) -> Option<T> {
    if !matches!(node.item, Item::Broken) {
        reader.problem(&node.at, format!("expected {what}, found {}", node.item.kind()));
    }
    None
}

pub fn text(reader: &Reader<'_>, node: &Node) -> Option<String> {
    match &node.item {
        Item::Text(text) => Some(text.value.clone()),
        _ => expected(reader, node, "a string"),
    }
}

/// A string that is not empty and holds nothing invisible.
pub fn name(reader: &Reader<'_>, node: &Node) -> Option<Box<str>> {
    parsed(|text| match text {
        "" => Err("this must not be empty".into()),
        text if text.chars().any(char::is_control) => Err("control characters have no place here".into()),
        text => Ok(text.into()),
    })(reader, node)
}

/// A string read by `parse`, whose error is the message.
pub fn parsed<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&Reader<'_>, &Node) -> Option<T> {
    move |reader, node| {
        let text = text(reader, node)?;
        parse(&text).map_err(|message| reader.problem(&node.at, message)).ok()
    }
}

/// One of a few words.
pub fn word<T: Clone>(words: &[(&'static str, T)]) -> impl Fn(&Reader<'_>, &Node) -> Option<T> {
    move |reader, node| {
        let text = text(reader, node)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        if found.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let hint = did_you_mean(&text, words.iter().map(|(word, _)| *word));
            reader.problem(&node.at, format!("expected one of {}{hint}", all.join(", ")));
        }
        found
    }
}

/// A value that a variable may have supplied as a string.
fn number<T: std::str::FromStr>(node: &Node) -> Option<T> {
    match &node.item {
        Item::Text(text) if text.written.contains("${") => text.value.trim().parse().ok(),
        _ => None,
    }
}

pub fn boolean(reader: &Reader<'_>, node: &Node) -> Option<bool> {
    match node.item {
        Item::Boolean(truth) => Some(truth),
        _ => number(node).or_else(|| expected(reader, node, "`true` or `false`")),
    }
}

pub fn integer<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&Reader<'_>, &Node) -> Option<T> {
    move |reader, node| {
        let number = match node.item {
            Item::Integer(number) => number,
            _ => number(node).or_else(|| expected(reader, node, "an integer"))?,
        };
        let fits = range.contains(&number).then(|| T::try_from(number).ok()).flatten();
        if fits.is_none() {
            reader.problem(&node.at, format!("must lie between {} and {}", range.start(), range.end()));
        }
        fits
    }
}

/// A number between 0 and 1.
pub fn share(reader: &Reader<'_>, node: &Node) -> Option<f64> {
    let share = match node.item {
        Item::Float(share) => share,
        Item::Integer(0) => 0.0,
        Item::Integer(1) => 1.0,
        _ => number(node).or_else(|| expected(reader, node, "a number between 0.0 and 1.0"))?,
    };
    if !(0.0..=1.0).contains(&share) {
        reader.problem(&node.at, "must lie between 0.0 and 1.0");
        return None;
    }
    Some(share)
}

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// `"5s"`, `"1h 30m"`.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Reader<'_>, &Node) -> Option<Duration> {
    let bounds = format!(
        "must lie between {} and {}",
        humantime::format_duration(*range.start()),
        humantime::format_duration(*range.end())
    );
    move |reader, node| {
        let Item::Text(text) = &node.item else {
            return expected(reader, node, "a duration with its unit, such as \"5s\"");
        };
        let Ok(duration) = humantime::parse_duration(text.value.trim()) else {
            reader.problem(
                &node.at,
                "not a duration: write a number and a unit, such as \"50ms\", \"5s\" or \"15m\"",
            );
            return None;
        };
        if !range.contains(&duration) {
            reader.problem(&node.at, bounds.as_str());
            return None;
        }
        Some(duration)
    }
}

/// `"10MiB"`, or a number of bytes.
pub fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Reader<'_>, &Node) -> Option<T> {
    use bytesize::ByteSize;
    move |reader, node| {
        let bytes = match &node.item {
            Item::Integer(bytes) => u64::try_from(*bytes).ok(),
            Item::Text(text) => text.value.trim().parse::<ByteSize>().ok().map(|size| size.as_u64()),
            _ => return expected(reader, node, "a size, such as \"10MiB\""),
        };
        let Some(bytes) = bytes else {
            reader.problem(
                &node.at,
                "not a size: write a number of bytes, or one with a unit, such as \"10MiB\"",
            );
            return None;
        };
        let fits = range.contains(&bytes).then(|| T::try_from(bytes).ok()).flatten();
        if fits.is_none() {
            let (least, most) = (ByteSize::b(*range.start()), ByteSize::b(*range.end()));
            reader.problem(&node.at, format!("must lie between {least} and {most}"));
        }
        fits
    }
}

/// A list; every bad element is told.
pub fn list<T>(
    kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
) -> impl Fn(&Reader<'_>, &Node) -> Option<Vec<T>> {
    move |reader, node| {
        let Item::List(nodes) = &node.item else { return expected(reader, node, "a list") };
        let values: Vec<_> = nodes.iter().map(|node| kind(reader, node)).collect();
        values.into_iter().collect()
    }
}

/// A list that holds something.
pub fn some<T>(
    kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
) -> impl Fn(&Reader<'_>, &Node) -> Option<Vec<T>> {
    let list = list(kind);
    move |reader, node| {
        let values = list(reader, node)?;
        if values.is_empty() {
            reader.problem(&node.at, "this list must not be empty");
            return None;
        }
        Some(values)
    }
}

/// The value with its place.
pub fn placed<T>(
    kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
) -> impl Fn(&Reader<'_>, &Node) -> Option<Placed<T>> {
    move |reader, node| kind(reader, node).map(|value| Placed { at: node.at.clone(), value })
}

/// Any value at all, as JSON.
pub fn json(reader: &Reader<'_>, node: &Node) -> Option<serde_json::Value> {
    match &node.item {
        Item::Broken => None,
        Item::Date => expected(reader, node, "a string, number, boolean, list or table"),
        _ => Some(node.json()),
    }
}

pub fn socket(reader: &Reader<'_>, node: &Node) -> Option<SocketAddr> {
    parsed(|text| {
        text.parse().map_err(|_| "expected an address and a port, such as \"127.0.0.1:8080\"".into())
    })(reader, node)
}

/// A path; a relative one starts at the directory of the configuration.
pub fn path(reader: &Reader<'_>, node: &Node) -> Option<PathBuf> {
    Some(reader.base.join(&*name(reader, node)?))
}

/// The content of a file.
pub fn file(reader: &Reader<'_>, node: &Node) -> Option<Vec<u8>> {
    read(reader, &node.at, &path(reader, node)?).map(|(content, _)| content)
}

/// The content of a file without its trailing newline; the world should not be able to read it.
pub fn secret_file(reader: &Reader<'_>, node: &Node) -> Option<Vec<u8>> {
    use std::os::unix::fs::PermissionsExt;
    let (mut content, metadata) = read(reader, &node.at, &path(reader, node)?)?;
    if metadata.permissions().mode() & 0o004 != 0 {
        reader.warn(&node.at, "everyone on this machine can read this secret file; `chmod o-r` it");
    }
    if content.ends_with(b"\n") {
        content.pop();
        if content.ends_with(b"\r") {
            content.pop();
        }
    }
    Some(content)
}

fn read(reader: &Reader<'_>, at: &Span, path: &std::path::Path) -> Option<(Vec<u8>, std::fs::Metadata)> {
    reader.files.add(path);
    let attempt = || {
        let metadata = std::fs::metadata(path)?;
        // A device or a pipe could be read for ever.
        if !metadata.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        let mut content = Vec::new();
        std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > LARGEST_FILE {
            return Err(std::io::Error::other("larger than 1 MiB"));
        }
        Ok((content, metadata))
    };
    attempt().map_err(|cause| reader.problem(at, format!("this file cannot be read: {cause}"))).ok()
}

/// A template for keys and statements.
pub fn template(reader: &Reader<'_>, node: &Node) -> Option<Template> {
    let template = header_template(reader, node)?;
    if template.fields().any(Field::is_for_headers) {
        reader.problem(&node.at, "`{roles}`, `{scopes}` and `{profile.NAME}` stand in identity headers only");
        return None;
    }
    Some(template)
}

/// A template for identity headers.
pub fn header_template(reader: &Reader<'_>, node: &Node) -> Option<Template> {
    let Item::Text(text) = &node.item else { return expected(reader, node, "a template") };
    Template::parse(&text.value)
        .map_err(|error| {
            // Said in full only where nothing came from a variable.
            let detail = if text.written.contains("${") { String::new() } else { format!(": {error}") };
            reader.problem(&node.at, format!("this template does not parse{detail}"));
        })
        .ok()
}

/// A claim by name or JSON pointer (RFC 6901).
pub fn claim(reader: &Reader<'_>, node: &Node) -> Option<Box<str>> {
    name(reader, node)
}
