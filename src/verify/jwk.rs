//! JWK sets (RFC 7517, RFC 7518 section 6, RFC 8037) into keys.

use serde_json::{Map, Value};

use super::jose;
use super::json;
use super::keys::{Key, KeyError};
use super::settings::Algorithm;

/// Most keys read from one set; an issuer publishes a handful.
const MAX_KEYS: usize = 256;

/// Every key of the set that may serve one of `allowed`. What is of no use is passed over (RFC 7517 section 5).
pub(super) fn read_set(bytes: &[u8], allowed: &[Algorithm]) -> Result<Vec<Key>, KeyError> {
    let set = json::object(bytes).ok_or_else(|| KeyError("not a JSON object without duplicates".into()))?;
    let Some(Value::Array(list)) = set.get("keys") else {
        return Err(KeyError("a JWK set needs an array `keys`".into()));
    };
    if list.len() > MAX_KEYS {
        return Err(KeyError(format!("the set has {} keys, more than {MAX_KEYS}", list.len())));
    }
    let (mut keys, mut unfit) = (Vec::new(), Vec::new());
    for (index, jwk) in list.iter().enumerate() {
        let Value::Object(jwk) = jwk else { continue };
        match read(jwk, allowed) {
            Ok(read) => keys.extend(read),
            Err(why) => unfit.push(format!("key {index}: {why}")),
        }
    }
    if keys.is_empty() {
        let names: Vec<&str> = allowed.iter().map(|algorithm| algorithm.name()).collect();
        unfit.insert(0, format!("no key of the set can serve {}", names.join(", ")));
        return Err(KeyError(unfit.join("; ")));
    }
    if !unfit.is_empty() {
        tracing::warn!(keys.unfit = %unfit.join("; "), "Keys of a JWK set passed over");
    }
    Ok(keys)
}

/// One JWK, once for each allowed algorithm of its one family. Empty where it is for something else.
fn read(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Vec<Key>, KeyError> {
    if !is_for_verifying(jwk)? {
        return Ok(Vec::new());
    }
    let family = family(jwk)?;
    let declared = match text(jwk, "alg")? {
        None => None,
        Some(name) => match Algorithm::from_name(name) {
            Some(algorithm) => Some(algorithm),
            None => return Ok(Vec::new()),
        },
    };
    let serves =
        |algorithm: &Algorithm| allowed.contains(algorithm) && declared.is_none_or(|it| it == *algorithm);
    let serving: Vec<Algorithm> = family.iter().copied().filter(serves).collect();
    let kid = text(jwk, "kid")?;
    // A secret without `alg` serves those hashes that it is long enough for.
    let read: Vec<Result<Key, KeyError>> =
        serving.iter().map(|algorithm| key(jwk, kid, *algorithm)).collect();
    if read.iter().any(Result::is_ok) {
        return Ok(read.into_iter().flatten().collect());
    }
    read.into_iter().collect()
}

/// `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3): absent, or naming verification.
fn is_for_verifying(jwk: &Map<String, Value>) -> Result<bool, KeyError> {
    if text(jwk, "use")?.is_some_and(|usage| usage != "sig") {
        return Ok(false);
    }
    match jwk.get("key_ops") {
        None => Ok(true),
        Some(Value::Array(operations)) => Ok(operations.iter().any(|operation| operation == "verify")),
        Some(_) => Err(KeyError("`key_ops` is not an array".into())),
    }
}

/// The algorithms a key of this type and curve could serve; none for what is not supported.
fn family(jwk: &Map<String, Value>) -> Result<&'static [Algorithm], KeyError> {
    use Algorithm::{
        ES256, ES384, ES512, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    Ok(match (text(jwk, "kty")?, text(jwk, "crv")?) {
        (Some("oct"), _) => &[HS256, HS384, HS512],
        (Some("RSA"), _) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        (Some("EC"), Some("P-256")) => &[ES256],
        (Some("EC"), Some("P-384")) => &[ES384],
        (Some("EC"), Some("P-521")) => &[ES512],
        (Some("OKP"), Some("Ed25519")) => &[EdDSA],
        (None, _) => return Err(KeyError("`kty` is missing".into())),
        _ => &[],
    })
}

fn key(jwk: &Map<String, Value>, kid: Option<&str>, algorithm: Algorithm) -> Result<Key, KeyError> {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            Key::secret(kid, algorithm, &bytes(jwk, "k")?)
        }
        Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => {
            Key::rsa(kid, algorithm, &bytes(jwk, "n")?, &bytes(jwk, "e")?)
        }
        Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => {
            Key::rsa(kid, algorithm, &bytes(jwk, "n")?, &bytes(jwk, "e")?)
        }
        Algorithm::ES256 => Key::point(kid, algorithm, &point(jwk, 32)?),
        Algorithm::ES384 => Key::point(kid, algorithm, &point(jwk, 48)?),
        Algorithm::ES512 => Key::point(kid, algorithm, &point(jwk, 66)?),
        Algorithm::EdDSA => Key::point(kid, algorithm, &bytes(jwk, "x")?),
    }
}

/// The uncompressed point; each coordinate has its full length (RFC 7518 section 6.2.1.2).
fn point(jwk: &Map<String, Value>, length: usize) -> Result<Vec<u8>, KeyError> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err(KeyError("a coordinate has the wrong length".into()));
    }
    Ok([&[4], x.as_slice(), y.as_slice()].concat())
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, KeyError> {
    let text = text(jwk, name)?.ok_or_else(|| KeyError(format!("`{name}` is missing")))?;
    jose::decode(text).map_err(|_| KeyError(format!("`{name}` is not base64url")))
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, KeyError> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeyError(format!("`{name}` is not a string"))),
    }
}
