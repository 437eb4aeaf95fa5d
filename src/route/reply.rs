//! Answers that a route gives itself, and where it leads otherwise.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use super::phrase::{Facts, Field, Phrase, header_value};
use crate::template::Part;

/// Where a granted request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// To the upstream of this name; it exists.
    Upstream(Arc<str>),
    /// Nowhere: the client is sent elsewhere.
    Redirect(Redirect),
    /// Nowhere: the answer is always the same.
    Answer(Fixed),
    /// Nowhere from here: another proxy asks, and forwards by itself.
    Asked,
}

/// `redirect = { to, status }`
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub status: StatusCode,
    pub to: Location,
}

/// `answer`
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// `maintenance`: nobody but a few is let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// Who is let in all the same, by address.
    pub except: Vec<IpNet>,
    /// 400 to 599.
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// `Content-Type` and the body; a denial's own where none is given.
    pub body: Option<(Box<str>, Bytes)>,
}

impl Maintenance {
    /// Whether this client has to wait.
    pub fn concerns(&self, client: IpAddr) -> bool {
        !self.except.iter().any(|network| network.contains(&client))
    }
}

/// Where a redirect leads: `https://{host}{path}?{query}`. The host is one that the operator wrote, or one that the route
/// serves; whatever else a request contributes comes behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Location(Phrase);

impl Location {
    /// Parses the target of a redirect of a route whose path is `pattern`. `hosts`: whether the route names its hosts.
    pub fn parse(text: &str, pattern: &str, hosts: bool) -> Result<Self, String> {
        const FORM: &str = "expected a local path such as \"/new/{rest}\", or a URL such as \"https://{host}{path}?{query}\"";
        let phrase = Phrase::parse(text, pattern)?;
        let literals = |part: &Part<Field>| match part {
            Part::Literal(text) => text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'),
            Part::Field(_) => true,
        };
        if !phrase.parts().iter().all(literals) {
            return Err("a URL is of visible ASCII characters".to_owned());
        }
        if !hosts && phrase.parts().contains(&Part::Field(Field::Host)) {
            return Err("without `hosts` anybody can say any `{host}`: name the route's hosts".to_owned());
        }
        let mut in_query = false;
        for part in phrase.parts() {
            match part {
                Part::Literal(text) => in_query |= text.contains('?'),
                Part::Field(Field::Query) if !in_query => {
                    return Err("`{query}` stands behind a `?`".to_owned());
                }
                Part::Field(_) => {}
            }
        }
        let is_url = match phrase.parts() {
            [Part::Literal(first), ..] if first.starts_with("https://") || first.starts_with("http://") => {
                true
            }
            // `//host` is a URL without a scheme.
            [Part::Literal(first), ..] if first.starts_with('/') && !first.starts_with("//") => false,
            _ => return Err(FORM.to_owned()),
        };
        if is_url && !names_its_host(phrase.parts()) { Err(FORM.to_owned()) } else { Ok(Self(phrase)) }
    }

    /// `Location` for a request. `None` where something it names is not known.
    pub fn of(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        let mut text = String::new();
        let mut in_query = false;
        for part in self.0.parts() {
            match part {
                Part::Literal(literal) => {
                    in_query |= literal.contains('?');
                    text.push_str(literal);
                }
                Part::Field(Field::Query) => text.push_str(facts.query()),
                // What a host, a path and its segments are made of can stand in a path; not all of it in a query.
                Part::Field(field @ (Field::Host | Field::Path | Field::Capture(_) | Field::Scheme))
                    if !in_query =>
                {
                    field.write(facts, &mut text)?;
                }
                Part::Field(field) => {
                    let mut value = String::new();
                    field.write(facts, &mut value)?;
                    escape(&value, &mut text);
                }
            }
        }
        // `…?{query}` without a query.
        let text = text.strip_suffix(['?', '&']).unwrap_or(&text);
        // Put together of an empty rest and a path, it would name a host.
        if text.starts_with("//") { None } else { header_value(text) }
    }
}

