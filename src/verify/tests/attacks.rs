//! Forgeries, of the classes that Project Wycheproof collects for JWS, against every algorithm: with fresh keys,
//! through the whole of `verify`.

use super::*;

/// Every way to spoil `token` that must never be believed, with its name.
fn forgeries(token: &str, algorithm: Algorithm, public: &[u8]) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let bytes = decode(signature);
    let resigned = |bytes: Vec<u8>| format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(bytes));
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        resigned(bytes)
    };
    let name = algorithm.name();
    let public = SigningKey::Secret([public, &[0; 64]].concat());
    let confused = issue::sign(br#"{"alg":"HS256","kid":"k"}"#, &decode(payload), Algorithm::HS256, &public);
    let json = json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]});
    let halves = bytes.split_at(bytes.len() / 2);
    vec![
        ("first bit of the signature", flipped(0)),
        ("last bit of the signature", flipped(bytes.len() - 1)),
        ("no signature", format!("{header}.{payload}.")),
        ("no signature and no dot", format!("{header}.{payload}")),
        ("another payload", format!("{header}.{}.{signature}", encode(r#"{"sub":"admin"}"#))),
        ("no payload", format!("{header}..{signature}")),
        ("two parts", format!("{header}.{signature}")),
        ("another header", format!("{}.{payload}.{signature}", encode(&format!(r#"{{"alg":"{name}"}}"#)))),
        ("no header", format!(".{payload}.{signature}")),
        ("dots only", "..".into()),
        ("nothing", String::new()),
        ("an empty part more", format!("{token}.")),
        ("a part more", format!("{token}.foo")),
        ("five parts", format!("{token}.foo.bar")),
        ("alg none", format!("{}.{payload}.", encode(r#"{"alg":"none","kid":"k"}"#))),
        ("alg none, signed", format!("{}.{payload}.{signature}", encode(r#"{"alg":"none","kid":"k"}"#))),
        ("json serialization", json.to_string()),
        ("the public key as a secret", confused.unwrap()),
        ("padding", format!("{token}=")),
        ("a space before the signature", format!("{header}.{payload}. {signature}")),
        ("a line break after it", format!("{token}\n")),
        ("a stray character in the header", format!("{header}?.{payload}.{signature}")),
        ("a stray character in the payload", format!("{header}.{payload}#.{signature}")),
        ("a zero before the signature", resigned([&[0], bytes.as_slice()].concat())),
        ("a zero after the signature", resigned([bytes.as_slice(), &[0]].concat())),
        ("a shorter signature", resigned(bytes[1..].to_vec())),
        ("all zeros", resigned(vec![0; bytes.len()])),
        ("all ones", resigned(vec![0xff; bytes.len()])),
        ("r = 0, s = 1", resigned([vec![0; bytes.len() - 1], vec![1]].concat())),
        ("the halves swapped", resigned([halves.1, halves.0].concat())),
    ]
}

fn second_spelling(token: &str) -> Option<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let signature = token.rsplit('.').next()?;
    // Only where the last character carries bits that no byte needs.
    let (last, true) = (*signature.as_bytes().last()?, signature.len() % 4 != 0) else { return None };
    let at = ALPHABET.iter().position(|character| *character == last)?;
    Some(format!("{}{}", &token[..token.len() - 1], char::from(ALPHABET[at + 1])))
}

#[tokio::test]
async fn no_forgery_is_believed_under_any_algorithm() {
    for algorithm in Algorithm::ALL {
        let pair = Pair::new(algorithm);
        let set = KeySet::from_jwks(&jwks(&[pair.jwk_with(json!({"kid": "k"}))]), &[algorithm]).unwrap();
        let keys = KeySource::Fixed(Arc::new(set));
        let verifiers =
            verifiers(&[IssuerSettings { algorithms: vec![algorithm], keys, ..settings() }]).await;
        let public = match &pair.public {
            Material::Pem(pem) => pem.clone(),
            Material::Secret(_) => b"not the secret".to_vec(),
        };
        let token = signed(algorithm, Some("k"), &pair.signs);
        assert!(verifiers.verify(&Token::new(&token), NOW).await.is_ok(), "{algorithm:?}");
        let forged = forgeries(&token, algorithm, &public);
        let respelled = second_spelling(&token).map(|token| ("unused bits set", token));
        for (name, forgery) in forged.into_iter().chain(respelled) {
            let verified = verifiers.verify(&Token::new(&forgery), NOW).await;
            assert!(verified.is_err(), "{algorithm:?}: {name}");
        }
    }
}

#[tokio::test]
async fn a_key_that_the_token_brings_along_signs_nothing() {
    let (ours, theirs) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let set = KeySet::from_jwks(&jwks(&[ours.jwk_with(json!({"kid": "k"}))]), &[Algorithm::ES256]).unwrap();
    let keys = KeySource::Fixed(Arc::new(set));
    let settings = IssuerSettings { algorithms: vec![Algorithm::ES256], keys, ..settings() };
    let header = json!({"alg": "ES256", "kid": "k", "jwk": theirs.jwk}).to_string();
    let payload = payload(json!({})).to_string();
    let token = issue::sign(header.as_bytes(), payload.as_bytes(), Algorithm::ES256, &theirs.signs).unwrap();
    let verified = verifiers(&[settings]).await.verify(&Token::new(&token), NOW).await;
    assert_eq!(verified.err(), Some(Unverified::Signature));
}
