//! Finding the token in a request, and taking it out again.
//!
//! Services read duplicates differently: the first, the last, both. A request that carries two different tokens is
//! therefore refused, wherever they stand.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

use super::{Place, Token, alike};

/// The request carries more than one token, or one that cannot be read unambiguously.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict(pub &'static str);

pub(super) const TWO_TOKENS: Conflict = Conflict("the request carries different tokens");
const QUERY_UNREADABLE: Conflict = Conflict("the query parameter that may carry a token is not text");
const UNREADABLE: Conflict = Conflict("a header that may carry a token has bytes that are not visible ASCII");
const COOKIE_ALIKE: Conflict = Conflict("a cookie has a name that could be taken for the token's");
const QUERY_ALIKE: Conflict = Conflict("the query has a name that could be taken for the token's");

/// What stands for bytes that are not UTF-8, here as in most services.
pub(super) const NO_CHARACTER: char = char::REPLACEMENT_CHARACTER;

/// What may stand between the scheme and the token.
const BLANKS: [char; 2] = [' ', '\t'];

/// A token, and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The compact form.
    pub compact: Cow<'a, str>,
    /// Whether a browser may have sent it of its own accord, for whatever page asked.
    pub only_in_cookie: bool,
}

/// Looks into every place. `Ok(None)` means that there is no token anywhere.
pub fn find<'a>(
    places: &[Place],
    headers: &'a HeaderMap,
    query: Option<&'a str>,
) -> Result<Option<Found<'a>>, Conflict> {
    let mut found = None;
    let mut only_in_cookie = true;
    for place in places {
        match place {
            Place::Header(name) => {
                for value in headers.get_all(name) {
                    let value = readable(value)?;
                    for token in in_header(value, *name == AUTHORIZATION) {
                        only_in_cookie = false;
                        keep(&mut found, Some(Cow::Borrowed(token)))?;
                    }
                }
            }
            Place::Cookie(name) => {
                for value in headers.get_all(COOKIE) {
                    let value = readable(value)?;
                    for pair in value.split(';').map(str::trim) {
                        match cookie(pair) {
                            (cookie, token) if cookie == &**name => {
                                keep(&mut found, Some(Cow::Borrowed(token)).filter(|it| !it.is_empty()))?;
                            }
                            _ if alike::has_cookie(pair, name) => return Err(COOKIE_ALIKE),
                            _ => {}
                        }
                    }
                }
            }
            Place::Query(name) => {
                let query = query.unwrap_or_default();
                for (parameter, value) in parameters(query) {
                    let parameter = percent_decoded(parameter)?;
                    if parameter == **name {
                        let token = Some(percent_decoded(value)?).filter(|it| !it.is_empty());
                        // Bytes that are no text are no token. Whoever divides them otherwise may find one there.
                        if token.as_ref().is_some_and(|token| token.contains(NO_CHARACTER)) {
                            return Err(QUERY_UNREADABLE);
                        }
                        only_in_cookie &= token.is_none();
                        keep(&mut found, token)?;
                    } else if alike::is(&parameter, name) {
                        return Err(QUERY_ALIKE);
                    }
                }
                if query.contains(';') && alike::is_behind_semicolon(query, name)? {
                    return Err(QUERY_ALIKE);
                }
            }
        }
    }
    Ok(found.map(|compact| Found { compact, only_in_cookie }))
}

/// What was found in the head of a request, together with what its body carries.
pub fn with_body<'a>(
    head: Option<Found<'a>>,
    body: Option<Token<'a>>,
) -> Result<Option<Found<'a>>, Conflict> {
    match (head, body.map(|token| token.compact())) {
        (head, None) => Ok(head),
        (None, Some(body)) => Ok(Some(Found { compact: Cow::Borrowed(body), only_in_cookie: false })),
        (Some(head), Some(body)) if *head.compact == *body => {
            Ok(Some(Found { only_in_cookie: false, ..head }))
        }
        (Some(_), Some(_)) => Err(TWO_TOKENS),
    }
}

/// Whether an `Authorization` value is one in which a token is looked for: of the scheme `Bearer`, or with a JWT in it.
pub fn is_for_tokens(value: &[u8]) -> bool {
    let bearer = value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"));
    bearer || std::str::from_utf8(value).is_ok_and(|value| in_header(value, true).next().is_some())
}

/// The cookie line without the cookie `name`; `None` when nothing is left, and nothing is to be sent.
pub fn without_cookie(line: &str, name: &str) -> Option<String> {
    let kept: Vec<&str> =
        line.split(';').map(str::trim).filter(|pair| !pair.is_empty() && cookie(pair).0 != name).collect();
    (!kept.is_empty()).then(|| kept.join("; "))
}

