//! What upstreams are told about who is calling, and what clients may not tell them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::claims::Claims;
use crate::ledger::profile::Profile;
use crate::template::Template;
use crate::token::Token;

/// `[identity]`, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentitySettings {
    /// Stamped on every forwarded request; clients' own copies are removed under every alias.
    pub headers: Vec<(HeaderName, Template)>,
    /// Whether the token itself is forwarded.
    pub forward_token: bool,
}

/// The identity headers of one credential, rendered: a value for each configured header whose claim the token has, and
/// where that header stands among all. Most tokens have one, and it costs no jump.
#[derive(Debug, Default)]
pub struct Stamps(SmallVec<[(usize, HeaderValue); 1]>);

/// Renders stamps, and knows which header names are not a client's to send.
#[derive(Debug)]
pub struct Identity {
    settings: IdentitySettings,
    /// The configured names as Pingora wants them: shared text, so that a header costs no copy of its name.
    names: Box<[Bytes]>,
    reserved: Reserved,
}

impl Identity {
    /// Reserves the configured names beside the ones that are always reserved.
    pub fn new(settings: IdentitySettings) -> Self {
        let reserved = Reserved::new(settings.headers.iter().map(|(name, _)| name.as_str()));
        let shared = |(name, _): &(HeaderName, Template)| Bytes::copy_from_slice(name.as_str().as_bytes());
        let names = settings.headers.iter().map(shared).collect();
        Self { settings, names, reserved }
    }

    /// Whether the token itself is forwarded.
    pub fn forwards_token(&self) -> bool {
        self.settings.forward_token
    }

    /// Renders the headers of a credential. A header whose claim is missing, or whose value cannot stand in a header
    /// unambiguously (a role with a comma in it), is left out: less is told, never something else.
    pub fn stamps(&self, claims: &Claims, token: &Token<'_>) -> Stamps {
        self.render(|template| template.render_header(claims, token).ok())
    }

    /// Whether some header tells of the user's profile: only then it has to be known.
    pub fn tells_profile(&self) -> bool {
        self.settings.headers.iter().any(|(_, template)| template.tells_profile())
    }

    /// Renders the headers that tell of the user's profile; of several profiles that know a name the first one's counts.
    pub fn profile_stamps(&self, claims: &Claims, token: &Token<'_>, profiles: &[Arc<Profile>]) -> Stamps {
        let value = |name: &str| profiles.iter().find_map(|profile| profile.get(name));
        self.render(|template| {
            let told = template.tells_profile();
            told.then(|| template.render_header_with(claims, token, value).ok()).flatten()
        })
    }

    fn render(&self, value: impl Fn(&Template) -> Option<String>) -> Stamps {
        // One allocation for all values and for the count of who holds them: it is cold memory when the token comes again.
        let mut text = SmallVec::<[u8; 48]>::new();
        let rendered = |(place, (_, template)): (usize, &(HeaderName, Template))| {
            let value = value(template)?;
            let begin = text.len();
            text.extend_from_slice(value.as_bytes());
            Some((place, begin..text.len()))
        };
        let rendered: Vec<_> = self.settings.headers.iter().enumerate().filter_map(rendered).collect();
        let all = Bytes::from_owner(text);
        // UTF-8 is passed as it is (RFC 9110 section 5.5, `obs-text`); line ends are what must not pass.
        let stamp = |(place, range)| Some((place, HeaderValue::from_maybe_shared(all.slice(range)).ok()?));
        Stamps(rendered.into_iter().filter_map(stamp).collect())
    }

    /// The headers to set for a credential.
    pub fn headers<'a>(&'a self, stamps: &'a Stamps) -> impl Iterator<Item = (&'a Bytes, &'a HeaderValue)> {
        stamps.0.iter().filter_map(|(place, value)| Some((self.names.get(*place)?, value)))
    }

    /// Every configured name.
    pub fn names(&self) -> impl Iterator<Item = &Bytes> {
        self.names.iter()
    }

    /// Whether this is a configured name in another spelling.
    pub fn is_mimicked_by(&self, name: &HeaderName) -> bool {
        let own = || self.names.iter().any(|own| **own == *name.as_str().as_bytes());
        self.reserved.is_identity(name.as_str()) && !own()
    }

    /// The names in `headers` that a client may not send on. `trusted` says that the peer is a trusted proxy, which may
    /// speak of where a request came from, but never of who the user is.
    pub fn forbidden<'a>(
        &'a self,
        headers: &'a HeaderMap,
        trusted: bool,
    ) -> impl Iterator<Item = &'a HeaderName> {
        headers.keys().filter(move |name| self.reserved.contains(name.as_str(), trusted))
    }
}

