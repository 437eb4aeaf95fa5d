//! Tokens signed, for development and tests: Portcullis itself never issues one to a user.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value, json};

use super::Algorithm;
use super::keys::KeyError;

/// What signs.
pub enum SigningKey {
    /// A shared secret, raw.
    Secret(Vec<u8>),
    /// A private key in PEM: PKCS#8, or PKCS#1 for RSA.
    Pem(Vec<u8>),
    /// A shared secret as a key set holds it: it verifies, and so it can sign.
    Shared(Box<hmac::Key>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// A compact JWT with these claims and `typ` `JWT`.
pub fn issue(
    claims: &Map<String, Value>,
    algorithm: Algorithm,
    kid: Option<&str>,
    key: &SigningKey,
) -> Result<String, KeyError> {
    let mut header = json!({ "typ": "JWT", "alg": algorithm.name() });
    if let (Some(kid), Some(members)) = (kid, header.as_object_mut()) {
        members.insert("kid".into(), kid.into());
    }
    let claims = serde_json::to_vec(claims).map_err(|error| KeyError(error.to_string()))?;
    sign(header.to_string().as_bytes(), &claims, algorithm, key)
}

/// Signs any header and payload, sensible or not.
pub(super) fn sign(
    header: &[u8],
    payload: &[u8],
    algorithm: Algorithm,
    key: &SigningKey,
) -> Result<String, KeyError> {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let failed = || KeyError(format!("the key cannot sign with {}", algorithm.name()));
    let key = match key {
        SigningKey::Shared(key) if algorithm.is_hmac() => {
            let signature = hmac::sign(key, signed.as_bytes());
            return Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)));
        }
        SigningKey::Shared(_) => return Err(failed()),
        SigningKey::Secret(_) | SigningKey::Pem(_) => encoding_key(algorithm, key)?,
    };
    let signature = match theirs(algorithm) {
        Some(algorithm) => {
            jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm).map_err(|_| failed())?
        }
        None => {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING, key.as_bytes());
            let signature = pair.map_err(|_| failed())?.sign(&SystemRandom::new(), signed.as_bytes());
            URL_SAFE_NO_PAD.encode(signature.map_err(|_| failed())?)
        }
    };
    Ok(format!("{signed}.{signature}"))
}

fn encoding_key(algorithm: Algorithm, key: &SigningKey) -> Result<EncodingKey, KeyError> {
    let unfit = || KeyError(format!("not a private key in PEM (PKCS#8) that fits {}", algorithm.name()));
    let pem = match (key, algorithm.is_hmac()) {
        (SigningKey::Secret(secret), true) => return Ok(EncodingKey::from_secret(secret)),
        (SigningKey::Pem(pem), false) => pem,
        (SigningKey::Secret(_) | SigningKey::Shared(_), false) => {
            return Err(KeyError(format!("{} needs a private key", algorithm.name())));
        }
        (SigningKey::Pem(_) | SigningKey::Shared(_), true) => {
            return Err(KeyError(format!("{} needs a secret", algorithm.name())));
        }
    };
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => EncodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
        _ => EncodingKey::from_rsa_pem(pem),
    };
    key.map_err(|_| unfit())
}

/// The algorithm as jsonwebtoken names it, which does not know ES512.
fn theirs(algorithm: Algorithm) -> Option<jsonwebtoken::Algorithm> {
    use jsonwebtoken::Algorithm as Theirs;
    Some(match algorithm {
        Algorithm::HS256 => Theirs::HS256,
        Algorithm::HS384 => Theirs::HS384,
        Algorithm::HS512 => Theirs::HS512,
        Algorithm::RS256 => Theirs::RS256,
        Algorithm::RS384 => Theirs::RS384,
        Algorithm::RS512 => Theirs::RS512,
        Algorithm::PS256 => Theirs::PS256,
        Algorithm::PS384 => Theirs::PS384,
        Algorithm::PS512 => Theirs::PS512,
        Algorithm::ES256 => Theirs::ES256,
        Algorithm::ES384 => Theirs::ES384,
        Algorithm::ES512 => return None,
        Algorithm::EdDSA => Theirs::EdDSA,
    })
}