/// Whether the host of a URL is one that the operator wrote, or `{host}`: nothing else of a request may stand before the
/// path, and nothing run on into the host.
fn names_its_host(parts: &[Part<Field>]) -> bool {
    let mut authority = String::new();
    let mut scheme = 2;
    for part in parts {
        match part {
            Part::Literal(text) => {
                for char in text.chars() {
                    match char {
                        '/' if scheme > 0 => scheme -= 1,
                        '/' | '?' | '#' => return is_authority(&authority),
                        _ if scheme > 0 => {}
                        _ => authority.push(char),
                    }
                }
            }
            Part::Field(Field::Host) => authority.push_str("host.example"),
            Part::Field(Field::Path) => break,
            Part::Field(_) => return false,
        }
    }
    is_authority(&authority)
}

fn is_authority(text: &str) -> bool {
    !text.contains('@') && crate::target::host(text.as_bytes()).is_some()
}

/// Appends a value as one part of a URL: everything but unreserved characters escaped (RFC 3986 section 2.3).
pub fn escape(value: &str, text: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digit =
                |nibble: u8| DIGITS.get(usize::from(nibble & 0xf)).map_or('0', |digit| char::from(*digit));
            text.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn facts<'a>(host: &'a str, target: &'a str) -> Facts<'a> {
        Facts {
            client: IpAddr::from([192, 0, 2, 7]),
            request_id: "id-1",
            scheme: "http",
            method: &Method::GET,
            host: Some(host.as_bytes()),
            target,
            claims: None,
        }
    }

    fn sent(to: &str, pattern: &str, target: &str) -> Option<String> {
        let to = Location::parse(to, pattern, true).unwrap_or_else(|told| panic!("{to}: {told}"));
        to.of(&facts("Api.Example:8080", target)).map(|value| value.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn a_redirect_leads_where_its_operator_says() {
        for (to, pattern, target, expected) in [
            ("https://{host}{path}?{query}", "/{*rest}", "/a%20b?x=1&y", "https://api.example/a%20b?x=1&y"),
            ("https://{host}{path}?{query}", "/{*rest}", "/a", "https://api.example/a"),
            ("https://{host}:8443{path}", "/{*rest}", "/a?x", "https://api.example:8443/a"),
            ("https://www.{host}/{rest}", "/{*rest}", "/", "https://www.api.example/"),
            (
                "https://new.example/v2/{rest}?from={path}&{query}",
                "/v1/{*rest}",
                "/v1/a/b?c",
                "https://new.example/v2/a/b?from=%2Fv1%2Fa%2Fb&c",
            ),
            ("/new/{id}", "/old/{id}", "/old/7", "/new/7"),
            ("/by/{client_ip}?at={path}", "/{a}", "/x&y=z", "/by/192.0.2.7?at=%2Fx%26y%3Dz"),
        ] {
            assert_eq!(sent(to, pattern, target).as_deref(), Some(expected), "{to} {target}");
        }
        assert_eq!(sent("/{rest}{path}", "/{*rest}", "/"), None, "this would name a host");
        assert_eq!(sent("/u/{sub}", "/{*rest}", "/"), None, "nobody is known");
    }

    #[test]
    fn no_request_chooses_the_host_of_a_redirect() {
        for to in [
            "https://{rest}/",
            "https://{host}{rest}",
            "https://{host}{query}",
            "https://x{rest}",
            "https://u@{host}/",
            "https://{path}",
            "https:///x",
            "//x",
            "/\\x",
            "{path}",
            "{host}",
            "x",
            "",
            "ftp://x/",
            "https://a b/",
            "/{query}",
            "https://x/\u{e9}",
            "https://{host}\r\nX: y",
        ] {
            assert!(Location::parse(to, "/{*rest}", true).is_err(), "{to}");
        }
        let told = Location::parse("https://{host}{path}", "/{*rest}", false).expect_err("any host");
        assert!(told.contains("without `hosts`"), "{told}");
    }
}
