//! Headers that a route removes, sets and adds, on the way to its service and on the way back.

use http::{HeaderName, HeaderValue};

use super::phrase::{Facts, Phrase};

/// `headers`, resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderRules {
    pub request: Edits,
    pub response: Edits,
}

/// What is done to one head, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    pub remove: Vec<HeaderName>,
    /// In the place of every one of the name. What cannot be told (a claim of nobody) is removed all the same: a client
    /// could say it instead.
    pub set: Vec<(HeaderName, Value)>,
    /// Beside those that are there.
    pub add: Vec<(HeaderName, Value)>,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Always the same.
    Fixed(HeaderValue),
    /// Made for each request.
    Made(Phrase),
}

impl Value {
    /// The value for a request.
    pub fn of(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Made(phrase) => phrase.header(facts),
        }
    }
}

impl Edits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether a header that came has to go: it is removed or replaced, under this name or one that services take for it.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        self.remove.iter().chain(self.set.iter().map(|(name, _)| name)).any(|own| is_alias(own, name))
    }
}

/// Whether services may take one header for the other: CGI and WSGI cannot tell `-` from `_`, some not from `.`.
pub fn is_alias(one: &HeaderName, other: &HeaderName) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.as_str().bytes().map(fold).eq(other.as_str().bytes().map(fold))
}
