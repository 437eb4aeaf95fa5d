//! Keys: every algorithm in every form a key comes in, and what is refused.

use super::*;

async fn verify(algorithms: &[Algorithm], keys: KeySet, token: &str) -> Result<(), Unverified> {
    let keys = KeySource::Fixed(Arc::new(keys));
    let settings = IssuerSettings { algorithms: algorithms.to_vec(), keys, ..settings() };
    verifiers(&[settings]).await.verify(&Token::new(token), NOW).await.map(|_| ())
}

fn described(kid: Option<&str>, algorithm: Algorithm, material: Material) -> KeyDescription {
    KeyDescription { kid: kid.map(Into::into), algorithm, material }
}

#[tokio::test]
async fn every_algorithm_verifies_what_it_signed_and_nothing_else() {
    for algorithm in Algorithm::ALL {
        let (pair, other) = (Pair::new(algorithm), Pair::new(Algorithm::ES256));
        let token = signed(algorithm, Some("k"), &pair.signs);
        let set = || KeySet::from_jwks(&jwks(&[pair.jwk_with(json!({"kid": "k"}))]), &[algorithm]).unwrap();
        assert_eq!(verify(&[algorithm], set(), &token).await, Ok(()), "{algorithm:?}");
        let tampered = token.replacen('.', ".e30", 1);
        assert!(verify(&[algorithm], set(), &tampered).await.is_err(), "{algorithm:?}");
        let foreign = signed(Algorithm::ES256, Some("k"), &other.signs);
        assert!(verify(&Algorithm::ALL, set(), &foreign).await.is_err(), "{algorithm:?}");
        let set = KeySet::from_descriptions(vec![described(None, algorithm, pair.public)]).unwrap();
        assert_eq!(verify(&[algorithm], set, &token).await, Ok(()), "{algorithm:?} described");
    }
}

#[tokio::test]
async fn a_jwk_without_alg_serves_one_family_and_one_with_alg_only_that() {
    let pair = Pair::new(Algorithm::RS256);
    let all = Algorithm::ALL;
    let any = || KeySet::from_jwks(&jwks(&[pair.jwk_with(json!({"kid": "k"}))]), &all).unwrap();
    let one =
        || KeySet::from_jwks(&jwks(&[pair.jwk_with(json!({"kid": "k", "alg": "PS384"}))]), &all).unwrap();
    for algorithm in [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384] {
        let token = signed(algorithm, Some("k"), &pair.signs);
        assert_eq!(verify(&all, any(), &token).await, Ok(()));
        let expected = if algorithm == Algorithm::PS384 { Ok(()) } else { Err(Unverified::Signature) };
        assert_eq!(verify(&all, one(), &token).await, expected, "{algorithm:?}");
    }
    let curve = Pair::new(Algorithm::ES256).jwk_with(json!({"alg": "ES384"}));
    assert!(KeySet::from_jwks(&jwks(&[curve]), &all).is_err(), "alg and curve contradict each other");
}

#[tokio::test]
async fn keys_for_other_uses_are_passed_over() {
    let pair = Pair::new(Algorithm::ES256);
    for use_ in [
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": []}),
        json!({"key_ops": "verify"}),
        json!({"alg": "ECDH-ES"}),
        json!({"use": 1}),
    ] {
        assert!(KeySet::from_jwks(&jwks(&[pair.jwk_with(use_.clone())]), &Algorithm::ALL).is_err(), "{use_}");
    }
    let odd = [json!({"kty": "OKP", "crv": "Ed448", "x": "AA"}), json!(1), json!({}), pair.jwk.clone()];
    let set = KeySet::from_jwks(&jwks(&odd), &Algorithm::ALL).unwrap();
    assert_eq!(set.len(), 1);
    assert!(KeySet::from_jwks(&jwks(&[pair.jwk]), &[Algorithm::RS256]).is_err(), "none left for RS256");
}

#[test]
fn a_set_that_is_no_set_is_refused() {
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(KeySet::from_jwks(bad.as_bytes(), &Algorithm::ALL).is_err(), "{bad}");
    }
}

#[test]
fn short_secrets_are_an_error_that_does_not_tell_them() {
    for (algorithm, least) in [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)] {
        let secret = |length| vec![described(None, algorithm, Material::Secret(vec![b'x'; length]))];
        assert!(KeySet::from_descriptions(secret(least)).is_ok());
        let error = KeySet::from_descriptions(secret(least - 1)).unwrap_err().to_string();
        assert!(error.contains(algorithm.name()) && !error.contains("xxx"), "{error}");
    }
}

