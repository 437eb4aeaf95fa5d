//! What is refused before anybody is asked who is calling: requests that two servers could read differently.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::settings::Limits;
use crate::verdict::DenyReason;

/// Checks the head of a request, and takes an `Upgrade` out of it that is not a WebSocket handshake; returns whether it is
/// one.
pub(super) fn check(session: &mut Session, limits: &Limits) -> Result<bool, DenyReason> {
    let raw = session.as_http1().map(|http1| http1.get_headers_raw_bytes()).unwrap_or_default();
    let request = session.req_header();
    let bytes = if request.version == Version::HTTP_2 { unpacked(request) } else { raw.len() };
    size(request, bytes, limits)?;
    if request.version == Version::HTTP_2 {
        as_http1_says(session.req_header_mut())?;
    }
    let request = session.req_header();
    method(&request.method)?;
    // Pingora drops a fragment silently; a server behind us might not have (CVE-2021-32779).
    // Empty lines may stand before the request (RFC 9112 section 2.2).
    let line = raw.trim_ascii_start().iter().take_while(|byte| **byte != b'\n');
    if line.into_iter().any(|byte| *byte == b'#') {
        return Err(DenyReason::RequestAmbiguous("the request target has a fragment"));
    }
    if has_bare_line_feed(&raw) {
        return Err(DenyReason::RequestAmbiguous("a line of the head does not end in CR LF"));
    }
    let fields = Fields::of(&request.headers);
    fields.framing(request, &raw)?;
    fields.single()?;
    let websocket = fields.upgrades > 0 && is_websocket(request);
    if fields.upgrades > 0 && !websocket {
        let request = session.req_header_mut();
        request.remove_header(&header::UPGRADE);
        request.remove_header("http2-settings");
    }
    Ok(websocket)
}

/// Says a request of HTTP/2 as HTTP/1.1 would, so that everything behind this line knows one form of it: the host in the
/// Host field (RFC 9113 section 8.3.1), all cookies in one (section 8.2.3; upstreams may read the first alone).
fn as_http1_says(request: &mut RequestHeader) -> Result<(), DenyReason> {
    const HOST: DenyReason = DenyReason::RequestAmbiguous("the host is not valid");
    if !matches!(request.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(DenyReason::RequestAmbiguous("the scheme is neither http nor https"));
    }
    if let Some(authority) = request.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| HOST)?;
        // Pingora has refused a Host field that says anything else.
        request.insert_header(header::HOST, host).map_err(|_| HOST)?;
    }
    let crumbs: Vec<&[u8]> =
        request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        const COOKIE: DenyReason = DenyReason::RequestAmbiguous("the Cookie field is not valid");
        let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| COOKIE)?;
        request.remove_header(&header::COOKIE);
        request.insert_header(header::COOKIE, whole).map_err(|_| COOKIE)?;
    }
    Ok(())
}

/// How long the head would be in HTTP/1.1: HTTP/2 sends it compressed, and the limit is about what has to be held.
fn unpacked(request: &RequestHeader) -> usize {
    let fields = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    fields.sum::<usize>() + request.raw_path().len() + request.method.as_str().len() + 12
}

/// The declared length of the body.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(number)
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// A WebSocket handshake (RFC 6455 section 4.2.1). Whatever else asks for an upgrade is an ordinary request: nothing
/// may be decided by the mere presence of the header.
pub(super) fn is_websocket(request: &RequestHeader) -> bool {
    let has_token = |name: HeaderName, wanted: &str| {
        let values = request.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    let upgrades = request.headers.get_all(header::UPGRADE).iter().count();
    request.method == Method::GET
        && request.version == Version::HTTP_11
        && upgrades == 1
        && request
            .headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && has_token(header::CONNECTION, "upgrade")
        && length(&request.headers).unwrap_or(0) == 0
        && !request.headers.contains_key(header::TRANSFER_ENCODING)
}

fn size(request: &RequestHeader, bytes: usize, limits: &Limits) -> Result<(), DenyReason> {
    if bytes > limits.header_bytes || request.headers.len() > limits.headers {
        return Err(DenyReason::HeadersTooLarge);
    }
    Ok(())
}

/// Methods have a case (RFC 9110 section 9.1), and Symfony, Werkzeug and others put all of them in capitals: what is judged
/// as `delete`, which no route names, would be done as `DELETE`. nginx refuses them too.
pub(super) fn method(method: &Method) -> Result<(), DenyReason> {
    const LOWER: DenyReason = DenyReason::RequestAmbiguous("the method is not in capital letters");
    let word = method.as_str();
    let tracks = word.eq_ignore_ascii_case("TRACK") || word.eq_ignore_ascii_case("TRACE");
    if tracks || *method == Method::CONNECT {
        return Err(DenyReason::MethodRefused);
    }
    if word.bytes().any(|byte| byte.is_ascii_lowercase()) { Err(LOWER) } else { Ok(()) }
}

/// The fields that say where a request ends, whom it is for and who it is from, found in one pass: asking the map for each
/// takes longer than to look at all there are.
#[derive(Default)]
struct Fields<'a> {
    lengths: usize,
    length: Option<&'a HeaderValue>,
    codings: usize,
    coding: Option<&'a HeaderValue>,
    hosts: usize,
    credentials: usize,
    upgrades: usize,
    /// A field that only looks like one of those that say where the body ends.
    alike: bool,
}

