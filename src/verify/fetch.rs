//! Key sets over HTTP. The issuer is trusted with keys, not with our memory, our patience or our network: size, time
//! and redirects are bounded, and nothing is ever fetched because a token says so.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use url::{Host, Url};

use super::json;
use super::keys::{KeyError, KeySet};
use super::settings::{Algorithm, KeySource};

/// Largest document read, in bytes.
const MAX_BYTES: usize = 512 * 1024;
/// Longest one document may take, from the name look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Redirects followed, all within one origin.
const MAX_REDIRECTS: usize = 3;

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is neither HTTPS nor loopback, and `allow_http` is not set")]
    Insecure(Url),
    #[error("the issuer is not a URL that discovery could start from")]
    NoDiscoveryUrl,
    #[error("discovery names the issuer `{0}`, which is not the configured one")]
    OtherIssuer(String),
    #[error("the discovery document is not usable: {0}")]
    Discovery(&'static str),
    #[error("asking the issuer failed")]
    Http(#[from] reqwest::Error),
    #[error("the issuer answered {0}")]
    Status(reqwest::StatusCode),
    #[error("the document is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the key set is not usable")]
    Keys(#[from] KeyError),
}

/// Where one issuer's keys are fetched, and by what rules.
#[derive(Clone)]
pub(super) struct Remote {
    issuer: Arc<str>,
    source: KeySource,
    algorithms: Vec<Algorithm>,
}

impl Remote {
    /// `None` where the keys are fixed.
    pub(super) fn of(issuer: &Arc<str>, source: &KeySource, algorithms: &[Algorithm]) -> Option<Self> {
        let (issuer, source, algorithms) = (issuer.clone(), source.clone(), algorithms.to_vec());
        (!matches!(source, KeySource::Fixed(_))).then_some(Self { issuer, source, algorithms })
    }

    /// The key set as it is now. A set without a usable key is an error.
    pub(super) async fn fetch(&self) -> Result<KeySet, FetchError> {
        let document = match &self.source {
            KeySource::Url { url, jwks } => get(url, jwks.allow_http).await?,
            KeySource::Discovery { jwks } => {
                let document = get(&discovery_url(&self.issuer)?, jwks.allow_http).await?;
                get(&self.discovered(&document)?, jwks.allow_http).await?
            }
            KeySource::Fixed(_) => return Err(FetchError::Discovery("the keys are fixed")),
        };
        Ok(KeySet::from_fetched_jwks(&document, &self.algorithms)?)
    }

    /// `jwks_uri` of a discovery document that is really this issuer's (OpenID Connect Discovery 1.0 section 4.3).
    fn discovered(&self, document: &[u8]) -> Result<Url, FetchError> {
        let document = json::object(document).ok_or(FetchError::Discovery("not a JSON object"))?;
        let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        let issuer = text("issuer").ok_or(FetchError::Discovery("`issuer` is missing"))?;
        if issuer != &*self.issuer {
            return Err(FetchError::OtherIssuer(issuer.chars().take(200).collect()));
        }
        let url = text("jwks_uri").ok_or(FetchError::Discovery("`jwks_uri` is missing"))?;
        Url::parse(url).map_err(|_| FetchError::Discovery("`jwks_uri` is not a URL"))
    }
}

fn discovery_url(issuer: &str) -> Result<Url, FetchError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    Url::parse(&url).map_err(|_| FetchError::NoDiscoveryUrl)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// HTTPS; plain HTTP to loopback, or where the operator says so.
fn is_permitted(url: &Url, allow_http: bool) -> bool {
    url.scheme() == "https" || url.scheme() == "http" && (allow_http || is_loopback(url))
}

/// Follows a redirect only within the origin: another host would be another's keys, another scheme another's wire.
fn within_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if same && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

async fn get(url: &Url, allow_http: bool) -> Result<Vec<u8>, FetchError> {
    if !is_permitted(url, allow_http) {
        return Err(FetchError::Insecure(url.clone()));
    }
    // A client per fetch: one in minutes, and no connection is kept that has died meanwhile.
    let mut client = reqwest::Client::builder().timeout(TIMEOUT).redirect(Policy::custom(within_origin));
    if is_loopback(url) {
        client = client.no_proxy();
    }
    let request =
        client.build()?.get(url.clone()).header("accept", "application/jwk-set+json, application/json");
    let mut response = request.send().await?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if document.len() + chunk.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_loopback_only_unless_told_otherwise() {
        let permitted = |url: &str, allow| is_permitted(&Url::parse(url).unwrap(), allow);
        for url in ["https://a.example/k", "http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost/k"] {
            assert!(permitted(url, false), "{url}");
        }
        for url in ["http://a.example/k", "http://localhost.a.example/k", "http://10.0.0.1/k"] {
            assert!(!permitted(url, false), "{url}");
            assert!(permitted(url, true), "{url}");
        }
        assert!(!permitted("file:///etc/passwd", true));
    }

    #[test]
    fn discovery_starts_at_the_issuer_with_or_without_its_final_slash() {
        for issuer in ["https://a.example/realm", "https://a.example/realm/"] {
            let url = discovery_url(issuer).unwrap();
            assert_eq!(url.as_str(), "https://a.example/realm/.well-known/openid-configuration");
        }
        assert!(discovery_url("accounts").is_err());
    }
}
