//! Paths: one pass over the usual, a second one only over what needs rewriting.

use std::borrow::Cow;

use super::{Ambiguity, Ambiguous};

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stands for itself (RFC 3986 `pchar` without `;` and `%`).
    Plain,
    Slash,
    Dot,
    Percent,
    Semicolon,
    Backslash,
    /// What RFC 3986 wants escaped, and browsers (WHATWG URL) or curl do not escape. It has one meaning, and gets its escape.
    Bare,
    /// Control bytes, white space, non-ASCII, and what RFC 3986 does not allow in a path.
    Refused,
}

/// A `match` over all bytes: the compiler makes a table of it.
fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'.' => Class::Dot,
        b'%' => Class::Percent,
        b';' => Class::Semicolon,
        b'\\' => Class::Backslash,
        b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':'
        | b'@' => Class::Plain,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => Class::Plain,
        b'[' | b']' | b'^' | b'|' | b'{' | b'}' => Class::Bare,
        _ => Class::Refused,
    }
}

const BYTES: Ambiguity = Ambiguity("the path has a byte that must be percent-encoded");
const ESCAPE: Ambiguity = Ambiguity("the path has an invalid percent-encoding");
const DOTS: Ambiguity = Ambiguity("the path has dot segments");
const SLASHES: Ambiguity = Ambiguity("the path has an empty segment");
const ENCODED: Ambiguity =
    Ambiguity("the path has an encoded slash, backslash, percent sign or control byte");
const PARAMETERS: Ambiguity = Ambiguity("the path has a parameter in a segment");
const BACKSLASH: Ambiguity = Ambiguity("the path has a backslash");
const ROOT: Ambiguity = Ambiguity("the request target does not begin with a slash");

/// The path in its one form. Borrowed when it came in that form.
pub(super) fn canonical(path: &[u8], ambiguous: Ambiguous) -> Result<Cow<'_, str>, Ambiguity> {
    if path.first() != Some(&b'/') {
        return Err(ROOT);
    }
    let decoded = match scan(path)? {
        Shape::Canonical => return std::str::from_utf8(path).map(Cow::Borrowed).map_err(|_| BYTES),
        Shape::Encoded => decode(path, ambiguous)?,
        Shape::Ambiguous => match ambiguous {
            Ambiguous::Reject => return Err(name_ambiguity(path)),
            Ambiguous::Normalize => decode(path, ambiguous)?,
        },
    };
    let resolved = resolve(&decoded, ambiguous)?;
    // An escape may decode to the byte sequence it stood for; the upstream then receives what was received.
    if resolved.as_bytes() == path {
        return std::str::from_utf8(path).map(Cow::Borrowed).map_err(|_| BYTES);
    }
    Ok(Cow::Owned(resolved))
}

/// The query is passed on as received; it must be visible ASCII and hold no fragment.
pub(super) fn query(query: &[u8]) -> Result<&str, Ambiguity> {
    if !query.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(Ambiguity("the query has a byte that must be percent-encoded"));
    }
    std::str::from_utf8(query).map_err(|_| BYTES)
}

enum Shape {
    Canonical,
    /// Has escapes, or wants some, and nothing else that could be read in two ways.
    Encoded,
    Ambiguous,
}

/// One pass; the usual path ends here.
fn scan(path: &[u8]) -> Result<Shape, Ambiguity> {
    let mut shape = Shape::Canonical;
    // Whether the segment so far is empty, or made of one or two dots only.
    let (mut length, mut dots) = (usize::MAX, 0);
    for byte in path {
        match class(*byte) {
            Class::Plain => length = length.saturating_add(1),
            Class::Dot => {
                length += 1;
                dots += 1;
            }
            Class::Slash => {
                if length == 0 || is_dot_segment(length, dots) {
                    shape = Shape::Ambiguous;
                }
                (length, dots) = (0, 0);
            }
            Class::Percent | Class::Bare => {
                length += 1;
                if matches!(shape, Shape::Canonical) {
                    shape = Shape::Encoded;
                }
            }
            Class::Semicolon | Class::Backslash => {
                length += 1;
                shape = Shape::Ambiguous;
            }
            Class::Refused => return Err(BYTES),
        }
    }
    if is_dot_segment(length, dots) {
        shape = Shape::Ambiguous;
    }
    Ok(shape)
}

fn is_dot_segment(length: usize, dots: usize) -> bool {
    length == dots && matches!(dots, 1 | 2)
}

fn name_ambiguity(path: &[u8]) -> Ambiguity {
    if path.contains(&b'\\') {
        BACKSLASH
    } else if path.contains(&b';') {
        PARAMETERS
    } else if path.windows(2).any(|pair| pair == b"//") {
        SLASHES
    } else {
        DOTS
    }
}

/// Decodes once. Unreserved characters become plain, everything else keeps its escape, in upper case
/// (RFC 3986 section 6.2.2): so two spellings of one path are compared, judged and forwarded as one.
fn decode(path: &[u8], ambiguous: Ambiguous) -> Result<String, Ambiguity> {
    let mut decoded = String::with_capacity(path.len());
    // The decoded bytes of a run of escapes, to see that they are UTF-8: an overlong `%c0%af` is a slash to some.
    let mut run = Vec::new();
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            flush(&mut run)?;
            match class(byte) {
                Class::Backslash => decoded.push('/'),
                Class::Bare => push_escape(&mut decoded, byte),
                _ => decoded.push(char::from(byte)),
            }
            continue;
        }
        let value =
            bytes.next().and_then(hex).zip(bytes.next().and_then(hex)).map(|(high, low)| high << 4 | low);
        let value = value.ok_or(ESCAPE)?;
        match value {
            b'%' | 0..=0x1f | 0x7f => return Err(ENCODED),
            b'/' | b'\\' => match ambiguous {
                Ambiguous::Reject => return Err(ENCODED),
                Ambiguous::Normalize => decoded.push('/'),
            },
            b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(value)),
            _ if value.is_ascii_alphanumeric() => decoded.push(char::from(value)),
            _ => {
                if value >= 0x80 {
                    run.push(value);
                } else {
                    flush(&mut run)?;
                }
                push_escape(&mut decoded, value);
                continue;
            }
        }
        flush(&mut run)?;
    }
    flush(&mut run)?;
    Ok(decoded)
}

fn flush(run: &mut Vec<u8>) -> Result<(), Ambiguity> {
    let valid = std::str::from_utf8(run).is_ok();
    run.clear();
    if valid { Ok(()) } else { Err(ESCAPE) }
}

/// Dot segments, empty segments and segment parameters: refused, or resolved (RFC 3986 section 5.2.4).
fn resolve(decoded: &str, ambiguous: Ambiguous) -> Result<String, Ambiguity> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let bare = segment.split(';').next().unwrap_or_default();
        if ambiguous == Ambiguous::Reject && (bare.len() != segment.len()) {
            return Err(PARAMETERS);
        }
        // Who decodes before looking for parameters has dots here, and nobody else has.
        if bare.split_once("%3B").is_some_and(|(dots, _)| matches!(dots, "." | "..")) {
            return Err(DOTS);
        }
        match bare {
            "." | ".." if ambiguous == Ambiguous::Reject => return Err(DOTS),
            "" if ambiguous == Ambiguous::Reject && !last => return Err(SLASHES),
            "." | "" => {
                if last {
                    kept.push("");
                }
            }
            ".." => {
                // Above the root there is only the root.
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(bare),
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

fn push_escape(text: &mut String, value: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 0xf)).copied().unwrap_or('0');
    text.push('%');
    text.push(digit(value >> 4));
    text.push(digit(value));
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