#[test]
fn a_weak_or_malformed_public_key_is_refused() {
    let rsa = |n: &[u8]| json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB"});
    let mut padded = vec![0; 256];
    padded.extend([0xff; 255]);
    for n in [vec![0xff; 128], vec![0xff; 255], padded, vec![], [vec![0x7f], vec![0xff; 255]].concat()] {
        assert!(KeySet::from_jwks(&jwks(&[rsa(&n)]), &Algorithm::ALL).is_err(), "{} bytes", n.len());
    }
    let off_curve = json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([1; 32])});
    assert!(KeySet::from_jwks(&jwks(&[off_curve]), &Algorithm::ALL).is_err());
    let p384 = Pair::new(Algorithm::ES384);
    assert!(KeySet::from_jwks(&jwks(&[p384.jwk_with(json!({"crv": "P-256"}))]), &Algorithm::ALL).is_err());
}

#[test]
fn a_pem_must_be_public_and_of_the_kind_its_algorithm_needs() {
    let (ec, rsa) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::RS256));
    let SigningKey::Pem(private) = &ec.signs else { unreachable!() };
    let of = |algorithm, pem: &[u8]| {
        KeySet::from_descriptions(vec![described(None, algorithm, Material::Pem(pem.to_vec()))])
    };
    assert!(of(Algorithm::ES256, private).unwrap_err().to_string().contains("private"));
    let (Material::Pem(ec), Material::Pem(rsa)) = (&ec.public, &rsa.public) else { unreachable!() };
    for (algorithm, pem) in [
        (Algorithm::RS256, ec),
        (Algorithm::ES256, rsa),
        (Algorithm::ES384, ec),
        (Algorithm::EdDSA, ec),
        (Algorithm::HS256, rsa),
    ] {
        assert!(of(algorithm, pem).is_err(), "{algorithm:?}");
    }
    assert!(of(Algorithm::RS256, b"no pem").is_err());
}

#[tokio::test]
async fn rsa_keys_come_as_pkcs1_and_certificates_too() {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let token = signed(Algorithm::RS256, None, &SigningKey::Pem(pem("PRIVATE KEY", der.as_ref())));
    let pkcs1 = pem("RSA PUBLIC KEY", pair.public_key().as_ref());
    let set =
        KeySet::from_descriptions(vec![described(None, Algorithm::RS256, Material::Pem(pkcs1))]).unwrap();
    assert_eq!(verify(&[Algorithm::RS256], set, &token).await, Ok(()));
    for (algorithm, certificate) in [(Algorithm::ES256, EC_CERTIFICATE), (Algorithm::RS256, RSA_CERTIFICATE)]
    {
        let material = Material::Pem(certificate.as_bytes().to_vec());
        assert!(
            KeySet::from_descriptions(vec![described(None, algorithm, material)]).is_ok(),
            "{algorithm:?}"
        );
    }
}

#[tokio::test]
async fn a_kid_is_a_name_and_an_unknown_one_is_a_denial() {
    let (a, b) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let named = jwks(&[a.jwk_with(json!({"kid": "a"})), b.jwk_with(json!({"kid": "b"}))]);
    let set = || KeySet::from_jwks(&named, &[Algorithm::ES256]).unwrap();
    let judge = async |kid, pair: &Pair| {
        verify(&[Algorithm::ES256], set(), &signed(Algorithm::ES256, kid, &pair.signs)).await
    };
    assert_eq!(judge(Some("a"), &a).await, Ok(()));
    assert_eq!(judge(Some("a"), &b).await, Err(Unverified::Signature));
    for unknown in ["c", "", "../a", "A"] {
        assert_eq!(judge(Some(unknown), &b).await, Err(Unverified::Signature), "never the last key");
    }
    assert_eq!(judge(None, &b).await, Ok(()), "without a name each of a few is tried");
}

#[tokio::test]
async fn a_token_without_kid_is_not_tried_with_more_than_four_keys() {
    let pairs: Vec<Pair> = (0..5).map(|_| Pair::new(Algorithm::ES256)).collect();
    let keys: Vec<Value> = pairs.iter().map(|pair| pair.jwk.clone()).collect();
    let token = signed(Algorithm::ES256, None, &pairs[0].signs);
    for (count, expected) in [(4, Ok(())), (5, Err(Unverified::Signature))] {
        let set = KeySet::from_jwks(&jwks(&keys[..count]), &[Algorithm::ES256]).unwrap();
        assert_eq!(verify(&[Algorithm::ES256], set, &token).await, expected);
    }
}

#[tokio::test]
async fn a_set_that_names_no_key_ignores_the_names_in_tokens() {
    let pair = Pair::new(Algorithm::EdDSA);
    let set = KeySet::from_jwks(&jwks(std::slice::from_ref(&pair.jwk)), &[Algorithm::EdDSA]).unwrap();
    assert_eq!(
        verify(&[Algorithm::EdDSA], set, &signed(Algorithm::EdDSA, Some("x"), &pair.signs)).await,
        Ok(())
    );
}

