//! The request that is asked about, as the proxy tells of it.
//!
//! A client can write any of these fields itself, and a proxy that does not set one passes the client's on. So each style
//! has its own few, and every one of them is needed: a proxy that does not set them gets nobody through, which is noticed
//! at once, where an optional one would be believed of the first attacker. None is believed that is there twice.

use http::Method;
use http::header::{HeaderMap, HeaderValue};
use pingora::http::RequestHeader;

use super::super::settings::Style;
use crate::verdict::DenyReason;

/// What a client has asked the proxy for.
pub(in super::super) struct Original {
    pub method: Method,
    /// In origin form, with the query: it may hold a token.
    pub target: Box<[u8]>,
    pub host: HeaderValue,
}

/// A field, and what is said where it is not there, or more than once.
type Field = (&'static str, DenyReason);

/// Where a style says what.
struct Fields {
    method: Field,
    target: Field,
    host: Field,
}

const NGINX: Fields = Fields {
    method: (
        "x-original-method",
        DenyReason::RequestAmbiguous("the proxy does not say X-Original-Method, once"),
    ),
    target: ("x-original-uri", DenyReason::RequestAmbiguous("the proxy does not say X-Original-URI, once")),
    host: ("x-original-host", DenyReason::RequestAmbiguous("the proxy does not say X-Original-Host, once")),
};

/// Traefik's and Caddy's.
const FORWARDED: Fields = Fields {
    method: (
        "x-forwarded-method",
        DenyReason::RequestAmbiguous("the proxy does not say X-Forwarded-Method, once"),
    ),
    target: ("x-forwarded-uri", DenyReason::RequestAmbiguous("the proxy does not say X-Forwarded-Uri, once")),
    host: ("x-forwarded-host", DenyReason::RequestAmbiguous("the proxy does not say X-Forwarded-Host, once")),
};

impl Original {
    pub(super) fn read(question: &RequestHeader, style: Style) -> Result<Self, DenyReason> {
        let headers = &question.headers;
        let Fields { method, target, host } = match style {
            Style::Nginx => NGINX,
            Style::Traefik | Style::Caddy => FORWARDED,
            Style::Envoy => {
                const HOST: Field = ("host", DenyReason::RequestAmbiguous("there is no Host field"));
                // Proxies of the other styles ask about everything at one address of ours, which a route may open.
                const OTHER: DenyReason = DenyReason::RequestAmbiguous("the proxy asks in another style");
                if [NGINX, FORWARDED].iter().any(|other| headers.contains_key(other.method.0)) {
                    return Err(OTHER);
                }
                let method = question.method.clone();
                let host = only(headers, HOST)?.clone();
                return Ok(Self { method, target: question.raw_path().into(), host });
            }
        };
        const METHOD: DenyReason = DenyReason::RequestAmbiguous("the method is not valid");
        Ok(Self {
            method: Method::from_bytes(only(headers, method)?.as_bytes()).map_err(|_| METHOD)?,
            target: only(headers, target)?.as_bytes().into(),
            host: only(headers, host)?.clone(),
        })
    }

    /// Without the query.
    pub fn path(&self) -> &str {
        let path = self.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        std::str::from_utf8(path).unwrap_or_default()
    }
}

/// The value of a field that is there once.
fn only(headers: &HeaderMap, (name, otherwise): Field) -> Result<&HeaderValue, DenyReason> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        _ => Err(otherwise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/asked?x", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn read(style: Style, fields: &[(&'static str, &str)]) -> Option<(String, String, String)> {
        let original = Original::read(&question(fields), style).ok()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((original.method.to_string(), text(&original.target), text(original.host.as_bytes())))
    }

    const ORIGINAL: [(&str, &str); 3] =
        [("x-original-method", "PUT"), ("x-original-uri", "/a?b"), ("x-original-host", "h")];
    const FORWARDED: [(&str, &str); 3] =
        [("x-forwarded-method", "PUT"), ("x-forwarded-uri", "/a?b"), ("x-forwarded-host", "h")];

    #[test]
    fn each_style_reads_its_own_fields_and_no_others() {
        let told = Some(("PUT".to_owned(), "/a?b".to_owned(), "h".to_owned()));
        assert_eq!(read(Style::Nginx, &ORIGINAL), told);
        assert_eq!(read(Style::Nginx, &FORWARDED), None);
        for style in [Style::Traefik, Style::Caddy] {
            assert_eq!(read(style, &FORWARDED), told);
            assert_eq!(read(style, &ORIGINAL), None);
        }
        let itself = Some(("POST".to_owned(), "/asked?x".to_owned(), "own".to_owned()));
        assert_eq!(read(Style::Envoy, &[("host", "own"), ORIGINAL[1], FORWARDED[1], FORWARDED[2]]), itself);
        assert_eq!(read(Style::Envoy, &ORIGINAL[1..]), None, "no host");
    }

    /// Traefik asks at `/`, whatever it is asked for. Judged as a question of Envoy's, all would pass where `/` is open.
    #[test]
    fn a_proxy_of_another_style_is_not_taken_for_envoy() {
        for others in [ORIGINAL, FORWARDED] {
            assert_eq!(read(Style::Envoy, &[[("host", "own")].as_slice(), &others].concat()), None);
        }
    }

    #[test]
    fn a_field_that_is_missing_empty_or_there_twice_is_not_believed() {
        for (style, fields) in [(Style::Nginx, ORIGINAL), (Style::Caddy, FORWARDED)] {
            for at in 0..fields.len() {
                let mut without = fields.to_vec();
                let (name, _) = without.remove(at);
                assert_eq!(read(style, &without), None, "{name} is missing");
                let twice = [fields.as_slice(), &[(name, "/a")]].concat();
                assert_eq!(read(style, &twice), None, "{name} is there twice");
                without.push((name, ""));
                assert_eq!(read(style, &without), None, "{name} is empty");
            }
        }
        assert_eq!(read(Style::Nginx, &[("x-original-method", "A B"), ORIGINAL[1], ORIGINAL[2]]), None);
    }
}
