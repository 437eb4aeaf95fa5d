//! Hosts: compared without case, port or trailing dot.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::Ambiguity;

/// The host in its one form. The port plays no part in routing, as in nginx's `server_name`.
pub(super) fn canonical(host: &[u8]) -> Result<Cow<'_, str>, Ambiguity> {
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

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}
