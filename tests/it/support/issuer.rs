//! Who signs tokens: keys of every algorithm, tokens good and bad, and a key set server that can misbehave.

use std::fs;
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::origin::{Answer, Origin, Seen};
use super::{leaks, now, unique};

/// Every algorithm the gateway accepts.
pub const ALGORITHMS: [Algorithm; 12] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

const RSA_PRIVATE: &str = include_str!("../../keys/test-only-rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../keys/test-only-rsa.pub.pem");

/// An issuer with one key. Every token it mints is looked for in whatever the gateway produces.
pub struct Issuer {
    pub algorithm: Algorithm,
    /// The `iss` of its tokens.
    pub name: String,
    pub audience: String,
    pub kid: String,
    key: EncodingKey,
    /// What verifies: a PEM document, or the secret itself.
    verifier: Vec<u8>,
    directory: TempDir,
}

impl Issuer {
    pub fn new(algorithm: Algorithm) -> Self {
        let (key, verifier) = match family(algorithm) {
            Family::Hmac => {
                // A secret as long as the hash, and readable, so that it would be found in a log.
                let secret = [unique("secret-"), unique("")].concat().into_bytes();
                (EncodingKey::from_secret(&secret), secret)
            }
            Family::Rsa => rsa(),
            Family::Ec(curve) => ec(curve),
            Family::Ed => ed(),
        };
        if matches!(family(algorithm), Family::Hmac) {
            leaks::secret(&String::from_utf8_lossy(&verifier));
        }
        let kid = unique("kid-");
        let directory = tempfile::Builder::new().prefix("portcullis-issuer-").tempdir().unwrap();
        let issuer = Self {
            algorithm,
            name: format!("https://{}.test", unique("issuer-")),
            audience: "api".to_owned(),
            kid,
            key,
            verifier,
            directory,
        };
        fs::write(issuer.key_file(), &issuer.verifier).unwrap();
        fs::write(issuer.jwks_file(), issuer.jwks().to_string()).unwrap();
        issuer
    }

    /// A good token of this user, with the claims changed as the caller likes.
    pub fn token(&self, subject: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims(subject);
        change(&mut claims);
        self.sign(&json!({ "alg": name(self.algorithm), "typ": "JWT", "kid": self.kid }), &claims)
    }

    /// A good token of this user.
    pub fn good(&self, subject: &str) -> String {
        self.token(subject, |_| {})
    }

    /// Was good until a minute ago.
    pub fn expired(&self, subject: &str) -> String {
        self.token(subject, |claims| {
            claims["iat"] = json!(now() - 600);
            claims["exp"] = json!(now() - 60);
        })
    }

    /// What a good token says; `jti` and `sid` are new each time.
    pub fn claims(&self, subject: &str) -> Value {
        json!({
            "iss": self.name, "aud": [self.audience], "sub": subject,
            // A second ago: a cut-off of this very second voids tokens of the same second.
            "iat": now() - 1, "exp": now() + 600,
            "jti": unique("jti-"), "sid": unique("sid-"),
        })
    }

    /// Any header over any claims, signed with this issuer's key by its own algorithm, whatever the header says.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// As [`Issuer::sign`], for what `Value` cannot hold: duplicate members, broken JSON, odd numbers.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        let token = format!("{message}.{signature}");
        leaks::token(&token);
        token
    }

    /// Any header over any claims with any signature: `alg: none`, HMAC with the public key, and the like.
    pub fn raw(header: &Value, claims: &Value, signature: &[u8]) -> String {
        let parts = [header.to_string(), claims.to_string()].map(|it| URL_SAFE_NO_PAD.encode(it));
        let token = format!("{}.{}", parts.join("."), URL_SAFE_NO_PAD.encode(signature));
        leaks::token(&token);
        token
    }

    /// HMAC over the message with this issuer's *public* key as the secret: the confusion attack.
    pub fn confused(&self, subject: &str) -> String {
        let header = json!({ "alg": "HS256", "typ": "JWT", "kid": self.kid });
        let message =
            [header.to_string(), self.claims(subject).to_string()].map(|it| URL_SAFE_NO_PAD.encode(it));
        let message = message.join(".");
        let key = EncodingKey::from_secret(&self.verifier);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let token = format!("{message}.{signature}");
        leaks::token(&token);
        token
    }

    /// PEM, or the secret.
    pub fn verifier(&self) -> &[u8] {
        &self.verifier
    }

    /// The public half as a key set (RFC 7517); of an HMAC issuer, the secret.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk()] })
    }

    pub fn jwk(&self) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    pub fn jwks_file(&self) -> std::path::PathBuf {
        self.directory.path().join("jwks.json")
    }

    pub fn key_file(&self) -> std::path::PathBuf {
        self.directory.path().join("verifier")
    }

    /// `[[issuers]]` with the key in a file.
    pub fn config_toml(&self) -> String {
        let kind = if matches!(family(self.algorithm), Family::Hmac) { "secret_file" } else { "pem_file" };
        let (kid, alg, file) = (&self.kid, name(self.algorithm), self.key_file());
        self.config_with(&format!(
            "keys = [{{ kid = \"{kid}\", alg = \"{alg}\", {kind} = \"{}\" }}]",
            file.display()
        ))
    }

    /// `[[issuers]]` with the keys given otherwise: `jwks_url = …`, `jwks_file = …`.
    pub fn config_with(&self, keys: &str) -> String {
        format!(
            "[[issuers]]\nissuer = \"{}\"\naudience = [\"{}\"]\nalgorithms = [\"{}\"]\n{keys}\n",
            self.name,
            self.audience,
            name(self.algorithm)
        )
    }
}

