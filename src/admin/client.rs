//! The control API from the other side: what the command line and scripts in Rust call.

use std::error::Error as _;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

/// For a whole call; the server gives up a little earlier.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Why a call had no result, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{0}` is not the http(s) address of an admin listener")]
    Address(String),
    #[error("the control token cannot be sent in a header: it holds characters other than visible ASCII")]
    Token,
    #[error("{name} cannot be part of an address: it is empty, `.` or `..`")]
    Unaddressable { name: &'static str },
    #[error("no answer from {at}: {cause}")]
    Unreachable { at: String, cause: String },
    #[error(
        "{at} refuses the control token (401): name the right one with --admin-token-file or PORTCULLIS_ADMIN_TOKEN"
    )]
    Unauthorized { at: String },
    #[error("{at} wants a control token: name it with --admin-token-file or PORTCULLIS_ADMIN_TOKEN")]
    Unnamed { at: String },
    #[error("{at} answers {status}: {detail}")]
    Refused { at: String, status: u16, detail: String },
    #[error("{at} does not answer like a Portcullis admin listener ({status})")]
    Odd { at: String, status: u16 },
}

/// A gateway's admin listener.
pub struct AdminClient {
    base: Url,
    token: Option<reqwest::header::HeaderValue>,
    http: reqwest::Client,
}

/// A user as the API addresses one.
#[derive(Clone, Copy, Debug)]
pub struct UserAddress<'a> {
    pub id: &'a str,
    /// Empty: the default realm.
    pub realm: &'a str,
}

impl AdminClient {
    /// `base` such as `http://127.0.0.1:9900`. Proxies of the environment are not used: the token is for the gateway.
    pub fn new(base: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let address = || ClientError::Address(base.to_owned());
        let url = Url::parse(base).map_err(|_| address())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(address());
        }
        let bearer = |token: &str| {
            let mut value = reqwest::header::HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| ClientError::Token)?;
            value.set_sensitive(true);
            Ok(value)
        };
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ClientError::Unreachable { at: base.to_owned(), cause: last_cause(&error) })?;
        Ok(Self { base: url, token: token.map(bearer).transpose()?, http })
    }

    /// `PUT /v1/users/{id}/status`.
    pub async fn set_status(&self, user: UserAddress<'_>, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::PUT, self.user_url(user, &["status"])?, Some(body)).await
    }

    /// `POST /v1/users/{id}/logout`.
    pub async fn logout(&self, user: UserAddress<'_>) -> Result<Value, ClientError> {
        self.call(Method::POST, self.user_url(user, &["logout"])?, None).await
    }

    /// `GET /v1/users/{id}`.
    pub async fn user(&self, user: UserAddress<'_>) -> Result<Value, ClientError> {
        self.call(Method::GET, self.user_url(user, &[])?, None).await
    }

    /// `GET /v1/users/{id}/sessions`.
    pub async fn sessions(&self, user: UserAddress<'_>) -> Result<Value, ClientError> {
        self.call(Method::GET, self.user_url(user, &["sessions"])?, None).await
    }

    /// `POST /v1/tokens/revoke`.
    pub async fn revoke_token(&self, compact: &str) -> Result<Value, ClientError> {
        let body = json!({ "token": compact });
        self.call(Method::POST, self.url(&["v1", "tokens", "revoke"]), Some(&body)).await
    }

    /// `POST /v1/sessions/{sid}/revoke`.
    pub async fn revoke_session(&self, sid: &str) -> Result<Value, ClientError> {
        let sid = addressable("the session id", sid)?;
        self.call(Method::POST, self.url(&["v1", "sessions", sid, "revoke"]), None).await
    }

    /// `GET /v1/stats`.
    pub async fn stats(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, self.url(&["v1", "stats"]), None).await
    }

    /// `POST /v1/prune`.
    pub async fn prune(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, self.url(&["v1", "prune"]), None).await
    }

    /// `GET /readyz`: whether the gateway is ready, and what it says of itself.
    pub async fn readiness(&self) -> Result<(bool, Value), ClientError> {
        let (status, text) = self.send(Method::GET, self.url(&["readyz"]), None).await?;
        let readiness: Value = serde_json::from_slice(&text).unwrap_or_default();
        match readiness.get("status") {
            Some(_) => Ok((status == StatusCode::OK, readiness)),
            None => Err(ClientError::Odd { at: self.at(), status: status.as_u16() }),
        }
    }

    fn user_url(&self, user: UserAddress<'_>, rest: &[&str]) -> Result<Url, ClientError> {
        let id = addressable("the user's id", user.id)?;
        let mut url = self.url(&[&["v1", "users", id], rest].concat());
        if !user.realm.is_empty() {
            url.query_pairs_mut().append_pair("realm", user.realm);
        }
        Ok(url)
    }

    /// Every segment is percent-encoded: an id may hold slashes.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// How errors name the gateway; the address may hold a password.
    fn at(&self) -> String {
        let mut url = self.base.clone();
        // Both fail only where there is no host, which `new` has refused.
        let _ = (url.set_username(""), url.set_password(None));
        url.as_str().trim_end_matches('/').to_owned()
    }

    async fn call(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Value, ClientError> {
        let (status, text) = self.send(method, url, body).await?;
        let answer = serde_json::from_slice::<Value>(&text);
        match answer {
            Ok(answer) if status.is_success() => Ok(answer),
            _ if status == StatusCode::UNAUTHORIZED && self.token.is_none() => {
                Err(ClientError::Unnamed { at: self.at() })
            }
            _ if status == StatusCode::UNAUTHORIZED => Err(ClientError::Unauthorized { at: self.at() }),
            Ok(problem) if problem.get("detail").is_some() => Err(ClientError::Refused {
                at: self.at(),
                status: status.as_u16(),
                detail: explained(&problem),
            }),
            _ => Err(ClientError::Odd { at: self.at(), status: status.as_u16() }),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.header(reqwest::header::AUTHORIZATION, token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost =
            |error: reqwest::Error| ClientError::Unreachable { at: self.at(), cause: last_cause(&error) };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        Ok((status, response.bytes().await.map_err(lost)?.to_vec()))
    }
}

/// URLs drop `.` and `..` segments, even encoded; the call would go to another endpoint.
fn addressable<'a>(name: &'static str, segment: &'a str) -> Result<&'a str, ClientError> {
    match segment {
        "" | "." | ".." => Err(ClientError::Unaddressable { name }),
        _ => Ok(segment),
    }
}

/// A problem document in one line.
fn explained(problem: &Value) -> String {
    let text = |name: &str| problem.get(name).and_then(Value::as_str);
    let detail = text("detail").unwrap_or_default().replace(char::is_control, " ");
    text("field").map_or_else(|| detail.clone(), |field| format!("{field}: {detail}"))
}

/// The innermost cause says what happened ("Connection refused"); the outer ones repeat the address.
fn last_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("nothing within {} s", TIMEOUT.as_secs());
    }
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}
