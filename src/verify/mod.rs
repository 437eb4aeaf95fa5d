//! Tokens into claims: signature, algorithm, times, issuer and audience (RFC 7515, 7519, 8725).

pub mod keys;
pub mod settings;

use std::sync::Arc;

use crate::claims::Claims;
use crate::time::Timestamp;
use crate::token::Token;

pub use settings::{Algorithm, ClaimNames, IssuerSettings, JwksSettings, KeySource};

/// Why a token was not believed. The words of the denial reasons (`token_…`) are `verdict`'s business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("the token is not a well-formed JWT: {0}")]
    Malformed(&'static str),
    #[error("the signature does not verify, or no key of the issuer fits")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token's issuer is not one that is believed here")]
    Issuer,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    #[error("claim `{0}` is missing or has the wrong form")]
    Claim(Box<str>),
    /// No keys of the issuer are known at present: an outage, not a refusal.
    #[error("the keys of the issuer are not available")]
    KeysUnavailable,
}

/// Says whether keys have changed since a token was verified.
#[derive(Clone, Debug)]
pub struct Seal {/* issuer index + key set generation */}

/// All issuers whose tokens are believed.
pub struct Verifiers {}

impl Verifiers {
    /// Verifies `token`. The only network it may wait for is one bounded refetch of a key set when its `kid` is unknown.
    pub async fn verify(&self, token: &Token<'_>, now: Timestamp) -> Result<(Claims, Seal), Unverified> {
        todo!()
    }

    /// Whether a verification made earlier still holds at `now`: times are judged again, and the key set it was
    /// verified with must still be in force. Cheap: no signature.
    pub fn still_holds(&self, claims: &Claims, seal: &Seal, now: Timestamp) -> Result<(), Unverified> {
        todo!()
    }
}
// TEMP stub
pub struct TokenCache<V>(std::marker::PhantomData<V>);
impl<V> TokenCache<V> {
    pub fn get(&self, _: &Token<'_>) -> Option<Arc<V>> { todo!() }
    pub fn insert(&self, _: &Token<'_>, _: Arc<V>) { todo!() }
    pub fn remove(&self, _: &Token<'_>) { todo!() }
    pub fn iter(&self) -> std::vec::IntoIter<Arc<V>> { todo!() }
}
