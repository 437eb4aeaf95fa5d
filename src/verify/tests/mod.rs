//! The verifier's rules, each proven with tokens that are really signed.

mod attacks;
mod keys;
mod remote;
mod rules;
mod times;
mod wycheproof;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::issue::SigningKey;
use super::keys::{KeyDescription, KeySet, Material};
use super::*;

const ISSUER: &str = "https://auth.example.com";
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const SECRET: &[u8] = b"sixty-four bytes of secret, so that each of the hashes is content";

fn secret() -> SigningKey {
    SigningKey::Secret(SECRET.to_vec())
}

/// An issuer with one shared secret and the default rules.
fn settings() -> IssuerSettings {
    let material = Material::Secret(SECRET.to_vec());
    let key = KeyDescription { kid: None, algorithm: Algorithm::HS256, material };
    IssuerSettings {
        issuer: ISSUER.into(),
        realm: "".into(),
        audience: vec!["api".into()],
        algorithms: vec![Algorithm::HS256],
        keys: KeySource::Fixed(Arc::new(KeySet::from_descriptions(vec![key]).unwrap())),
        leeway: Duration::ZERO,
        required: ["exp", "iat", "sub", "iss", "aud"].map(Into::into).into(),
        token_lifetime: Duration::from_secs(900),
        refresh_lifetime: Duration::from_secs(604_800),
        claims: ClaimNames::default(),
        types: vec!["jwt".into(), "at+jwt".into()],
        max_bytes: 16 * 1024,
        refresh: RefreshTokens {
            audience: Vec::new(),
            types: vec!["jwt".into(), "rt+jwt".into()],
            required: ["exp", "iat", "sub", "iss"].map(Into::into).into(),
        },
    }
}

fn metrics() -> VerifyMetrics {
    VerifyMetrics::register(&Registry::new()).unwrap()
}

async fn verifiers(settings: &[IssuerSettings]) -> Verifiers {
    Verifiers::start(settings, None, &metrics(), &CancellationToken::new()).await
}

/// Claims that pass, with `changes` laid over them; a null takes the claim away.
fn payload(changes: Value) -> Value {
    let now = NOW.seconds();
    let mut claims = json!({"iss": ISSUER, "aud": "api", "sub": "9", "iat": now - 10, "exp": now + 600});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn hs256(header: &str, payload: &str) -> String {
    issue::sign(header.as_bytes(), payload.as_bytes(), Algorithm::HS256, &secret()).unwrap()
}

async fn judge_raw(settings: IssuerSettings, header: &str, payload: &str) -> Result<Claims, Unverified> {
    let token = hs256(header, payload);
    verifiers(&[settings]).await.verify(&Token::new(&token), NOW).await.map(|(claims, _)| claims)
}

/// Judges otherwise good claims with `changes`.
async fn judge(settings: IssuerSettings, changes: Value) -> Result<Claims, Unverified> {
    judge_raw(settings, r#"{"alg":"HS256"}"#, &payload(changes).to_string()).await
}

async fn refusal(changes: Value) -> Option<Unverified> {
    judge(settings(), changes).await.err()
}

fn pem(tag: &str, der: &[u8]) -> Vec<u8> {
    let lines: Vec<String> =
        STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into()).collect();
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", lines.join("\n")).into_bytes()
}

/// A fresh key pair: what signs, and its public half as a JWK without `kid` and `alg`, and in PEM.
struct Pair {
    signs: SigningKey,
    jwk: Value,
    public: Material,
}

impl Pair {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)});
                Self { signs: secret(), jwk, public: Material::Secret(SECRET.to_vec()) }
            }
            Algorithm::ES256 => Self::ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::ES384 => Self::ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::ES512 => Self::ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            Algorithm::EdDSA => Self::ed(),
            _ => Self::rsa(),
        }
    }

    fn ec(algorithm: &'static signature::EcdsaSigningAlgorithm, curve: &str) -> Self {
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref()).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            signs: SigningKey::Pem(pem("PRIVATE KEY", der.as_ref())),
            jwk: json!({"kty": "EC", "crv": curve, "x": x, "y": y}),
            public: Material::Pem(pem("PUBLIC KEY", public.as_ref())),
        }
    }

    fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            signs: SigningKey::Pem(pem("PRIVATE KEY", der.as_ref())),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair.public_key())}),
            public: Material::Pem(pem("PUBLIC KEY", public.as_ref())),
        }
    }

    fn rsa() -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let (n, e) = (URL_SAFE_NO_PAD.encode(&parts.n), URL_SAFE_NO_PAD.encode(&parts.e));
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            signs: SigningKey::Pem(pem("PRIVATE KEY", der.as_ref())),
            jwk: json!({"kty": "RSA", "n": n, "e": e}),
            public: Material::Pem(pem("PUBLIC KEY", public.as_ref())),
        }
    }

    /// The JWK with more members.
    fn jwk_with(&self, members: Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        jwk
    }
}

fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// A token of otherwise good claims for the subject `9`.
fn signed(algorithm: Algorithm, kid: Option<&str>, key: &SigningKey) -> String {
    issue::issue(payload(json!({})).as_object().unwrap(), algorithm, kid, key).unwrap()
}
