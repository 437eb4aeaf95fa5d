//! Tokens into claims: signature, algorithm, times, issuer and audience (RFC 7515, 7519, 8725).
//!
//! The parsing is our own and strict, from the compact form to the last claim; jsonwebtoken reads PEM and signs, and
//! aws-lc checks signatures with keys that were parsed once. Nothing here knows HTTP denials, and
//! only background tasks read the clock.

pub mod cache;
mod fetch;
pub mod inspect;
pub mod issue;
mod jose;
pub(crate) mod json;
mod jwk;
pub mod keys;
mod metrics;
mod reading;
mod ring;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::claims::Claims;
use crate::time::Timestamp;
use crate::token::Token;

use jose::{Compact, Judged};
use keys::{KeyId, Search};
use reading::Times;
use ring::KeyRing;

pub use cache::TokenCache;
pub use metrics::VerifyMetrics;
pub use settings::{Algorithm, ClaimNames, IssuerSettings, JwksSettings, KeySource, RefreshTokens};

/// Longest that start-up waits for the first key sets; a little more than one fetch by discovery usually takes.
const START_PATIENCE: Duration = Duration::from_secs(6);

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
#[repr(C)]
pub struct Seal {
    /// Which issuer, as it was configured then.
    issuer: u64,
    /// Where it stood among the issuers.
    slot: usize,
    /// The key set that the token was verified with.
    generation: u64,
    times: Times,
    /// The key in that set; read where the set has changed.
    key: KeyId,
}

/// All issuers whose tokens are believed.
pub struct Verifiers {
    issuers: Vec<Arc<Issuer>>,
    by_name: HashMap<Arc<str>, usize>,
    /// Longest token that any issuer accepts, in bytes.
    max_bytes: usize,
    metrics: VerifyMetrics,
}

/// One issuer with its keys. Kept whole over a reload that does not change its settings.
struct Issuer {
    /// Unique in the process; a change of settings makes a new one, which ends the seals of the old.
    id: u64,
    settings: IssuerSettings,
    /// As its refresh tokens are read.
    refresh: IssuerSettings,
    ring: Arc<KeyRing>,
    /// Ends the task that fetches keys.
    _fetching: DropGuard,
}

/// How one issuer's keys stand, for `/readyz`.
#[derive(Clone, Debug)]
pub struct IssuerStatus {
    pub issuer: Arc<str>,
    /// Keys in force; 0 when its tokens meet an outage.
    pub keys: usize,
    /// Counts the changes of its key set.
    pub generation: u64,
}

