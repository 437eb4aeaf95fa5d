//! Who may use `/v1`: the holder of the control token, calling the listener by an address that no web page can fake.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::Quota;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AdminState;
use super::problem::Problem;

/// Calls with the right token: enough for scripts, too few to wear out the database.
pub(super) const CALLS: Quota =
    Quota::per_second(NonZeroU32::MIN.saturating_add(19)).allow_burst(NonZeroU32::MIN.saturating_add(49));
/// A call that takes longer is answered with 503; what it changes is finished regardless.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The address a connection came from; the listener puts it into every request.
#[derive(Clone, Copy)]
pub(super) struct Remote(pub SocketAddr);

/// Who calls, for the audit trail.
#[derive(Clone)]
pub(super) struct Caller {
    pub request_id: Arc<str>,
    pub remote: SocketAddr,
}

/// Names every request, and bounds its time.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let request_id = request_id(request.headers());
    let remote = request.extensions().get::<Remote>().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |r| r.0);
    request.extensions_mut().insert(Caller { request_id: request_id.clone(), remote });
    let answer = tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await;
    let mut response = answer.unwrap_or_else(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The call took too long.").into_response()
    });
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// The caller's own id where it is harmless, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = |id: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        (1..=64).contains(&id.len()) && id.chars().all(plain)
    };
    given.filter(harmless).map_or_else(|| uuid::Uuid::now_v7().to_string().into(), Arc::from)
}

/// Stands before everything under `/v1`.
pub(super) async fn guard(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    match admit(&state, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn admit(state: &AdminState, request: &Request) -> Result<(), Problem> {
    let Some(expected) = state.token.load_full() else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "The control API is off: `[admin]` has no token."));
    };
    let host = host(request)?;
    same_site(request.headers(), host)?;
    let remote = request.extensions().get::<Caller>().map(|caller| caller.remote.ip());
    let Some(remote) = remote else { return Err(unauthorized()) };
    let now = Instant::now();
    // Digests have one length, and comparing them takes one time: nothing is learnt from either.
    let given: Option<[u8; 32]> = bearer(request.headers()).map(|token| Sha256::digest(token).into());
    let right = given.is_some_and(|given| bool::from(given.ct_eq(&expected.digest)));
    // The operator may share an address with whoever guesses, and must not be shut out by it; only where a guess
    // could succeed does everybody wait.
    if (!right || expected.guessable) && state.attempts.is_blocked(remote, now) {
        return Err(Problem::too_many("Too many wrong control tokens from this address.", 3));
    }
    if !right {
        state.attempts.failed(remote, now);
        tracing::warn!(%remote, "a control call without the right token");
        return Err(unauthorized());
    }
    state.calls.check().map_err(|_| Problem::too_many("Too many control calls.", 1))
}

fn unauthorized() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "`Authorization: Bearer` with the control token is needed.")
}

/// The only `Authorization`, behind the word `Bearer` (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = only(headers, &header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// The host the caller meant: `localhost` or an address as such. A page whose name has been rebound to this address
/// still sends its own name.
fn host(request: &Request) -> Result<&str, Problem> {
    let refused = || {
        let detail = "The control API is called by IP address or as localhost, not by another name.";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, detail)
    };
    let header =
        only(request.headers(), &header::HOST).and_then(|host| host.to_str().ok()).ok_or_else(refused)?;
    let authority: axum::http::uri::Authority = header.parse().map_err(|_| refused())?;
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let known = name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok();
    let absolute = request.uri().authority().is_none_or(|target| *target == authority);
    if known && absolute && !header.contains('@') { Ok(header) } else { Err(refused()) }
}

/// Browsers say where a request comes from; another site has no business here, whatever it knows.
fn same_site(headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let refused = || Problem::new(StatusCode::FORBIDDEN, "The call comes from another web site.");
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().map_err(|_| refused())?;
        let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let alone = headers.get_all(header::ORIGIN).iter().count() == 1;
        if !alone || !from.is_some_and(|from| from.eq_ignore_ascii_case(host)) {
            return Err(refused());
        }
    }
    match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(refused()),
    }
}
