//! Keys: parsed once, immutable, each bound to the algorithms it may serve.

use std::collections::HashMap;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{PublicKey as RsaPublicKey, PublicKeyComponents};
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm};
use jsonwebtoken::DecodingKey;
use sha2::{Digest, Sha256};

use super::issue::SigningKey;
use super::jwk;
use super::settings::Algorithm;

/// Most keys tried for one token: those of one `kid` and algorithm, or those of a set without names.
const MAX_TRIED: usize = 4;

/// An issuer's keys.
pub struct KeySet {
    keys: Vec<Key>,
    by_kid: HashMap<Box<str>, Vec<usize>>,
    /// Over everything the set was read from.
    digest: [u8; 32],
}

/// Key sets are equal when they were read from the same bytes.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// Says how many keys there are, and nothing of them.
impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
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

impl KeyDescription {
    /// Whether it describes a key at all: so that each of several is told of at its own place.
    pub fn check(&self) -> Result<(), KeyError> {
        self.parsed().map(drop)
    }

    fn parsed(&self) -> Result<Key, KeyError> {
        match &self.material {
            Material::Pem(pem) => Key::pem(self.kid.as_deref(), self.algorithm, pem),
            Material::Secret(secret) => Key::secret(self.kid.as_deref(), self.algorithm, secret),
        }
    }
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

/// Names a key by its material, algorithm and `kid`: a key that a rotation keeps is the same key afterwards.
pub(super) type KeyId = [u8; 32];

/// One key for one algorithm; a JWK that serves several becomes several of these.
pub(super) struct Key {
    pub id: KeyId,
    pub kid: Option<Box<str>>,
    algorithm: Algorithm,
    check: Check,
}

enum Check {
    Public(ParsedPublicKey),
    /// Boxed: it is twenty times the size of the other.
    Hmac(Box<hmac::Key>),
}

impl Key {
    /// Whether `signature` is this key's over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.check {
            Check::Public(key) => key.verify_sig(message, signature).is_ok(),
            Check::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }

    /// A shared secret, at least as long as the hash (RFC 7518 section 3.2).
    pub(super) fn secret(kid: Option<&str>, algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        let hash = match algorithm {
            Algorithm::HS256 => hmac::HMAC_SHA256,
            Algorithm::HS384 => hmac::HMAC_SHA384,
            Algorithm::HS512 => hmac::HMAC_SHA512,
            other => return Err(KeyError(format!("a secret cannot serve {}", other.name()))),
        };
        let least = hash.digest_algorithm().output_len();
        if secret.len() < least {
            let (name, is) = (algorithm.name(), secret.len());
            return Err(KeyError(format!(
                "a secret for {name} needs at least {least} bytes, this one has {is}"
            )));
        }
        Ok(Self::new(kid, algorithm, secret, Check::Hmac(Box::new(hmac::Key::new(hash, secret)))))
    }

    /// An elliptic-curve point (uncompressed) or an Ed25519 key, raw.
    pub(super) fn point(kid: Option<&str>, algorithm: Algorithm, raw: &[u8]) -> Result<Self, KeyError> {
        let (check, length): (&'static dyn VerificationAlgorithm, usize) = match algorithm {
            Algorithm::ES256 => (&signature::ECDSA_P256_SHA256_FIXED, 65),
            Algorithm::ES384 => (&signature::ECDSA_P384_SHA384_FIXED, 97),
            Algorithm::ES512 => (&signature::ECDSA_P521_SHA512_FIXED, 133),
            Algorithm::EdDSA => (&signature::ED25519, 32),
            other => return Err(KeyError(format!("this kind of key cannot serve {}", other.name()))),
        };
        let unfit = || KeyError(format!("not a key of the curve that {} needs", algorithm.name()));
        if raw.len() != length {
            return Err(unfit());
        }
        let parsed = ParsedPublicKey::new(check, raw).map_err(|_| unfit())?;
        Ok(Self::new(kid, algorithm, raw, Check::Public(parsed)))
    }

    /// An RSA key of 2048 to 8192 bits (RFC 7518 section 3.3), from modulus and exponent.
    pub(super) fn rsa(kid: Option<&str>, algorithm: Algorithm, n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let check: &'static RsaParameters = match algorithm {
            Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            other => return Err(KeyError(format!("an RSA key cannot serve {}", other.name()))),
        };
        let n = n.get(n.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default();
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        // aws-lc would find this out only at the first token.
        if !(2048..=8192).contains(&bits) {
            return Err(KeyError(format!("an RSA key needs 2048 to 8192 bits, this one has {bits}")));
        }
        let parsed = PublicKeyComponents { n, e }
            .to_parsed_public_key(check)
            .map_err(|_| KeyError("not a valid RSA public key".into()))?;
        Ok(Self::new(kid, algorithm, &[n, e].concat(), Check::Public(parsed)))
    }