impl Verifiers {
    /// Starts the issuers: fetches remote key sets and keeps them fresh until `shutdown`, or until the last
    /// `Verifiers` that uses them is dropped. Issuers of `previous` whose settings are the same keep their keys.
    ///
    /// Returns when each remote set has been asked for once or six seconds have passed; an issuer that does not
    /// answer stops nobody else. The tasks live on the caller's runtime, which has to outlive the requests.
    pub async fn start(
        settings: &[IssuerSettings],
        previous: Option<&Self>,
        metrics: &VerifyMetrics,
        shutdown: &CancellationToken,
    ) -> Self {
        let kept = |wanted: &IssuerSettings| {
            previous?.issuers.iter().find(|issuer| issuer.settings == *wanted).cloned()
        };
        let fresh = |wanted: &IssuerSettings| Arc::new(Issuer::start(wanted, metrics, shutdown));
        let issuers: Vec<_> = settings.iter().map(|it| kept(it).unwrap_or_else(|| fresh(it))).collect();
        let mut by_name = HashMap::new();
        for (slot, issuer) in issuers.iter().enumerate() {
            // Configuration refuses two of one name; should they get here, the first one counts.
            by_name.entry(issuer.settings.issuer.clone()).or_insert(slot);
        }
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        for issuer in &issuers {
            issuer.ring.first_fetch(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        }
        let max_bytes = issuers.iter().map(|issuer| issuer.settings.max_bytes).max().unwrap_or(0);
        Self { issuers, by_name, max_bytes, metrics: metrics.clone() }
    }

    /// Verifies `token`. The only network it may wait for is one bounded refetch of a key set when its `kid` is unknown.
    pub async fn verify(&self, token: &Token<'_>, now: Timestamp) -> Result<(Claims, Seal), Unverified> {
        self.verify_by(|issuer| &issuer.settings, token, now).await
    }

    /// Verifies a refresh token. What this accepts must never be taken for an access token.
    pub async fn verify_refresh(
        &self,
        token: &Token<'_>,
        now: Timestamp,
    ) -> Result<(Claims, Seal), Unverified> {
        self.verify_by(|issuer| &issuer.refresh, token, now).await
    }

    async fn verify_by(
        &self,
        settings: impl Fn(&Issuer) -> &IssuerSettings,
        token: &Token<'_>,
        now: Timestamp,
    ) -> Result<(Claims, Seal), Unverified> {
        let compact = Compact::read(token, self.max_bytes)?;
        let judged = compact.judge_header()?;
        let payload = json::object(&compact.payload)
            .ok_or(Unverified::Malformed("its payload is not a JSON object without duplicates"))?;
        let slot = self.choose(&payload)?;
        let issuer = self.issuers.get(slot).ok_or(Unverified::Issuer)?;
        let settings = settings(issuer);
        settings.accepts(token, &judged)?;
        let signed_by = issuer.signature(&compact, &judged, now).await;
        if signed_by != Err(Unverified::KeysUnavailable) {
            self.metrics.signature(signed_by.is_ok());
        }
        let (key, generation) = signed_by?;
        let (claims, times) = reading::claims(payload, settings, now)?;
        Ok((claims, Seal { issuer: issuer.id, slot, generation, times, key }))
    }

    /// Whether a verification made earlier still holds at `now`: times are judged again, and the key it was verified
    /// with must still be in force. Cheap: no signature.
    ///
    /// `Expired` and `NotYetValid` are final. After any other error forget the verification and verify anew: the
    /// issuer may have been configured differently since, or the token be signed by two keys in turn.
    pub fn still_holds(&self, claims: &Claims, seal: &Seal, now: Timestamp) -> Result<(), Unverified> {
        debug_assert_eq!(claims.expires_at(), seal.times.expires_at, "a seal belongs to its claims");
        let issuer = self.sealed_by(seal).ok_or(Unverified::Issuer)?;
        seal.times.judge(now)?;
        if issuer.ring.is_stale(now) {
            return Err(Unverified::KeysUnavailable);
        }
        if issuer.ring.generation() == seal.generation {
            return Ok(());
        }
        // Rotated since. A key that the rotation kept is good; a withdrawn one ends its tokens.
        let published = issuer.ring.current(now).ok_or(Unverified::KeysUnavailable)?;
        if published.keys.holds(&seal.key) { Ok(()) } else { Err(Unverified::Signature) }
    }

    /// The settings of an issuer, for the lifetimes its users' entries need.
    pub fn settings(&self, issuer: &str) -> Option<&IssuerSettings> {
        Some(&self.issuers.get(*self.by_name.get(issuer)?)?.settings)
    }

    /// How each issuer's keys stand.
    pub fn status(&self, now: Timestamp) -> Vec<IssuerStatus> {
        let status = |issuer: &Arc<Issuer>| IssuerStatus {
            issuer: issuer.settings.issuer.clone(),
            keys: issuer.ring.current(now).map_or(0, |published| published.keys.len()),
            generation: issuer.ring.generation(),
        };
        self.issuers.iter().map(status).collect()
    }

    /// Picks the issuer by the payload's `iss`, which nothing vouches for yet: it only chooses whose keys must.
    fn choose(&self, payload: &Map<String, Value>) -> Result<usize, Unverified> {
        match (payload.get("iss"), self.issuers.as_slice()) {
            (Some(Value::String(name)), _) => {
                self.by_name.get(name.as_str()).copied().ok_or(Unverified::Issuer)
            }
            (Some(_), _) => Err(Unverified::Claim("iss".into())),
            (None, [only]) if !only.settings.requires("iss") => Ok(0),
            (None, _) => Err(Unverified::Issuer),
        }
    }

    fn sealed_by(&self, seal: &Seal) -> Option<&Arc<Issuer>> {
        let same = |issuer: &&Arc<Issuer>| issuer.id == seal.issuer;
        // A reload may have moved it.
        self.issuers.get(seal.slot).filter(same).or_else(|| self.issuers.iter().find(same))
    }
}

impl Issuer {
    fn start(settings: &IssuerSettings, metrics: &VerifyMetrics, shutdown: &CancellationToken) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (ring, fetching) = ring::start(settings, || metrics.issuer(&settings.issuer), shutdown);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let refresh = settings.for_refresh_tokens();
        Self { id, settings: settings.clone(), refresh, ring, _fetching: fetching }
    }

    /// The key that signed, and the generation of the set it is in.
    async fn signature(
        &self,
        compact: &Compact<'_>,
        judged: &Judged<'_>,
        now: Timestamp,
    ) -> Result<(KeyId, u64), Unverified> {
        let mut looked_again = false;
        loop {
            let Some(published) = self.ring.current(now) else {
                self.ring.nudge();
                return Err(Unverified::KeysUnavailable);
            };
            match published.keys.find(judged.kid, judged.algorithm, compact.signed, &compact.signature) {
                Search::Found(key) => return Ok((key.id, published.generation)),
                Search::Refused => return Err(Unverified::Signature),
                Search::UnknownKid if looked_again => return Err(Unverified::Signature),
                Search::UnknownKid => looked_again = true,
            }
            // A set that changed while this one was being searched is worth a look without any fetch.
            let changed = self.ring.generation() != published.generation;
            if !changed && !self.ring.look_again().await {
                return Err(Unverified::Signature);
            }
        }
    }
}

impl IssuerSettings {
    /// What can be judged before the signature.
    fn accepts(&self, token: &Token<'_>, judged: &Judged<'_>) -> Result<(), Unverified> {
        if token.compact().len() > self.max_bytes {
            return Err(Unverified::Malformed("it is too long"));
        }
        if !self.algorithms.contains(&judged.algorithm) {
            return Err(Unverified::Algorithm);
        }
        match &judged.typ {
            Some(typ) if !self.types.iter().any(|accepted| **accepted == **typ) => {
                Err(Unverified::Malformed("its typ is not accepted here"))
            }
            _ => Ok(()),
        }
    }

    fn requires(&self, name: &str) -> bool {
        self.required.iter().any(|required| &**required == name)
    }
}