/// The query without the parameter `name`; `None` when nothing is left.
pub fn without_parameter(query: &str, name: &str) -> Option<String> {
    let is_it = |pair: &str| {
        let parameter = pair.split('=').next().unwrap_or_default();
        percent_decoded(parameter).is_ok_and(|parameter| parameter == name)
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// As [`HeaderValue::to_str`], many bytes at a time: it stops at the first bad byte, which takes as long as all the rest of
/// the search.
fn readable(value: &HeaderValue) -> Result<&str, Conflict> {
    // Of numbers alone the compiler makes instructions that take sixteen bytes each.
    let bad = |byte: u8| u8::from(byte.wrapping_sub(b' ') > b'~' - b' ') & u8::from(byte != b'\t');
    if value.as_bytes().iter().fold(0, |any, byte| any | bad(*byte)) != 0 {
        return Err(UNREADABLE);
    }
    std::str::from_utf8(value.as_bytes()).map_err(|_| UNREADABLE)
}

fn keep<'a>(found: &mut Option<Cow<'a, str>>, token: Option<Cow<'a, str>>) -> Result<(), Conflict> {
    match (&found, token) {
        (_, None) => {}
        (None, token) => *found = token,
        (Some(first), Some(second)) if **first == *second => {}
        (Some(_), Some(_)) => return Err(TWO_TOKENS),
    }
    Ok(())
}

/// Behind `Bearer` (any case, RFC 9110 section 11.1); other schemes are not ours, unless a JWT stands in what they carry
/// (`JWT …`, `Token token="…"`, a list of several): some services ask no more of the header than that, and what they would
/// take for a token has to be judged as one. Outside `Authorization` the word may be missing.
fn in_header(value: &str, must_name_scheme: bool) -> impl Iterator<Item = &str> {
    let value = value.trim_ascii();
    let (token, words) = match value.split_at_checked(6) {
        // Services split at any white space: `Bearer`, tab, token is a token to them. Or they take what stands behind the word.
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && (must_name_scheme || token.starts_with(BLANKS)) =>
        {
            (token.trim_ascii_start(), "")
        }
        _ if must_name_scheme => ("", value),
        _ => (value, ""),
    };
    let word = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    let jwts = words.split(move |char| !word(char)).filter(is_jwt);
    Some(token).filter(|token| !token.is_empty()).into_iter().chain(jwts)
}

/// What a compact JWT looks like (RFC 7515 section 7.1): an encoded JSON object, which may begin with white space, and
/// two dots.
fn is_jwt(text: &&str) -> bool {
    (text.starts_with("ey") || text.starts_with("ew"))
        && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn cookie(pair: &str) -> (&str, &str) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let value = value.trim();
    let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (name.trim(), unquoted)
}

pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter_map(|pair| pair.split_once('='))
}