    /// A public key or certificate in PEM. A private key is refused: a verifier has no business with it.
    pub(super) fn pem(kid: Option<&str>, algorithm: Algorithm, pem: &[u8]) -> Result<Self, KeyError> {
        let unfit =
            || KeyError(format!("no public key or certificate in PEM that fits {}", algorithm.name()));
        if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
            return Err(KeyError("this is a private key; give the public key or certificate".into()));
        }
        let decoded = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return Err(unfit()),
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => DecodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => DecodingKey::from_rsa_pem(pem),
            Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => DecodingKey::from_rsa_pem(pem),
        };
        let decoded = decoded.map_err(|_| unfit())?;
        let raw = decoded.try_get_as_bytes().map_err(|_| unfit())?;
        if matches!(decoded.family(), jsonwebtoken::AlgorithmFamily::Rsa) {
            let key = RsaPublicKey::from_der(raw).map_err(|_| unfit())?;
            let parts = PublicKeyComponents::<Vec<u8>>::from(&key);
            return Self::rsa(kid, algorithm, &parts.n, &parts.e);
        }
        Self::point(kid, algorithm, raw)
    }

    fn new(kid: Option<&str>, algorithm: Algorithm, material: &[u8], check: Check) -> Self {
        let mut id = Sha256::new();
        id.update(algorithm.name());
        // `kid` belongs to the name, with its length, so that no two (kid, material) pairs run together.
        id.update(kid.map_or(u64::MAX, |kid| kid.len() as u64).to_be_bytes());
        id.update(kid.unwrap_or_default());
        id.update(material);
        Self { id: id.finalize().into(), kid: kid.map(Into::into), algorithm, check }
    }
}

impl KeySet {
    /// Keys described one by one in the configuration. Two keys of one `kid` are an error.
    pub fn from_descriptions(keys: Vec<KeyDescription>) -> Result<Self, KeyError> {
        let mut parsed: Vec<Key> = Vec::with_capacity(keys.len());
        for description in keys {
            let kid = description.kid.as_deref();
            if kid.is_some() && parsed.iter().any(|key| key.kid.as_deref() == kid) {
                return Err(KeyError(format!("kid `{}` is given twice", kid.unwrap_or_default())));
            }
            parsed.push(description.parsed()?);
        }
        if parsed.is_empty() {
            return Err(KeyError("there is no key".into()));
        }
        let mut digest = Sha256::new();
        parsed.iter().for_each(|key| digest.update(key.id));
        Ok(Self::of(parsed, digest.finalize().into()))
    }

    /// A JWK set (RFC 7517). Keys for other uses or algorithms are passed over; an error if none is left for `allowed`.
    pub fn from_jwks(json: &[u8], allowed: &[Algorithm]) -> Result<Self, KeyError> {
        Self::jwks(json, allowed)
    }

    /// A JWK set from the network, where a shared secret has no place: whoever can read it could sign.
    pub(super) fn from_fetched_jwks(json: &[u8], allowed: &[Algorithm]) -> Result<Self, KeyError> {
        let public: Vec<Algorithm> =
            allowed.iter().copied().filter(|algorithm| !algorithm.is_hmac()).collect();
        Self::jwks(json, &public)
    }

    fn jwks(json: &[u8], allowed: &[Algorithm]) -> Result<Self, KeyError> {
        let keys = jwk::read_set(json, allowed)?;
        let mut digest = Sha256::new();
        allowed.iter().for_each(|algorithm| digest.update(algorithm.name()));
        digest.update(json);
        Ok(Self::of(keys, digest.finalize().into()))
    }

    fn of(keys: Vec<Key>, digest: [u8; 32]) -> Self {
        let mut by_kid: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            if let Some(kid) = &key.kid {
                by_kid.entry(kid.clone()).or_default().push(index);
            }
        }
        Self { keys, by_kid, digest }
    }

    /// How many keys there are; one JWK counts once for each algorithm it serves.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The first shared secret of the set, with its `kid`: for signing development tokens.
    pub fn shared_secret(&self) -> Option<(Option<&str>, Algorithm, SigningKey)> {
        self.keys.iter().find_map(|key| match &key.check {
            Check::Hmac(secret) => {
                Some((key.kid.as_deref(), key.algorithm, SigningKey::Shared(secret.clone())))
            }
            Check::Public(_) => None,
        })
    }

    /// Never true: a set without keys is not built.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the key of this name is in the set.
    pub(super) fn holds(&self, id: &KeyId) -> bool {
        self.keys.iter().any(|key| key.id == *id)
    }

    /// The key that made `signature`.
    ///
    /// A token with a `kid` is tried with the keys of that name only. A token without one, and any token where the
    /// set names no key at all, is tried with each key that fits `algorithm`, if these are at most four: more would
    /// let a stranger's token cost as many signature checks as the set has keys.
    pub(super) fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Search<'_> {
        let fits = |key: &&Key| key.algorithm == algorithm;
        let kid = kid.filter(|_| !self.by_kid.is_empty());
        let fitting: Vec<&Key> = match kid {
            Some(kid) => {
                let Some(named) = self.by_kid.get(kid) else { return Search::UnknownKid };
                let named = named.iter().filter_map(|index| self.keys.get(*index));
                named.filter(fits).take(MAX_TRIED).collect()
            }
            None => self.keys.iter().filter(fits).take(MAX_TRIED + 1).collect(),
        };
        if fitting.len() > MAX_TRIED {
            return Search::Refused;
        }
        match fitting.into_iter().find(|key| key.verifies(message, signature)) {
            Some(key) => Search::Found(key),
            None if kid.is_some() => Search::Refused,
            // Without a name nothing tells a forgery from a rotated key: worth the same one look.
            None => Search::UnknownKid,
        }
    }
}

/// How looking for a token's key ended.
pub(super) enum Search<'a> {
    Found(&'a Key),
    /// The set does not know the name; a newer one may.
    UnknownKid,
    /// No key that fits made this signature.
    Refused,
}
