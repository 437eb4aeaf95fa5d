//! What a verified token says (RFC 7519). Only `verify` makes [`Claims`]; holding one is the proof of verification.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::time::Timestamp;

/// Whose user: the subject within its realm. The same `sub` in two realms is two users.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// The realm of the issuer; empty for the default realm.
    pub realm: Arc<str>,
    /// The subject (`sub`, or wherever the issuer keeps it).
    pub subject: Box<str>,
}

/// `sub`, or `realm/sub` outside the empty realm: the `{user}` of templates.
impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.realm.is_empty() {
            write!(f, "{}/", self.realm)?;
        }
        f.write_str(&self.subject)
    }
}

/// The parts of [`Claims`], as the verifier read them.
#[derive(Debug)]
pub struct VerifiedParts {
    /// `iss`, as configured.
    pub issuer: Arc<str>,
    /// The user the token speaks for.
    pub user: User,
    /// `jti`.
    pub token_id: Option<Box<str>>,
    /// `sid`.
    pub session: Option<Box<str>>,
    /// `iat`.
    pub issued_at: Option<Timestamp>,
    /// `exp`.
    pub expires_at: Option<Timestamp>,
    /// Roles, from wherever the issuer keeps them.
    pub roles: Box<[Box<str>]>,
    /// Scopes (RFC 8693 `scope`), split.
    pub scopes: Box<[Box<str>]>,
    /// Every claim, as signed.
    pub all: Map<String, Value>,
}

/// The verified content of a token.
#[derive(Debug)]
pub struct Claims(VerifiedParts);

impl Claims {
    /// Only `verify` may call this; a test holds the crate to it.
    pub(crate) fn verified(parts: VerifiedParts) -> Self {
        Self(parts)
    }

    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// The user the token speaks for.
    pub fn user(&self) -> &User {
        &self.0.user
    }

    /// The subject within its realm.
    pub fn subject(&self) -> &str {
        &self.0.user.subject
    }

    /// `jti`, where the token has one.
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// The session id, where the token has one.
    pub fn session(&self) -> Option<&str> {
        self.0.session.as_deref()
    }

    /// `iat`, where the token has one.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.0.issued_at
    }

    /// `exp`, where the token has one (an issuer may be configured not to require it).
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.0.expires_at
    }

    /// Roles.
    pub fn roles(&self) -> &[Box<str>] {
        &self.0.roles
    }

    /// Scopes.
    pub fn scopes(&self) -> &[Box<str>] {
        &self.0.scopes
    }

    /// A claim by top-level name, or by JSON pointer (RFC 6901) when it starts with `/`.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        lookup(&self.0.all, name)
    }
}

/// A claim by top-level name, or by JSON pointer (RFC 6901) when `name` starts with `/`.
pub fn lookup<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(pointer) = name.strip_prefix('/') else { return claims.get(name) };
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts = pointer.split('/').map(unescape);
    let mut found = claims.get(&parts.next()?)?;
    for part in parts {
        found = match found {
            Value::Object(map) => map.get(&part)?,
            Value::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_by_name_or_by_pointer() {
        let Value::Object(claims) = serde_json::json!({"a": {"b/c": [1, 2]}, "/x": 3}) else {
            unreachable!()
        };
        assert_eq!(lookup(&claims, "/a/b~1c/1"), Some(&Value::from(2)));
        assert_eq!(lookup(&claims, "/a/none"), None);
        assert_eq!(lookup(&claims, "a").and_then(Value::as_object).map(Map::len), Some(1));
    }

    #[test]
    fn the_same_subject_of_two_realms_is_two_users() {
        let user = |realm: &str| User { realm: realm.into(), subject: "7".into() };
        assert_eq!(user("").to_string(), "7");
        assert_eq!(user("acme").to_string(), "acme/7");
    }
}
