//! The canonicaliser. The first line is the request target as it came, the second one the host.
//!
//! What is accepted has the one form, by rules written down here anew; it is accepted again as it is; and no service,
//! however it decodes, merges, strips and resolves, sees dot segments in it, or more or fewer segments than were judged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::target::{Ambiguous, Target};

fuzz_target!(|input: &[u8]| {
    let (target, host) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], Some(&input[at + 1..])),
        None => (input, None),
    };
    for ambiguous in [Ambiguous::Reject, Ambiguous::Normalize] {
        let Ok(read) = Target::read(target, host, ambiguous) else { continue };
        let forwarded = read.origin_form();
        has_the_one_form(&read.path);
        assert!(read.query.is_none_or(|query| query.bytes().all(|it| it.is_ascii_graphic() && it != b'#')));
        has_one_host(&read.host, host.is_some());
        if read.as_received {
            assert_eq!(forwarded.as_bytes(), target, "forwarded otherwise than received");
        }

        let host = (!read.host.is_empty()).then(|| read.host.as_bytes());
        let again = Target::read(forwarded.as_bytes(), host, Ambiguous::Reject).expect("its own form");
        assert_eq!((&again.path, again.query, &again.host), (&read.path, read.query, &read.host));
        assert!(again.as_received, "{forwarded:?} has been changed twice");

        for service in SERVICES {
            assert_eq!(
                service.segments(&read.path),
                read.path.split('/').count() - 1,
                "{service:?}: {}",
                read.path
            );
        }
        if ambiguous == Ambiguous::Reject {
            // Nothing was resolved: whoever reads the bytes that came sees no more in them either.
            let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
            if let Some(path) = std::str::from_utf8(path).ok().filter(|path| path.starts_with('/')) {
                for service in SERVICES {
                    assert_eq!(service.segments(path), path.split('/').count() - 1, "{service:?}: {path}");
                }
            }
            is_the_host_that_a_browser_sees(target, &read.host);
        }
    }
});

fn has_the_one_form(path: &str) {
    assert!(path.starts_with('/') && !path.contains("//"), "{path}");
    assert!(!path.split('/').any(|segment| matches!(segment, "." | "..")), "{path}");
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        assert!(byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@%".contains(&byte), "{path}");
        if byte == b'%' {
            let digits = [bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)];
            assert!(digits.iter().all(|it| matches!(it, b'0'..=b'9' | b'A'..=b'F')), "{path}");
            let value = u8::from_str_radix(std::str::from_utf8(&digits).unwrap_or(""), 16).unwrap_or(0);
            let hidden =
                value.is_ascii_alphanumeric() || b"-._~/\\%".contains(&value) || value.is_ascii_control();
            assert!(!hidden, "{path}");
        }
    }
}

fn has_one_host(host: &str, named: bool) {
    if host.is_empty() {
        return assert!(!named);
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._[]:".contains(&byte);
    assert!(
        host.len() <= 255 && host.bytes().all(plain) && !host.ends_with('.') && !host.starts_with('.'),
        "{host}"
    );
    assert!(
        host.starts_with('[') == host.ends_with(']') && host.starts_with('[') == host.contains(':'),
        "{host}"
    );
}

fn is_the_host_that_a_browser_sees(target: &[u8], host: &str) {
    let Ok(text) = std::str::from_utf8(target) else { return };
    let absolute = text.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http"));
    let url = absolute.then(|| url::Url::parse(text).ok()).flatten();
    // Addresses are written in many ways, and compared in one; names are not.
    if let Some(url::Host::Domain(seen)) = url.as_ref().and_then(url::Url::host) {
        assert_eq!(seen.trim_end_matches('.'), host, "{text}");
    }
}

/// How some service makes segments of a path, step by step.
#[derive(Debug)]
struct Service(&'static [Step]);

#[derive(Debug)]
enum Step {
    Decode,
    Slashes,
    Parameters,
}

const SERVICES: [Service; 6] = [
    Service(&[]),
    Service(&[Step::Decode]),
    Service(&[Step::Parameters, Step::Decode, Step::Slashes]),
    Service(&[Step::Decode, Step::Slashes, Step::Parameters]),
    Service(&[Step::Decode, Step::Decode, Step::Slashes]),
    Service(&[Step::Slashes, Step::Decode, Step::Parameters, Step::Decode]),
];

impl Service {
    /// How many there are when all is done; dot segments must not be among them.
    fn segments(&self, path: &str) -> usize {
        let mut path = path.to_owned();
        for step in self.0 {
            path = match step {
                Step::Decode => decoded(&path),
                Step::Slashes => path.replace('\\', "/"),
                Step::Parameters => {
                    let bare: Vec<&str> =
                        path.split('/').map(|it| it.split(';').next().unwrap_or("")).collect();
                    bare.join("/")
                }
            };
        }
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        assert!(!segments.iter().any(|it| matches!(*it, "." | "..")), "{self:?}: {path}");
        assert!(!path.contains('\0'), "{self:?}: {path}");
        segments.len()
    }
}

fn decoded(path: &str) -> String {
    let (mut text, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let value = after.get(..2).filter(|_| *byte == b'%').and_then(|it| std::str::from_utf8(it).ok());
        match value.filter(|it| !it.starts_with('+')).and_then(|it| u8::from_str_radix(it, 16).ok()) {
            Some(value) => (text.push(value), rest = &after[2..]).1,
            None => (text.push(*byte), rest = after).1,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}
