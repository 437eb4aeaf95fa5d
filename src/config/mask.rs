//! Masks what could be a secret in the text of a configuration before any of it is shown.
//!
//! Works on the text, not on the parsed tree: it has to hold where the file does not parse, and where the key
//! itself is misspelled.

const SECRETS: [&str; 5] = ["token", "secret", "secret_base64", "password", "pem"];

/// Whether a value under this key must not be shown. A letter or two beside the true name count too.
fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETS.iter().any(|secret| {
        let slips = if secret.len() > 5 { 2 } else { 1 };
        strsim::osa_distance(&key, secret) <= slips && key.len() >= 3
    })
}

/// The same text with secrets replaced by asterisks; every byte and every character keeps its place.
pub fn mask(text: &str) -> String {
    let mut hidden = Vec::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let key = rest.split(|c: char| !word(c)).next().unwrap_or_default();
        if key.is_empty() {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        at += key.len();
        if names_secret(key) {
            let after = text.get(at..).unwrap_or_default();
            if let Some(value) = value_after(after) {
                hidden.push(at + value.start..at + value.end);
                at += value.end;
            }
        }
    }
    for (scheme, _) in text.match_indices("://") {
        let start = scheme + 3;
        let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        if let Some(end) = line.rfind('@') {
            hidden.push(start..start + end);
        }
    }
    text.char_indices()
        .map(|(at, c)| {
            let shown = c == '\n' || c == '\r' || !hidden.iter().any(|range| range.contains(&at));
            if shown { c } else { star(c) }
        })
        .collect()
}

/// Something like an asterisk that takes as many bytes as what it hides: then columns hold as well.
fn star(hidden: char) -> char {
    match hidden.len_utf8() {
        1 => '*',
        2 => '\u{d7}',
        3 => '\u{ff0a}',
        _ => '\u{1f7b6}',
    }
}

/// The value after `=`, up to its closing quote, or as far as it can reach where there is none.
fn value_after(text: &str) -> Option<std::ops::Range<usize>> {
    let blank = [' ', '\t'];
    let rest = text.strip_prefix(['"', '\'']).unwrap_or(text).trim_start_matches(blank);
    let rest = rest.strip_prefix('=')?.trim_start_matches(blank);
    let start = text.len() - rest.len();
    for (quote, ends_with_line) in [("\"\"\"", false), ("'''", false), ("\"", true), ("'", true)] {
        let Some(inner) = rest.strip_prefix(quote) else { continue };
        let start = start + quote.len();
        let reach = if ends_with_line { inner.find('\n').unwrap_or(inner.len()) } else { inner.len() };
        let inner = inner.get(..reach).unwrap_or_default();
        let mut from = 0;
        while let Some(found) = inner.get(from..).and_then(|rest| rest.find(quote)) {
            let end = from + found;
            let slashes =
                inner.get(..end).unwrap_or_default().chars().rev().take_while(|c| *c == '\\').count();
            if quote.starts_with('\'') || slashes % 2 == 0 {
                return Some(start..start + end);
            }
            from = end + 1;
        }
        return Some(start..start + reach);
    }
    let end = rest.find(|c: char| c.is_whitespace() || "&,}]\"'#".contains(c)).unwrap_or(rest.len());
    Some(start..start + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_every_byte_keeps_its_place() {
        for (text, masked) in [
            ("token = \"abc\" # on", "token = \"***\" # on"),
            ("token_file = \"abc\"", "token_file = \"abc\""),
            ("{ kid = \"a\", secert='ab', x = 1 }", "{ kid = \"a\", secert='**', x = 1 }"),
            ("secret = \"a\\\"b\" y", "secret = \"****\" y"),
            ("pem = \"\"\"\nä\nb\"\"\"\nx", "pem = \"\"\"\n\u{d7}\n*\"\"\"\nx"),
            ("secret = \"open\nx", "secret = \"****\nx"),
            ("url = \"redis://u:p@h/0\"", "url = \"redis://***@h/0\""),
            ("url = \"x://h/?password=a&b=c\"", "url = \"x://h/?password=*&b=c\""),
        ] {
            assert_eq!(mask(text), masked);
        }
    }
}