/// Decodes what a service would decode, with [`NO_CHARACTER`] for what is no text; a token needs no escapes, so the usual
/// costs nothing.
pub(super) fn percent_decoded(text: &str) -> Result<Cow<'_, str>, Conflict> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let unreadable = Conflict("a query parameter has an invalid percent-encoding");
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let value = digit(bytes.next()).zip(digit(bytes.next())).map(|(high, low)| high << 4 | low);
                value.and_then(|value| u8::try_from(value).ok()).ok_or(unreadable)?
            }
            _ => byte,
        });
    }
    Ok(Cow::Owned(match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(bytes) => String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn places() -> Vec<Place> {
        vec![
            Place::Header(AUTHORIZATION),
            Place::Header(HeaderName::from_static("x-access-token")),
            Place::Cookie("access_token".into()),
            Place::Query("access_token".into()),
        ]
    }

    fn token(headers: &[(&'static str, &str)], query: Option<&str>) -> Result<Option<String>, Conflict> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        find(&places(), &map, query).map(|found| found.map(|found| found.compact.into_owned()))
    }

    #[test]
    fn a_token_is_found_in_every_place() {
        let found = Ok(Some("a.b.c".to_owned()));
        assert_eq!(token(&[("authorization", "Bearer a.b.c")], None), found);
        assert_eq!(token(&[("authorization", "bEARER   a.b.c ")], None), found);
        assert_eq!(token(&[("authorization", "Bearer\ta.b.c")], None), found);
        assert_eq!(token(&[("authorization", "Bearera.b.c")], None), found);
        assert_eq!(token(&[("x-access-token", "a.b.c")], None), found);
        assert_eq!(token(&[("x-access-token", "Bearer a.b.c")], None), found);
        assert_eq!(token(&[("cookie", "x=1; access_token=a.b.c; y=2")], None), found);
        assert_eq!(token(&[("cookie", "x=1"), ("cookie", "access_token=\"a.b.c\"")], None), found);
        assert_eq!(token(&[], Some("q=1&access_token=a.b.c")), found);
        assert_eq!(token(&[], Some("access%5Ftoken=a%2Eb.c")), found);
    }

    #[test]
    fn a_jwt_behind_another_scheme_is_judged_as_one() {
        for value in [
            "JWT eyJhbGciOiJ9.e30.x",
            "DPoP\teyJhbGciOiJ9.e30.x",
            "eyJhbGciOiJ9.e30.x",
            "Token token=\"eyJhbGciOiJ9.e30.x\", nonce=\"1\"",
            "Basic YTpi, Bearer eyJhbGciOiJ9.e30.x",
        ] {
            let found = token(&[("authorization", value)], None);
            assert_eq!(found, Ok(Some("eyJhbGciOiJ9.e30.x".to_owned())), "{value}");
            assert!(is_for_tokens(value.as_bytes()));
        }
        assert!(!is_for_tokens(b"Basic YTpi"));
        let two = "Basic YTpi, JWT eyJhbGciOiJ9.e30.x, JWT eyJhbGciOiJ9.e30.y";
        assert_eq!(token(&[("authorization", two)], None), Err(TWO_TOKENS));
    }

    #[test]
    fn other_schemes_and_names_are_no_token() {
        assert_eq!(token(&[("authorization", "Basic YTpi")], None), Ok(None));
        assert_eq!(token(&[("authorization", "Bearer")], None), Ok(None));
        assert_eq!(token(&[("authorization", "Bearer ")], None), Ok(None));
        assert_eq!(token(&[("cookie", "access-token=a.b.c; access_token=")], None), Ok(None));
        assert_eq!(token(&[], Some("access_tokens=a.b.c&%ff=1&access_token&access_token=")), Ok(None));
    }

    #[test]
    fn what_a_service_could_take_for_the_token_is_never_overlooked() {
        assert_eq!(token(&[("cookie", "Access_Token=a.b.c")], None), Err(COOKIE_ALIKE));
        assert_eq!(token(&[("cookie", "x=1 access_token=a.b.c")], None), Err(COOKIE_ALIKE));
        assert_eq!(token(&[], Some("Access.Token=a.b.c")), Err(QUERY_ALIKE));
        assert_eq!(token(&[], Some("access_token[%9b]=a.b.c")), Err(QUERY_ALIKE));
        assert_eq!(token(&[], Some("acc%ffess_token=a.b.c")), Err(QUERY_ALIKE), "some drop what is no text");
        assert_eq!(token(&[], Some("access_token++=a.b.c")), Err(QUERY_ALIKE), "or white space");
        assert_eq!(token(&[], Some("q=1;access_token=a.b.c")), Err(QUERY_ALIKE));
    }

    #[test]
    fn different_tokens_are_refused_and_equal_ones_are_one() {
        type Presented = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let conflicts: [Presented; 4] = [
            (&[("authorization", "Bearer a.b.c"), ("authorization", "Bearer d.e.f")], None),
            (&[("authorization", "Bearer a.b.c"), ("cookie", "access_token=d.e.f")], None),
            (&[("cookie", "access_token=a.b.c; access_token=d.e.f")], None),
            (&[("authorization", "Bearer a.b.c")], Some("access_token=d.e.f")),
        ];
        for (headers, query) in conflicts {
            let headers: Vec<(&'static str, &str)> = headers
                .iter()
                .map(|(name, value)| (if *name == "cookie" { "cookie" } else { "authorization" }, *value))
                .collect();
            assert_eq!(token(&headers, query), Err(TWO_TOKENS));
        }
        let same = token(
            &[("authorization", "Bearer a.b.c"), ("cookie", "access_token=a.b.c")],
            Some("access_token=a.b.c"),
        );
        assert_eq!(same, Ok(Some("a.b.c".to_owned())));
    }

    #[test]
    fn a_value_that_is_not_visible_ascii_is_never_absent() {
        assert_eq!(token(&[("authorization", "Bearer \u{e9}")], None), Err(UNREADABLE));
        assert_eq!(token(&[("cookie", "x=\u{e9}")], None), Err(UNREADABLE));
        assert!(token(&[], Some("access_token=%zz")).is_err());
        assert_eq!(
            token(&[], Some("access_token=a.b.c;x%ce=1")),
            Err(QUERY_UNREADABLE),
            "and `;` divides for some"
        );
        assert_eq!(token(&[], Some("access_token=&x=%ce")), Ok(None));
    }

    #[test]
    fn a_token_is_taken_out_and_the_rest_stays() {
        assert_eq!(without_cookie("a=1; access_token=x;b=2", "access_token").as_deref(), Some("a=1; b=2"));
        assert_eq!(without_cookie("access_token=x", "access_token"), None);
        assert_eq!(without_parameter("a=1&access%5ftoken=x&b", "access_token").as_deref(), Some("a=1&b"));
        assert_eq!(without_parameter("access_token=x", "access_token"), None);
    }
}
