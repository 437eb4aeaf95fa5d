//! Tokens read **without** verification: for showing them to an operator, and for revoking one that may have expired.
//!
//! Nothing here makes [`crate::claims::Claims`]: what a token says of itself is not what it proves.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::jose::Compact;
use super::{ClaimNames, Unverified, Verifiers, json};
use crate::claims::lookup;
use crate::time::Timestamp;
use crate::token::Token;

/// Longest token looked at, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// A token's content that nothing vouches for.
#[derive(Debug)]
pub struct UnverifiedContent {
    /// The JOSE header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
}

/// What names a token for revocation, as it says itself. A claim of the wrong type is taken as missing.
#[derive(Debug, PartialEq, Eq)]
pub struct UnverifiedNames {
    pub issuer: Option<Box<str>>,
    /// The realm of the issuer that the token names; `None` where it is not one of the configured ones.
    pub realm: Option<Arc<str>>,
    pub subject: Option<Box<str>>,
    pub token_id: Option<Box<str>>,
    pub session: Option<Box<str>>,
    pub issued_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
}

/// Decodes `token` without verifying anything but its form.
pub fn unverified(token: &Token<'_>) -> Result<UnverifiedContent, Unverified> {
    let compact = Compact::read(token, MAX_BYTES)?;
    let claims = json::object(&compact.payload)
        .ok_or(Unverified::Malformed("its payload is not a JSON object without duplicates"))?;
    Ok(UnverifiedContent { header: compact.header, claims })
}

impl UnverifiedContent {
    /// The names in these claims, kept where `places` says.
    fn names(&self, places: &ClaimNames, realm: Option<Arc<str>>) -> UnverifiedNames {
        let text = |name: &str| match lookup(&self.claims, name)? {
            Value::String(text) => super::reading::proper(text),
            Value::Number(number) if name == &*places.subject && name != "sub" && !number.is_f64() => {
                Some(number.to_string().into())
            }
            _ => None,
        };
        let seconds = |value: &Value| value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
        let date = |name: &str| self.claims.get(name).and_then(seconds).map(Timestamp::from_seconds);
        UnverifiedNames {
            issuer: text("iss"),
            realm,
            subject: text(&places.subject),
            token_id: text(&places.token_id),
            session: text(&places.session),
            issued_at: date("iat"),
            expires_at: date("exp"),
        }
    }
}

impl Verifiers {
    /// What names `token`, unverified, read as its issuer is configured; as RFC 7519 says where the issuer is unknown.
    pub fn unverified_names(&self, token: &Token<'_>) -> Result<UnverifiedNames, Unverified> {
        let content = unverified(token)?;
        let issuer = self.choose(&content.claims).ok().and_then(|slot| self.issuers.get(slot));
        Ok(match issuer {
            Some(issuer) => content.names(&issuer.settings.claims, Some(issuer.settings.realm.clone())),
            None => content.names(&ClaimNames::default(), None),
        })
    }
}
