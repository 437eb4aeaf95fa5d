//! What upstreams are told about who is calling.

use http::HeaderName;

use crate::template::Template;

/// `[identity]`, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentitySettings {
    /// Stamped on every forwarded request; clients' own copies are removed under every alias.
    pub headers: Vec<(HeaderName, Template)>,
    /// Whether the token itself is forwarded.
    pub forward_token: bool,
}

/// The identity headers of one credential, rendered.
#[derive(Debug)]
pub struct Stamps(pub Box<[(HeaderName, http::HeaderValue)]>);
