//! The second spelling of a token signed by ECDSA: with (r, s) also (r, n - s) verifies, and anybody can work it out.
//!
//! No verifier can tell which of the two was issued. So a list of revoked tokens has to be asked for both, or a revoked
//! token would come back in its other spelling.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The orders of the curves (SEC 2), by the names of their algorithms (RFC 7518 section 3.4), in hex.
const ORDERS: [(&str, &str); 3] = [
    ("ES256", "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"),
    (
        "ES384",
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    ),
    (
        "ES512",
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d0\
         3bb5c9b8899c47aebb6fb71e91386409",
    ),
];

/// The other spelling of a compact token, where it has one.
pub(super) fn of(compact: &str) -> Option<String> {
    let (signed, signature) = compact.rsplit_once('.')?;
    let header = URL_SAFE_NO_PAD.decode(signed.split('.').next()?).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    let algorithm = header.get("alg")?.as_str()?;
    let (_, order) = ORDERS.iter().find(|(name, _)| *name == algorithm)?;
    let order = bytes(order)?;
    let mut signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if signature.len() != 2 * order.len() {
        return None;
    }
    let s = signature.split_off(order.len());
    signature.extend(difference(&order, &s)?);
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// `a - b` of two numbers of one length, big-endian; `None` where that is below zero.
fn difference(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let mut borrowed = 0;
    let mut digits: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let (digit, first) = a.overflowing_sub(*b);
            let (digit, second) = digit.overflowing_sub(borrowed);
            borrowed = u8::from(first || second);
            digit
        })
        .collect();
    digits.reverse();
    (borrowed == 0).then_some(digits)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(algorithm: &str, signature: &[u8]) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{algorithm}\"}}"));
        format!("{header}.e30.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn the_twin_of_the_twin_is_the_token_itself() {
        for (algorithm, length) in [("ES256", 32), ("ES384", 48), ("ES512", 66)] {
            let mut signature = vec![7; 2 * length];
            signature[length] = 0;
            let one = token(algorithm, &signature);
            let twin = of(&one).expect("it has a twin");
            assert_ne!(one, twin);
            assert_eq!(of(&twin), Some(one));
        }
    }

    #[test]
    fn other_tokens_have_one_spelling() {
        for other in [
            token("HS256", &[7; 32]),
            token("RS256", &[7; 256]),
            token("EdDSA", &[7; 64]),
            token("ES256", &[7; 63]),
            token("ES256", &[0xff; 64]),
            "a.b.c".to_owned(),
            String::new(),
        ] {
            assert_eq!(of(&other), None, "{other}");
        }
    }
}
