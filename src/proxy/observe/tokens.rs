//! The tokens in a login's answer: unpacked, found, and verified before anybody believes that they are ours.

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use crate::claims::{Claims, User};
use crate::ledger::change::{OpenedToken, TokenKind};
use crate::report::Outcome;
use crate::route::Track;
use crate::time::Timestamp;
use crate::token::Token;
use crate::verify::{Unverified, Verifiers};

/// How a body is encoded (RFC 9110 section 8.4.1), of what is understood here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    /// `None` for what is not understood, and for what is no JSON by its own word.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let essence =
            media_type.map(|it| it.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        if essence.is_some_and(|it| it != "application/json" && !it.ends_with("+json")) {
            return None;
        }
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(coding) = codings.next() else { return Some(Self::Identity) };
        let coding = coding.to_str().ok().filter(|_| codings.next().is_none())?;
        match coding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// The body as the client will read it, where that is not more than `most` bytes.
    fn decode(self, body: &[u8], most: usize) -> Result<Vec<u8>, Outcome> {
        match self {
            Self::Identity => Ok(body.to_vec()),
            Self::Gzip => bounded(MultiGzDecoder::new(body), most),
            // The name stands for zlib's format; some servers send the bare stream.
            Self::Deflate => match bounded(ZlibDecoder::new(body), most) {
                Err(Outcome::Unreadable) => bounded(DeflateDecoder::new(body), most),
                decoded => decoded,
            },
        }
    }
}

fn bounded(decoder: impl Read, most: usize) -> Result<Vec<u8>, Outcome> {
    let mut decoded = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(limit).read_to_end(&mut decoded).map_err(|_| Outcome::Unreadable)?;
    if decoded.len() > most { Err(Outcome::TooLong) } else { Ok(decoded) }
}

/// What of the client's `Accept-Encoding` is understood here as well, so that the service answers in what can be read.
/// `None` where the client says nothing: then services do not encode.
pub(in crate::proxy) fn accept_encoding(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::ACCEPT_ENCODING).iter().peekable();
    values.peek()?;
    let offered = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let understood = |offer: &&str| {
        let coding = offer.split(';').next().unwrap_or_default().trim();
        ["gzip", "x-gzip", "deflate", "identity"].iter().any(|it| coding.eq_ignore_ascii_case(it))
    };
    let kept: Vec<&str> = offered.map(str::trim).filter(understood).collect();
    let kept = if kept.is_empty() { "identity".to_owned() } else { kept.join(", ") };
    HeaderValue::from_str(&kept).ok()
}

/// What an answer opens.
pub(super) struct Opened {
    pub user: User,
    pub tokens: Vec<OpenedToken>,
}

impl Opened {
    /// Reads an answer's body. The error says why there is nothing to keep.
    pub async fn read(
        body: &[u8],
        encoding: Encoding,
        track: &Track,
        verifiers: &Verifiers,
    ) -> Result<Self, Outcome> {
        let body = encoding.decode(body, track.max_bytes)?;
        let document: Value = serde_json::from_slice(&body).map_err(|_| Outcome::Unreadable)?;
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        let access = Token::new(text(&track.token_at).ok_or(Outcome::NoToken)?);
        let now = Timestamp::now();
        let (claims, _) = verifiers.verify(&access, now).await.map_err(|why| unbelieved(&why))?;
        let mut tokens = vec![opened(&access, TokenKind::Access, &claims)];
        if let Some(refresh) = track.refresh_at.as_deref().and_then(text).map(Token::new) {
            let (refreshing, _) =
                verifiers.verify_refresh(&refresh, now).await.map_err(|why| unbelieved(&why))?;
            // Two users in one answer: whose session would it be?
            if refreshing.user() != claims.user() {
                return Err(Outcome::Unverified);
            }
            tokens.push(opened(&refresh, TokenKind::Refresh, &refreshing));
        }
        Ok(Self { user: claims.user().clone(), tokens })
    }
}

/// Without keys nobody knows: that is an outage, and not a token of somebody else's.
fn unbelieved(why: &Unverified) -> Outcome {
    match why {
        Unverified::KeysUnavailable => Outcome::Failed,
        _ => Outcome::Unverified,
    }
}

fn opened(token: &Token<'_>, kind: TokenKind, claims: &Claims) -> OpenedToken {
    OpenedToken { compact: token.compact().into(), kind, expires_at: claims.expires_at() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_json_in_a_known_encoding_is_read() {
        let of = |fields: &[(&'static str, &'static str)]| Encoding::of(&headers(fields));
        assert_eq!(of(&[]), Some(Encoding::Identity));
        assert_eq!(of(&[("content-type", "application/json; charset=utf-8")]), Some(Encoding::Identity));
        let json = ("content-type", "application/problem+json");
        assert_eq!(of(&[json, ("content-encoding", "GZIP")]), Some(Encoding::Gzip));
        assert_eq!(of(&[json, ("content-encoding", "deflate")]), Some(Encoding::Deflate));
        for other in ["br", "zstd", "gzip, gzip"] {
            assert_eq!(of(&[json, ("content-encoding", other)]), None, "{other}");
        }
        assert_eq!(of(&[("content-encoding", "gzip"), ("content-encoding", "gzip")]), None);
        assert_eq!(of(&[("content-type", "text/html")]), None);
    }

    #[test]
    fn a_body_is_unpacked_up_to_its_bound() {
        let text = b"{\"a\":1}".repeat(100);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        for writer in [&mut gzip as &mut dyn Write, &mut zlib, &mut bare] {
            writer.write_all(&text).expect("packed");
        }
        let packed = [
            (Encoding::Gzip, gzip.finish().expect("gzip")),
            (Encoding::Deflate, zlib.finish().expect("zlib")),
            (Encoding::Deflate, bare.finish().expect("deflate")),
        ];
        for (encoding, packed) in packed {
            assert_eq!(encoding.decode(&packed, text.len()), Ok(text.clone()));
            assert_eq!(
                encoding.decode(&packed, text.len() - 1),
                Err(Outcome::TooLong),
                "a bomb is not unpacked"
            );
            assert_eq!(encoding.decode(b"no such thing", 100), Err(Outcome::Unreadable));
        }
    }

    #[test]
    fn services_are_offered_only_encodings_that_are_understood() {
        let offered = |value: &'static str| {
            let offer = accept_encoding(&headers(&[("accept-encoding", value)]));
            offer.and_then(|it| it.to_str().ok().map(str::to_owned))
        };
        assert_eq!(offered("gzip, deflate, br, zstd").as_deref(), Some("gzip, deflate"));
        assert_eq!(offered("br;q=1.0, gzip;q=0.8, *;q=0.1").as_deref(), Some("gzip;q=0.8"));
        assert_eq!(offered("br").as_deref(), Some("identity"));
        assert_eq!(accept_encoding(&HeaderMap::new()), None);
    }
}
