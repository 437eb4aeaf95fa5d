//! What the verifier is told, resolved: paths read, names parsed, nothing optional that has a default.

use std::sync::Arc;
use std::time::Duration;

use super::keys::KeySet;

/// One believed issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerSettings {
    /// `iss`, compared byte for byte.
    pub issuer: Arc<str>,
    /// Whose users these are; empty for the default realm.
    pub realm: Arc<str>,
    /// The token's `aud` must name one of these. Empty only where `aud` is not required: then `aud` is not looked at.
    pub audience: Vec<Box<str>>,
    /// Never mixes HMAC with public-key algorithms; never empty.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Clock skew forgiven on `exp` and `nbf`.
    pub leeway: Duration,
    /// Claims that must be present with their exact JSON type.
    pub required: Vec<Box<str>>,
    /// Longest life of an access token.
    pub token_lifetime: Duration,
    /// Longest life of a refresh token.
    pub refresh_lifetime: Duration,
    /// Where this issuer keeps things.
    pub claims: ClaimNames,
    /// Accepted `typ` header values, lower-cased, `application/` stripped; a token without `typ` is accepted.
    pub types: Vec<Box<str>>,
    /// Longest token accepted, in bytes.
    pub max_bytes: usize,
    /// Where its refresh tokens differ from that.
    pub refresh: RefreshTokens,
}

/// What refresh tokens say otherwise than access tokens of the same issuer: they are meant for the issuer itself, and
/// live longer.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshTokens {
    /// As [`IssuerSettings::audience`].
    pub audience: Vec<Box<str>>,
    /// As [`IssuerSettings::types`].
    pub types: Vec<Box<str>>,
    /// As [`IssuerSettings::required`].
    pub required: Vec<Box<str>>,
}

impl IssuerSettings {
    /// The settings by which its refresh tokens are read.
    pub(super) fn for_refresh_tokens(&self) -> Self {
        let RefreshTokens { audience, types, required } = self.refresh.clone();
        Self { audience, types, required, ..self.clone() }
    }
}

/// A claim name or JSON pointer for each thing Portcullis needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimNames {
    pub subject: Box<str>,
    pub session: Box<str>,
    pub token_id: Box<str>,
    pub roles: Box<str>,
    pub scopes: Box<str>,
}

/// The names of RFC 7519, RFC 9068 and OpenID Connect.
impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            subject: "sub".into(),
            session: "sid".into(),
            token_id: "jti".into(),
            roles: "roles".into(),
            scopes: "scope".into(),
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// Keys written or named in the configuration (inline, PEM, secret file, JWKS file), read and parsed already.
    Fixed(Arc<KeySet>),
    /// A JWKS URL, fetched in the background.
    Url { url: url::Url, jwks: JwksSettings },
    /// OpenID Connect Discovery 1.0: `{issuer}/.well-known/openid-configuration` names the JWKS URL.
    Discovery { jwks: JwksSettings },
}

/// How a remote key set is kept fresh.
#[derive(Clone, Debug, PartialEq)]
pub struct JwksSettings {
    /// How often it is fetched.
    pub refresh: Duration,
    /// At most one fetch per this time, however many unknown `kid`s arrive.
    pub cooldown: Duration,
    /// How long the last good set is believed while the issuer does not answer.
    pub max_stale: Duration,
    /// Plain HTTP to a host other than loopback.
    pub allow_http: bool,
}

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

impl Algorithm {
    /// Every algorithm that can be configured.
    pub const ALL: [Self; 13] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
    ];

    /// Its `alg` value. `none` has no variant, so that nothing can be configured to accept it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
        }
    }

    /// From its `alg` value, which is case-sensitive (RFC 7515 section 4.1.1).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Whether it works with a secret that both sides know.
    pub const fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}
