//! Hosts: compared without case, port or trailing dot.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::Ambiguity;

/// The host in its one form. The port plays no part in routing, as in nginx's `server_name`.
pub(super) fn canonical(host: &[u8]) -> Result<Cow<'_, str>, Ambiguity> {
    if let Some(name) = plain(host) {
        return Ok(Cow::Borrowed(name));
    }
    const INVALID: Ambiguity = Ambiguity("the host is not valid");
    let text = std::str::from_utf8(host).map_err(|_| INVALID)?;
    let name = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(INVALID)?;
            let address: Ipv6Addr = address.parse().map_err(|_| INVALID)?;
            if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
                return Err(INVALID);
            }
            // One address has many spellings (RFC 5952), and is one host.
            return Ok(Cow::Owned(format!("[{address}]")));
        }
        None => match text.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return Err(INVALID),
            None => text,
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let dots = name.starts_with('.') || name.ends_with('.') || name.contains("..");
    if name.is_empty() || name.len() > 255 || dots {
        return Err(INVALID);
    }
    if !name.bytes().all(valid) {
        return Err(INVALID);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// The port as written, for comparing two authorities; an absent port and the default one are the same.
pub(super) fn port(host: &[u8]) -> &[u8] {
    let after_bracket = host.iter().rposition(|byte| *byte == b']').map_or(0, |at| at + 1);
    let rest = host.get(after_bracket..).unwrap_or_default();
    match rest.iter().rposition(|byte| *byte == b':') {
        Some(at) => match rest.get(at + 1..).unwrap_or_default() {
            b"80" | b"443" => b"",
            port => port,
        },
        None => b"",
    }
}

/// The common case in one pass: a name that is in the one form already, with a port perhaps. `None` says nothing yet.
fn plain(host: &[u8]) -> Option<&str> {
    let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    let (name, port) = host.split_at_checked(end)?;
    // As if a dot stood before it: one more is refused like two in a row.
    let mut before = b'.';
    for byte in name {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            _ => return None,
        }
        before = *byte;
    }
    // Up to four digits are a port, whichever they are.
    let is_port = match port {
        [] => true,
        [_, digits @ ..] => (1..=4).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
    };
    if before == b'.' || name.len() > 255 || !is_port {
        return None;
    }
    std::str::from_utf8(name).ok()
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}
