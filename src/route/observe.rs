//! What a route learns from its service's answers.

use std::ops::RangeInclusive;

/// One entry of `on_response`: what to do when the service answers with one of these statuses.
#[derive(Clone, Debug, PartialEq)]
pub enum Observer {
    Revoke(Statuses, Revoke),
    Track(Statuses, Track),
}

/// What of the credential that was presented is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoke {
    Token,
    /// The token's session; the token alone where it belongs to none.
    Session,
    /// Every token of its user issued up to now.
    User,
}

/// A login's answer: where its JSON body holds tokens, as JSON pointers (RFC 6901).
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub token_at: Box<str>,
    pub refresh_at: Option<Box<str>>,
    /// Longest body that is read, as sent and as decoded.
    pub max_bytes: usize,
}

/// Final statuses: `200`, or all of `2xx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Reads `200` or `2xx`, several divided by commas. The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            let part = part.trim();
            // A sign would be read as part of the number.
            let part = if part.starts_with(|char: char| char.is_ascii_digit()) { part } else { "" };
            let class = part.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok());
            let range = match (class, part.parse::<u16>()) {
                (Some(class @ 2..=5), _) => class * 100..=class * 100 + 99,
                (None, Ok(status @ 200..=599)) => status..=status,
                _ => return Err("expected a status such as \"200\", or a class such as \"2xx\"".to_owned()),
            };
            Ok(range)
        };
        text.split(',').map(one).collect::<Result<Vec<_>, _>>().map(Self)
    }

    /// Whether a status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_single_ones_or_classes_and_never_interim() {
        let some = Statuses::parse("2xx, 303").expect("statuses");
        assert!(some.contains(200) && some.contains(299) && some.contains(303));
        assert!(!some.contains(300) && !some.contains(199) && !some.contains(304));
        for bad in ["", "1xx", "6xx", "xx", "100", "600", "2x", "200-299", "+2xx"] {
            assert!(Statuses::parse(bad).is_err(), "{bad}");
        }
    }
}
