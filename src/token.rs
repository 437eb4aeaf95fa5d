//! What the client sent as its credential; nothing is believed yet.

mod alike;
mod body;
mod find;
mod twin;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use body::{BodyPlace, find_in_form, find_in_json, none_in_query};
pub use find::{Conflict, Found, find, is_for_tokens, with_body, without_cookie, without_parameter};

/// A compact JWT as received (RFC 7519 section 3.1). `Debug` shows only its length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a>(&'a str);

impl<'a> Token<'a> {
    /// Wraps what was found in a request.
    pub fn new(compact: &'a str) -> Self {
        Self(compact)
    }

    /// The compact form. For verifying, hashing and keys; never for a log.
    pub fn compact(&self) -> &'a str {
        self.0
    }

    /// The other spelling that verifies as well, where there is one: of ECDSA's signatures.
    pub fn twin(&self) -> Option<String> {
        twin::of(self.0)
    }

    /// SHA-256 of the compact form.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// [`Token::sha256`] in lower-case hex: the `{token_sha256}` of templates, and what our own tables and keys hold.
    pub fn sha256_hex(&self) -> String {
        self.sha256().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// A token that is kept beyond its request; what is kept under it shares its text. `Debug` shows only its length.
#[derive(Clone)]
pub struct Kept(Arc<str>);

impl Kept {
    pub fn new(token: &Token<'_>) -> Self {
        Self(token.compact().into())
    }

    pub fn token(&self) -> Token<'_> {
        Token::new(&self.0)
    }

    /// The text itself.
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.token().fmt(f)
    }
}

/// What a log may say of a token: the first eight bytes of its SHA-256, in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a token.
    pub fn of(token: &Token<'_>) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = token.sha256();
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place where a request may carry its token, as configured in `[token] from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `header:NAME`; in `authorization` behind the word `Bearer` (RFC 6750 section 2.1), elsewhere bare or behind it.
    Header(http::HeaderName),
    /// `cookie:NAME`
    Cookie(Box<str>),
    /// `query:NAME` (RFC 6750 section 2.3)
    Query(Box<str>),
}

impl Place {
    /// Whether a service could read the header `name` as this place, though it is another one: CGI and WSGI servers
    /// cannot tell `x_access_token` from `x-access-token`.
    pub fn is_mimicked_by(&self, name: &http::HeaderName) -> bool {
        let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
        match self {
            Self::Header(place) => {
                place != name && place.as_str().bytes().map(fold).eq(name.as_str().bytes().map(fold))
            }
            Self::Cookie(_) | Self::Query(_) => false,
        }
    }
}
