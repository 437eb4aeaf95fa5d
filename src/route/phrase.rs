//! Text made of a request and of who sent it: the values of headers, and where a redirect leads.
//!
//! Everything a request contributes has been made canonical before: a path and what a pattern's parameters stand for are
//! visible ASCII without delimiters, a host is a host name. Nothing can end a line here, or begin another part of a URL.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderValue, Method};

use super::capture::Capture;
use crate::claims::Claims;
use crate::target;
use crate::template::{self, Part};

/// A parsed template over requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    parts: Box<[Part<Field>]>,
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `{client_ip}`: as trusted proxies tell it.
    ClientIp,
    /// `{request_id}`
    RequestId,
    /// `{scheme}`: `http` or `https`, of the client's connection.
    Scheme,
    /// `{host}`: lower case, without port.
    Host,
    /// `{method}`
    Method,
    /// `{path}`: as routed, before any rewriting.
    Path,
    /// `{query}`: as received, without its `?`; empty where there is none.
    Query,
    /// `{NAME}`: what a parameter of the route's path stands for, with its escapes.
    Capture(Capture),
    /// What the token says, as in `[identity] headers`.
    Claim(template::Field),
}

const NAMES: [(&str, Field); 7] = [
    ("client_ip", Field::ClientIp),
    ("request_id", Field::RequestId),
    ("scheme", Field::Scheme),
    ("host", Field::Host),
    ("method", Field::Method),
    ("path", Field::Path),
    ("query", Field::Query),
];

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who sent it.
    pub client: IpAddr,
    /// What logs call it.
    pub request_id: &'a str,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The method.
    pub method: &'a Method,
    /// The Host field.
    pub host: Option<&'a [u8]>,
    /// The target as judged, with its query.
    pub target: &'a str,
    /// What its token says, where one was believed.
    pub claims: Option<&'a Claims>,
}

impl<'a> Facts<'a> {
    /// The path as routed.
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The query, empty where there is none.
    pub fn query(&self) -> &'a str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The host, as routes know it.
    pub fn host(&self) -> Option<Cow<'a, str>> {
        target::host(self.host?)
    }
}

impl Field {
    /// Reads a placeholder of a route whose path is `pattern`. A parameter that is called like something else would let
    /// whoever chooses a path choose what looks like a claim: it is refused.
    pub fn parse(name: &str, pattern: &str) -> Result<Self, String> {
        let captured = Capture::find(pattern, name).map(Self::Capture);
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| field.clone());
        let claim = || template::Field::parse(name).map(Self::Claim);
        match (captured, known.map_or_else(claim, Ok)) {
            (Some(_), Ok(_)) => {
                Err(format!("`{{{name}}}` is a word of its own: call the parameter in `path` something else"))
            }
            (Some(field), Err(_)) => Ok(field),
            (None, Ok(Self::Claim(template::Field::Token | template::Field::TokenSha256))) => {
                Err("the token itself is not told: see `identity.forward_token`".to_owned())
            }
            (None, Ok(Self::Claim(template::Field::Profile(_)))) => {
                Err("`{profile.NAME}` stands in `identity.headers` only".to_owned())
            }
            (None, read) => read,
        }
    }

    /// Appends what it stands for; `None` where that is not known, or cannot stand in a header.
    pub(super) fn write(&self, facts: &Facts<'_>, text: &mut String) -> Option<()> {
        use std::fmt::Write as _;
        match self {
            Self::ClientIp => write!(text, "{}", facts.client).ok()?,
            Self::RequestId => text.push_str(facts.request_id),
            Self::Scheme => text.push_str(facts.scheme),
            Self::Host => text.push_str(&facts.host().filter(|host| !host.is_empty())?),
            Self::Method => text.push_str(facts.method.as_str()),
            Self::Path => text.push_str(facts.path()),
            Self::Query => text.push_str(facts.query()),
            Self::Capture(capture) => text.push_str(capture.of(facts.path())?),
            Self::Claim(field) => template::in_header(field, facts.claims?, text).ok()?,
        }
        Some(())
    }
}

impl Phrase {
    /// Parses a template of a route whose path is `pattern`.
    pub fn parse(text: &str, pattern: &str) -> Result<Self, String> {
        let parts = template::parts(text, |name| Field::parse(name, pattern));
        parts.map(|parts| Self { parts }).map_err(|error| error.to_string())
    }

    /// The pieces, in order.
    pub fn parts(&self) -> &[Part<Field>] {
        &self.parts
    }

    /// The text where it is always the same.
    pub fn constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// Whether what stands between its placeholders can stand in a header.
    pub fn is_sayable(&self) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Literal(literal) => header_value(literal).is_some(),
            Part::Field(_) => true,
        })
    }

    /// The value of a header. `None` where something it tells of is not known: less is told, never something else.
    pub fn header(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(field) => field.write(facts, &mut text)?,
            }
        }
        header_value(&text)
    }
}

/// Text as the value of a header. UTF-8 is passed as it is (RFC 9110 section 5.5, `obs-text`); what ends a line is not.
pub fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str, pattern: &str, target: &str) -> Option<String> {
        let facts = Facts {
            client: IpAddr::from([192, 0, 2, 7]),
            request_id: "id-1",
            scheme: "https",
            method: &Method::GET,
            host: Some(b"API.example:8443"),
            target,
            claims: None,
        };
        let value = Phrase::parse(text, pattern).expect("a template").header(&facts)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    #[test]
    fn a_value_is_made_of_the_request_and_what_is_not_known_makes_none() {
        let all = "{client_ip} {request_id} {scheme}://{host}{path}?{query} {method} {id} {{}}";
        let expected = "192.0.2.7 id-1 https://api.example/u/7/x%20y?a=b GET 7 {}";
        assert_eq!(made(all, "/u/{id}/{*rest}", "/u/7/x%20y?a=b").as_deref(), Some(expected));
        assert_eq!(made("<{query}>", "/", "/").as_deref(), Some("<>"));
        assert_eq!(made("{sub}", "/", "/"), None, "nobody is known");
    }

    #[test]
    fn a_parameter_cannot_pass_for_a_claim_and_the_token_is_not_told() {
        for (text, pattern, message) in [
            ("{sub}", "/u/{sub}", "call the parameter"),
            ("{client_ip}", "/u/{client_ip}", "call the parameter"),
            ("{token}", "/", "the token itself"),
            ("{token_sha256}", "/", "the token itself"),
            ("{profile.email}", "/", "`identity.headers` only"),
            ("{hots}", "/", "unknown placeholder"),
            ("{host", "/", "never closed"),
        ] {
            let told = Phrase::parse(text, pattern).expect_err(text);
            assert!(told.contains(message), "{text}: {told}");
        }
    }
}