/// The `alg` of an algorithm.
pub fn name(algorithm: Algorithm) -> String {
    format!("{algorithm:?}")
}

enum Family {
    Hmac,
    Rsa,
    Ec(Curve),
    Ed,
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
}

fn family(algorithm: Algorithm) -> Family {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Family::Hmac,
        Algorithm::ES256 => Family::Ec(Curve::P256),
        Algorithm::ES384 => Family::Ec(Curve::P384),
        Algorithm::EdDSA => Family::Ed,
        _ => Family::Rsa,
    }
}

fn rsa() -> (EncodingKey, Vec<u8>) {
    static KEY: OnceLock<EncodingKey> = OnceLock::new();
    let key = KEY.get_or_init(|| EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap());
    (key.clone(), RSA_PUBLIC.as_bytes().to_vec())
}

fn ec(curve: Curve) -> (EncodingKey, Vec<u8>) {
    // The constant beginnings of a SubjectPublicKeyInfo (RFC 5480) before the uncompressed point.
    let (algorithm, prefix) = match curve {
        Curve::P256 => (
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            "3059301306072a8648ce3d020106082a8648ce3d030107034200",
        ),
        Curve::P384 => {
            (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "3076301006072a8648ce3d020106052b81040022036200")
        }
    };
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let pkcs8 = pair.to_pkcs8v1().unwrap();
    (EncodingKey::from_ec_der(pkcs8.as_ref()), pem(prefix, pair.public_key().as_ref()))
}

fn ed() -> (EncodingKey, Vec<u8>) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    (EncodingKey::from_ed_der(pkcs8.as_ref()), pem("302a300506032b6570032100", pair.public_key().as_ref()))
}

fn pem(prefix: &str, public: &[u8]) -> Vec<u8> {
    let digits =
        prefix.as_bytes().chunks(2).map(|it| u8::from_str_radix(std::str::from_utf8(it).unwrap(), 16));
    let mut der: Vec<u8> = digits.map(Result::unwrap).collect();
    der.extend(public);
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|it| std::str::from_utf8(it).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes()
}

/// An HTTP server of a key set: counts, and misbehaves as told.
pub struct JwksServer {
    origin: Origin,
    discovery: Arc<Mutex<Option<Value>>>,
}

impl JwksServer {
    pub fn serving(keys: &Value) -> Self {
        let server = Self { origin: Origin::start(), discovery: Arc::default() };
        server.keys(keys);
        server
    }

    pub fn url(&self) -> String {
        format!("{}/jwks.json", self.base())
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.origin.addr())
    }

    pub fn keys(&self, keys: &Value) {
        let body = keys.to_string();
        self.respond(move |_| Answer::new(200, &body).header("Content-Type", "application/json"));
    }

    /// What `/.well-known/openid-configuration` answers.
    pub fn discovery(&self, document: Value) {
        *self.discovery.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
    }

    pub fn fail(&self) {
        self.respond(|_| Answer::new(500, "no"));
    }

    /// Answers after so long: longer than any client should wait.
    pub fn slow(&self, delay: Duration) {
        self.respond(move |_| Answer::new(200, r#"{"keys":[]}"#).delayed(delay));
    }

    pub fn redirect(&self, to: &str) {
        let to = to.to_owned();
        self.respond(move |_| Answer::new(302, "").header("Location", &to));
    }

    /// So many bytes of JSON that is a key set with no keys.
    pub fn huge(&self, bytes: usize) {
        self.respond(move |_| {
            Answer::new(200, format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(bytes)))
                .header("Content-Type", "application/json")
        });
    }

    /// How often the key set was asked for.
    pub fn hits(&self) -> usize {
        self.origin.requests().iter().filter(|it| !is_discovery(it)).count()
    }

    fn respond(&self, answer: impl Fn(&Seen) -> Answer + Send + 'static) {
        let discovery = self.discovery.clone();
        self.origin.answer(move |seen| {
            if !is_discovery(seen) {
                return answer(seen);
            }
            match &*discovery.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(document) => {
                    Answer::new(200, document.to_string()).header("Content-Type", "application/json")
                }
                None => Answer::new(404, ""),
            }
        });
    }
}

fn is_discovery(seen: &Seen) -> bool {
    seen.target().ends_with("/.well-known/openid-configuration")
}
