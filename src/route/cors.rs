//! Cross-origin requests (Fetch standard, section 3.2): preflights are answered here and never reach a service, which
//! would otherwise have to let strangers' `OPTIONS` in; and what pages of other origins may read is said here alone.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// `cors`, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    pub origins: Origins,
    /// Whether pages may send cookies along and read what comes of it.
    pub credentials: bool,
    /// `Access-Control-Allow-Methods`
    pub methods: HeaderValue,
    pub headers: AllowedHeaders,
    /// `Access-Control-Expose-Headers`
    pub expose: Option<HeaderValue>,
    /// `Access-Control-Max-Age`
    pub max_age: HeaderValue,
    /// Whether pages of public networks may ask for a host in a private one.
    pub private_network: bool,
}

/// Whose pages are let in.
#[derive(Clone, Debug, PartialEq)]
pub enum Origins {
    /// `"*"`: everybody's, and so never with credentials.
    Any,
    These(Vec<Origin>),
}

/// One entry of `origins`, as browsers write origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `https://app.example.com`, or `null` (documents without an origin of their own).
    Exact(Box<str>),
    /// `https://*.example.com`: one or more labels in the place of the star.
    Below { scheme: Box<str>, suffix: Box<str> },
}

/// What a page may send of its own accord.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedHeaders {
    /// Whatever it asks for.
    Asked,
    These(HeaderValue),
}

/// What a service may have said about it; the gateway's word takes its place.
pub const SAID_BY_SERVICES: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    PRIVATE_NETWORK,
];

const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const ASKS_FOR_PRIVATE_NETWORK: &str = "access-control-request-private-network";

/// The method that a preflight asks about. `None`: this is none, whatever its method.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS {
        return None;
    }
    only(headers, &header::ORIGIN)?;
    Method::from_bytes(only(headers, &header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The one value of a field.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

impl Cors {
    /// What an answer to a request with these `headers` says, besides what it says of caches.
    pub fn said(&self, headers: &HeaderMap, preflight: bool) -> Vec<(HeaderName, HeaderValue)> {
        let mut said = Vec::new();
        let origin = match &self.origins {
            Origins::Any => HeaderValue::from_static("*"),
            Origins::These(_) => match self.admitted(headers) {
                Some(origin) => origin.clone(),
                None => return said,
            },
        };
        said.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        let yes = HeaderValue::from_static("true");
        if self.credentials {
            said.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes.clone()));
        }
        if !preflight {
            said.extend(self.expose.iter().map(|list| (header::ACCESS_CONTROL_EXPOSE_HEADERS, list.clone())));
            return said;
        }
        said.push((header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()));
        let asked = only(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS);
        match (&self.headers, asked) {
            (AllowedHeaders::These(list), _) => {
                said.push((header::ACCESS_CONTROL_ALLOW_HEADERS, list.clone()));
            }
            (AllowedHeaders::Asked, Some(list)) if is_list_of_names(list) => {
                said.push((header::ACCESS_CONTROL_ALLOW_HEADERS, list.clone()));
            }
            (AllowedHeaders::Asked, _) => {}
        }
        said.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        if self.private_network && headers.contains_key(ASKS_FOR_PRIVATE_NETWORK) {
            said.push((PRIVATE_NETWORK, yes));
        }
        said
    }

    /// What caches must not confuse. The answer to a preflight follows from what it asked for.
    pub fn vary(&self, preflight: bool) -> &'static [&'static str] {
        match (&self.origins, preflight) {
            (Origins::Any, false) => &[],
            (Origins::These(_), false) => &["Origin"],
            (_, true) => &["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"],
        }
    }

    /// Whether a page may use the user's cookies here, by the `Origin` of its request.
    pub fn trusts(&self, headers: &HeaderMap) -> bool {
        self.credentials && self.admitted(headers).is_some()
    }

    fn admitted<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = only(headers, &header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        match &self.origins {
            Origins::Any => Some(origin),
            Origins::These(origins) => origins.iter().any(|own| own.matches(text)).then_some(origin),
        }
    }
}

impl Origin {
    /// Whether a page is of this origin. Byte for byte: browsers write origins in one way only (RFC 6454 section 6.2).
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(own) => **own == *origin,
            Self::Below { scheme, suffix } => {
                let labels = origin.strip_prefix(&**scheme).and_then(|host| host.strip_suffix(&**suffix));
                labels.is_some_and(|labels| labels.split('.').all(is_label))
            }
        }
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

fn is_list_of_names(list: &HeaderValue) -> bool {
    let name = |name: &[u8]| HeaderName::from_bytes(name.trim_ascii()).is_ok();
    list.as_bytes().split(|byte| *byte == b',').all(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact_or_below_a_star() {
        let below = Origin::Below { scheme: "https://".into(), suffix: ".example.com".into() };
        for good in ["https://a.example.com", "https://a.b-c.example.com"] {
            assert!(below.matches(good), "{good}");
        }
        for bad in [
            "https://example.com",
            "https://.example.com",
            "http://a.example.com",
            "https://a..example.com",
            "https://evil.com/.example.com",
            "https://evil.com:1.example.com",
            "https://evilexample.com",
            "https://a.example.com:8443",
            "https://a.example.com.evil.com",
            "https://A.example.com",
            "null",
            "",
            "https://x@a.example.com",
        ] {
            assert!(!below.matches(bad), "{bad}");
        }
        assert!(Origin::Exact("https://a.example".into()).matches("https://a.example"));
        assert!(!Origin::Exact("https://a.example".into()).matches("https://a.example.evil"));
    }

    #[test]
    fn only_a_true_preflight_is_one() {
        let asks = |method: Method, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            preflight(&method, &headers)
        };
        let (origin, wants) = (("origin", "https://a.example"), ("access-control-request-method", "PUT"));
        assert_eq!(asks(Method::OPTIONS, &[origin, wants]), Some(Method::PUT));
        assert_eq!(asks(Method::OPTIONS, &[origin]), None);
        assert_eq!(asks(Method::OPTIONS, &[wants]), None);
        assert_eq!(asks(Method::OPTIONS, &[origin, origin, wants]), None);
        assert_eq!(asks(Method::OPTIONS, &[origin, wants, wants]), None);
        assert_eq!(asks(Method::GET, &[origin, wants]), None);
    }
}
