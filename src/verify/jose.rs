//! The compact serialization taken apart (RFC 7515 section 7.1) and its header judged, before any key is touched.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::{Algorithm, Unverified};
use crate::token::Token;

/// Longest `kid` looked up, in bytes.
const MAX_KID: usize = 256;

/// A token in its three parts, decoded. Nothing of it is believed.
pub(super) struct Compact<'a> {
    /// The header's members.
    pub header: Map<String, Value>,
    /// The payload's bytes.
    pub payload: Vec<u8>,
    /// What was signed: header, dot and payload as they came.
    pub signed: &'a [u8],
    /// The signature's bytes, possibly empty.
    pub signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Splits and decodes. Length and dots come first, so that nothing large or odd is ever decoded.
    pub(super) fn read(token: &Token<'a>, max_bytes: usize) -> Result<Self, Unverified> {
        let compact = token.compact();
        if compact.len() > max_bytes {
            return Err(Unverified::Malformed("it is too long"));
        }
        let mut parts = compact.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unverified::Malformed("it does not have three parts"));
        };
        let signed = compact.len() - signature.len() - 1;
        let signed = compact.as_bytes().get(..signed).unwrap_or_default();
        let header = json::object(&decode(header)?)
            .ok_or(Unverified::Malformed("its header is not a JSON object without duplicates"))?;
        Ok(Self { header, payload: decode(payload)?, signed, signature: decode(signature)? })
    }

    /// Judges the header. `jku`, `x5u`, `jwk` and `x5c` are not even looked at: keys come from configuration only.
    pub(super) fn judge_header(&self) -> Result<Judged<'_>, Unverified> {
        // `none` and everything unknown.
        let algorithm = self.header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
        let algorithm = algorithm.ok_or(Unverified::Algorithm)?;
        // No extension is implemented, so each that must be understood (RFC 7515 section 4.1.11) is refused;
        // `b64` (RFC 7797) and `zip`, `enc` (RFC 7516) change what the bytes mean even without `crit`.
        if ["crit", "b64", "zip", "enc"].iter().any(|name| self.header.contains_key(*name)) {
            return Err(Unverified::Malformed("its header asks for an extension that is not supported"));
        }
        if self.text("cty")?.is_some_and(|cty| media_type(cty) == "jwt") {
            return Err(Unverified::Malformed("it is a nested token"));
        }
        let kid = self.text("kid")?;
        if kid.is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(Unverified::Malformed("its kid is too long"));
        }
        Ok(Judged { algorithm, kid, typ: self.text("typ")?.map(media_type) })
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Unverified> {
        match self.header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Unverified::Malformed("a header member is not a string")),
        }
    }
}

/// What the header says that matters.
pub(super) struct Judged<'a> {
    pub algorithm: Algorithm,
    pub kid: Option<&'a str>,
    /// Lower-cased, `application/` stripped.
    pub typ: Option<String>,
}

/// Strict base64url: no padding, no white space, no stray bits after the last byte. A second spelling of the same
/// token would be a second key to a revocation.
pub(super) fn decode(part: &str) -> Result<Vec<u8>, Unverified> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Unverified::Malformed("a part is not canonical base64url"))
}

/// `typ` and `cty` as they are compared (RFC 7515 section 4.1.9).
fn media_type(value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    match lower.strip_prefix("application/") {
        Some(rest) if !rest.contains('/') => rest.to_owned(),
        _ => lower,
    }
}