/// Header names compared as services compare them: CGI and WSGI servers cannot tell `-` from `_`, some not from `.`
/// (CVE-2025-64484, CVE-2026-54763). So every character that is not alphanumeric counts as `-`.
#[derive(Debug)]
struct Reserved {
    identity: Box<[Box<str>]>,
}

/// Names by which proxies tell services where a request came from, and by which clients have overridden paths and methods.
const PROVENANCE: [&str; 15] = [
    "forwarded",
    "front-end-https",
    "x-real-ip",
    "x-host",
    "x-scheme",
    "x-url-scheme",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "x-request-id",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-envoy-original-path",
    "x-envoy-external-address",
];
/// CGI makes `HTTP_PROXY` of it, by which libraries find their own way out (CVE-2016-5385). No proxy has ever sent it.
const HTTPOXY: &str = "proxy";
const PROVENANCE_PREFIXES: [&str; 3] = ["x-forwarded-", "x-original-", "x-rewrite-"];

impl Reserved {
    fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            identity: names.map(|name| name.bytes().map(|byte| char::from(fold(byte))).collect()).collect(),
        }
    }

    fn is_identity(&self, name: &str) -> bool {
        self.identity.iter().any(|reserved| same(name, reserved))
    }

    fn contains(&self, name: &str, trusted: bool) -> bool {
        if same(name, HTTPOXY) || self.is_identity(name) {
            return true;
        }
        // Nearly every header a client sends begins otherwise. A proxy spells its own with hyphens, and may pass on
        // what its client spells otherwise: a service would take that for the proxy's.
        let plain = || name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !name.starts_with(['f', 't', 'x']) || trusted && plain() {
            return false;
        }
        PROVENANCE.iter().any(|reserved| same(name, reserved))
            || PROVENANCE_PREFIXES
                .iter()
                .any(|prefix| name.get(..prefix.len()).is_some_and(|start| same(start, prefix)))
    }
}

fn same(name: &str, folded: &str) -> bool {
    name.len() == folded.len() && name.bytes().map(fold).eq(folded.bytes())
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(name: &str, trusted: bool) -> bool {
        let settings = IdentitySettings {
            headers: vec![(HeaderName::from_static("x-user-id"), Template::parse("{sub}").unwrap())],
            forward_token: true,
        };
        let identity = Identity::new(settings);
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("x"));
        identity.forbidden(&headers, trusted).count() == 1
    }

    #[test]
    fn an_identity_header_is_forbidden_under_every_alias_even_to_trusted_proxies() {
        for name in ["x-user-id", "X-User-Id", "x_user_id", "X.User.Id", "x-user_id", "x~user!id"] {
            assert!(forbidden(name, false), "{name}");
            assert!(forbidden(name, true), "{name}");
        }
        assert!(forbidden("Proxy", false) && forbidden("proxy", true), "CVE-2016-5385");
        for name in ["x-user-ids", "x-user", "user-id", "accept", "proxy-status"] {
            assert!(!forbidden(name, false), "{name}");
        }
    }

    #[test]
    fn where_a_request_came_from_is_believed_of_trusted_proxies_only() {
        for name in
            ["x-forwarded-for", "forwarded", "x-original-url", "x-rewrite-url", "X-HTTP-Method-Override"]
        {
            assert!(forbidden(name, false), "{name}");
            assert!(!forbidden(name, true), "{name}");
        }
        for name in ["X_Forwarded_For", "x-forwarded_host", "x.real.ip"] {
            assert!(forbidden(name, false) && forbidden(name, true), "{name}: the proxy's client's");
        }
        assert!(!forbidden("x_other", true));
    }
}
