//! Names of cookies and parameters that are not the token's, and that a service could take for it.
//!
//! ASP.NET compares both without case, PHP makes `a.b` and `a[]` out to be `a_b` and `a`, older Rack decodes the names of
//! cookies (CVE-2020-8184), Python's `http.cookies` divides at white space and RFC 2109 at commas, and older servers divide
//! queries at `;`. A token that only the service finds is one that nobody has judged.

use super::find::{Conflict, NO_CHARACTER, percent_decoded};

/// Whether `name` could be taken for `wanted`, which it may be itself.
pub(super) fn is(name: &str, wanted: &str) -> bool {
    stem(name).map(fold).eq(wanted.chars().map(fold))
}

/// What is left of a name where it is read most loosely: PHP stops at a bracket, C at a NUL; some services drop white space
/// around it, and what is no text.
pub(super) fn stem(name: &str) -> impl Iterator<Item = char> {
    let read = name.split(['[', '\0']).next().unwrap_or_default().trim();
    read.chars().filter(|char| *char != NO_CHARACTER)
}

fn fold(char: char) -> char {
    match char {
        '.' | ' ' => '_',
        // The Kelvin sign and the long s.
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    }
}

/// Whether a cookie that is named otherwise could be taken for `wanted`, or has it within.
pub(super) fn has_cookie(pair: &str, wanted: &str) -> bool {
    let is_name = |name: &str| is(name, wanted) || percent_decoded(name).is_ok_and(|name| is(&name, wanted));
    let Some((name, _)) = pair.split_once('=') else { return false };
    is_name(name.trim_end())
        || pair.bytes().any(|byte| matches!(byte, b' ' | b'\t' | b',')) && named(pair).any(is_name)
}

/// What stands before each `=`, as far back as the last separator. No further than the `=` before it: no name has one, and
/// a cookie of nothing but these would be looked through once for each.
fn named(pair: &str) -> impl Iterator<Item = &str> {
    let mut parts = pair.split('=');
    // What follows the last one is a value.
    parts.next_back();
    parts.filter_map(|before| before.trim_end().rsplit([' ', '\t', ',']).next())
}

/// Whether a query has `wanted` where only those see it who divide at `;` too.
pub(super) fn is_behind_semicolon(query: &str, wanted: &str) -> Result<bool, Conflict> {
    for name in query.split('&').flat_map(|pair| pair.split(';').skip(1)) {
        let name = name.split('=').next().unwrap_or_default();
        if is(&percent_decoded(name)?, wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_framework_reads_as_the_name_is_seen() {
        for cookie in [
            "Access_Token=x",
            "access.token=x",
            "access token=x",
            "access_token[]=x",
            "access%5Ftoken=x",
            "access+token=x",
            "a=1 access_token=x",
            "1 access_token=x",
            "a=1, access_token = x",
            "a=1\tACCESS_TOKEN=x",
        ] {
            assert!(has_cookie(cookie, "access_token"), "{cookie}");
        }
        for cookie in [
            "a=b",
            "access_tokens=x",
            "access-token=x",
            "my_access_token=x",
            "a={\"access_token\": 1, \"b\": 2}",
            "a=/?access_token=x",
            "access_token",
            "next=a b c",
        ] {
            assert!(!has_cookie(cookie, "access_token"), "{cookie}");
        }
    }

    /// As long as its square, it would take hours, which nobody waits for; and no token is needed to ask for that.
    #[test]
    fn a_cookie_is_looked_through_in_a_time_as_long_as_itself() {
        for filler in ["=", "= ", "%41=", ",=", "a b="] {
            let cookie = format!("a b{}", filler.repeat(300_000));
            assert!(!has_cookie(&cookie, "access_token"));
            assert!(has_cookie(&format!("{cookie} access_token=x"), "access_token"), "{filler}");
        }
    }

    #[test]
    fn a_semicolon_in_a_query_hides_nothing() {
        let behind = |query| is_behind_semicolon(query, "access_token");
        assert_eq!(behind("a=1;access_token=x"), Ok(true));
        assert_eq!(behind("a;Access%5ftoken=x&b"), Ok(true));
        assert_eq!(behind("a=1;b=access_token;c"), Ok(false));
    }
}