#[test]
fn a_kid_given_twice_in_the_configuration_is_an_error() {
    let key = || described(Some("k"), Algorithm::HS256, Material::Secret(SECRET.to_vec()));
    assert!(KeySet::from_descriptions(vec![key(), key()]).is_err());
    assert!(KeySet::from_descriptions(vec![]).is_err());
}

#[test]
fn secrets_never_come_from_the_network() {
    let jwk = Pair::new(Algorithm::HS256).jwk;
    assert!(KeySet::from_jwks(&jwks(std::slice::from_ref(&jwk)), &Algorithm::ALL).is_ok());
    assert!(KeySet::from_fetched_jwks(&jwks(&[jwk]), &Algorithm::ALL).is_err());
}

#[test]
fn sets_are_equal_when_they_were_read_from_the_same_bytes() {
    let (a, b) = (jwks(&[Pair::new(Algorithm::ES256).jwk]), jwks(&[Pair::new(Algorithm::ES256).jwk]));
    let set = |bytes: &[u8]| KeySet::from_jwks(bytes, &Algorithm::ALL).unwrap();
    assert_eq!(set(&a), set(&a));
    assert_ne!(set(&a), set(&b));
    assert_eq!(format!("{:?}", set(&a)), "KeySet(1 keys)");
}

const EC_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUCPcwWVUdWLJ43j9hm7sOsczQm+owCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjEwNTA5NDdaGA8yMTI2MTAyODA1MDk0
N1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPIo
itrK/SXK+DsEWeDWbViw9xLnUJojIMWuwJmereyp9v1ZmlYJhYGckeKsmNWkfLIe
fLRt3rkwudkZEpirV+KjUzBRMB0GA1UdDgQWBBSzTiq4mXVLHtrYodIEHoSl1wBH
1TAfBgNVHSMEGDAWgBSzTiq4mXVLHtrYodIEHoSl1wBH1TAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIB/OJNMTovWGTBG8cjD9eEpkdwu2I6B9yajv
+/a1FoIhAiEAxKyTezn8/X293wcB3iVvzhApPpjuSdXMVufJEQi05eU=
-----END CERTIFICATE-----";

const RSA_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIDATCCAemgAwIBAgIUJh1PFX/YotM0059/WcT5eZ/MzzAwDQYJKoZIhvcNAQEL
BQAwDzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjEwNTA5NDdaGA8yMTI2MTAyODA1
MDk0N1owDzENMAsGA1UEAwwEdGVzdDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCC
AQoCggEBALG9ydpVml1Qe1J4hzgKq5S2l4D214qt8oeDBQsbfiYpnI/8ecAUiKlL
Ok4efuj7HPYShxMtWusxvZjyqD5k1Yp2JD97hWes1/ioJSZu0lMzQJO3S/wmXQ3i
ZsIkUTpwRGw2IsLVv4ody4X2ZTccvkXrBXU+cenxnDSmlVMvZzVGszj7qpjBi+ag
lAgXOTJOjd/1kEujd28hw+l0cScnlcU42Buvcuh9j4YI+haXOA6ZscnRi+mxidFf
smuy2mdHz8hve8ZujECeDCpgDvnaT47bwzy/ehGzyHZjWyGkQ51ErcmVABGC8FGz
21fHAfo+qp1TaXVQHVguhnAHtUC1RN8CAwEAAaNTMFEwHQYDVR0OBBYEFFRZsmjf
wgctkPf80A+EWxaFkgWPMB8GA1UdIwQYMBaAFFRZsmjfwgctkPf80A+EWxaFkgWP
MA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADggEBACqKglKKvrebMl49
Mn2kf4I9xF6BZDu6eFk1dFyQSTnCU6eAfGaK8/CLj8mT8LspbfM0xBpuRbVhCSGM
hzu6T5pTrSYIaeDuBQQHFOq5nPkBIFXjhkV/ReYI5gV19g07fHVrmOeI7s58Cv5y
vzQB+4fmnJS9LmGLaw7rSuQfKiDdnlgIqw9/MKjquMf+lk+HHRPbo02FEzSJtND+
8g3bCDGrhH/9IPbK7onyDX1YNxSRrXalnmgqsfKYZkVzezqYcdkVcTUGq51SzCJ1
hpTlQo6lTOsYRpXtliwvXHccex3A5yCRhRPHlkb/Z6RW/SGN5LFqauz2KxrBqH3z
LKdAdsk=
-----END CERTIFICATE-----";