impl<'a> Fields<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            match *name {
                header::CONTENT_LENGTH => {
                    fields.lengths += 1;
                    fields.length = Some(value);
                }
                header::TRANSFER_ENCODING => {
                    fields.codings += 1;
                    fields.coding = Some(value);
                }
                header::HOST => fields.hosts += 1,
                header::AUTHORIZATION => fields.credentials += 1,
                header::UPGRADE => fields.upgrades += 1,
                _ => fields.alike |= is_like_framing(name),
            }
        }
        fields
    }

    /// RFC 9112 section 6.3, read strictly: where one reading would end the body elsewhere than another, there is no body.
    fn framing(&self, request: &RequestHeader, raw: &[u8]) -> Result<(), DenyReason> {
        const LENGTH: DenyReason = DenyReason::RequestAmbiguous("Content-Length is not one plain number");
        const BOTH: DenyReason =
            DenyReason::RequestAmbiguous("both Content-Length and Transfer-Encoding are given");
        const CODING: DenyReason = DenyReason::RequestAmbiguous("Transfer-Encoding is not `chunked`");
        const ALIKE: DenyReason =
            DenyReason::RequestAmbiguous("a field looks like one that says where the body ends");
        if self.alike {
            return Err(ALIKE);
        }
        if let Some(length) = self.length {
            // A leading zero makes it octal to some.
            let plain = match length.as_bytes() {
                [b'0'] => true,
                [first, rest @ ..] => matches!(first, b'1'..=b'9') && rest.iter().all(u8::is_ascii_digit),
                [] => false,
            };
            if self.lengths > 1 || !plain {
                return Err(LENGTH);
            }
        }
        if let Some(coding) = self.coding {
            if self.codings > 1 || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(CODING);
            }
            // Pingora has taken Content-Length out by now, as RFC 9112 allows; the line is still in the bytes received.
            if request.version != Version::HTTP_11 || has_field(raw, b"content-length") {
                return Err(BOTH);
            }
        }
        Ok(())
    }

    /// Fields of which a second one would be read by some servers and not by others.
    fn single(&self) -> Result<(), DenyReason> {
        const HOSTS: DenyReason = DenyReason::RequestAmbiguous("there is more than one Host field");
        const CREDENTIALS: DenyReason =
            DenyReason::RequestAmbiguous("there is more than one Authorization field");
        match (self.hosts, self.credentials) {
            (2.., _) => Err(HOSTS),
            (_, 2..) => Err(CREDENTIALS),
            _ => Ok(()),
        }
    }
}

/// Checks how an answer is framed, as strictly as a request; a client could read it otherwise than Pingora did. What has no
/// body says nothing of its length (RFC 9110 section 8.6, RFC 9112 section 6.1).
pub(super) fn check_answer(response: &mut ResponseHeader) -> Result<(), &'static str> {
    let [mut lengths, mut codings] = [0, 0];
    for (name, value) in &response.headers {
        match *name {
            header::CONTENT_LENGTH => {
                lengths += 1;
                let plain = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
                if lengths > 1 || !plain {
                    return Err("Content-Length is not one plain number");
                }
            }
            header::TRANSFER_ENCODING => {
                codings += 1;
                if codings > 1 || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err("Transfer-Encoding is not `chunked`");
                }
            }
            _ => {}
        }
    }
    if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
    }
    Ok(())
}

/// Whether a service could read this as Content-Length or Transfer-Encoding, though it is neither: CGI and WSGI servers
/// cannot tell `Content_Length` from `Content-Length`.
fn is_like_framing(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let framing: &[u8] = match name.len() {
        14 => b"content-length",
        17 => b"transfer-encoding",
        _ => return false,
    };
    let fold = |byte: &u8| if byte.is_ascii_alphanumeric() { *byte } else { b'-' };
    name != framing && name.iter().map(fold).eq(framing.iter().copied())
}

/// Whether a line of the head ends in a line feed alone. RFC 9112 section 2.2 lets a server take that for an end of the
/// line, so some proxies do, and others see one line where a service sees two.
fn has_bare_line_feed(raw: &[u8]) -> bool {
    // The parser lets no carriage return through that stands alone. Counting both is faster than looking for either, and of
    // pieces that cannot overflow a byte the compiler counts sixteen bytes at a time.
    let surplus = |piece: &[u8]| {
        piece.iter().fold(0_i8, |sum, byte| sum + i8::from(*byte == b'\n') - i8::from(*byte == b'\r'))
    };
    raw.chunks(112).map(|piece| i64::from(surplus(piece))).sum::<i64>() != 0
}

fn has_field(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
            && line.get(name.len()) == Some(&b':')
    })
}
