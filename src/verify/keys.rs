//! Keys: parsed once, immutable, each bound to the algorithms it may serve.

use super::settings::Algorithm;

/// An issuer's keys.
#[derive(Debug)]
pub struct KeySet {}

/// Key sets are equal when they were read from the same bytes.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        todo!()
    }
}

/// What is wrong with a key or key set, for the operator. Never holds key material.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// One key as the configuration names it.
#[derive(Debug)]
pub struct KeyDescription {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub material: Material,
}

/// The bytes of a key.
pub enum Material {
    /// SPKI or PKCS#1 public key, or X.509 certificate, in PEM.
    Pem(Vec<u8>),
    /// A shared secret, raw.
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(…)")
    }
}

impl KeySet {
    /// Keys described one by one in the configuration.
    pub fn from_descriptions(keys: Vec<KeyDescription>) -> Result<Self, KeyError> {
        todo!()
    }

    /// A JWK set (RFC 7517). Keys for other uses or algorithms are passed over; an error if none is left for `allowed`.
    pub fn from_jwks(json: &[u8], allowed: &[Algorithm]) -> Result<Self, KeyError> {
        todo!()
    }
}
