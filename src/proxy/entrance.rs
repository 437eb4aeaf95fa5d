//! How connections come in: plain or by TLS, HTTP/1.1 or HTTP/2. Ends where the first request is waited for.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::protocols::Stream;
use prometheus::IntCounter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::PREFACE;
use super::head::Head;
use super::parting::{Parting, Tapped};
use super::tcp::Tcp;
use super::wire::Wire;
use crate::tls::{HandshakeError, Listener, Secured};

/// The first byte of every TLS connection: a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;

/// What a browser shows that was sent to the right port with the wrong scheme; nginx says the same.
const WRONG_SCHEME: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 53\r\n\
    Connection: close\r\n\r\nThis port speaks TLS: the address begins with https.\n";

/// One listener's way in.
pub enum Entrance {
    /// Plain HTTP.
    Plain,
    /// HTTPS.
    Tls(Arc<Listener>),
    /// Plain HTTP, from proxies that ask and forward by themselves.
    ForwardAuth,
}

/// By which scheme a request came.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Http,
    Https(Arc<Secured>),
    /// It is a question: see [`super::asked`].
    Asked,
}

impl Scheme {
    /// `X-Forwarded-Proto`.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Http | Self::Asked => "http",
            Self::Https(_) => "https",
        }
    }

    /// Whether a proxy asks, and forwards by itself.
    pub(super) fn asks(&self) -> bool {
        matches!(self, Self::Asked)
    }

    /// Whether the client has shown a certificate that is believed.
    pub(super) fn client_certificate(&self) -> bool {
        matches!(self, Self::Https(secured) if secured.client_certificate)
    }

    /// Whether the connection has rights that a new one would not get ([`Secured::is_outdated`]).
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Https(secured) if secured.is_outdated())
    }

    /// Waits until it has.
    pub(super) async fn outdated(&self) {
        match self {
            Self::Https(secured) => secured.outdated().await,
            Self::Http | Self::Asked => std::future::pending().await,
        }
    }

    /// Whether the connection was made for another host, on a listener where that matters (RFC 9110 section 15.5.20):
    /// who showed a certificate to one host has shown it to no other.
    pub(super) fn misdirects(&self, host: &str) -> bool {
        let Self::Https(secured) = self else { return false };
        if secured.is_outdated() {
            return true;
        }
        if !secured.asks_for_certificates {
            return false;
        }
        match &secured.server_name {
            Some(name) => **name != *host,
            // Clients that are given an address name nothing (RFC 6066 section 3); whoever has a name says it.
            None => !host.is_empty() && host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err(),
        }
    }
}

/// A connection on which requests can be waited for.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) http2: bool,
    pub(super) scheme: Scheme,
    /// What may come of a head of HTTP/1.1.
    pub(super) head: Arc<Head>,
}

impl Entrance {
    /// Opens a connection, however long the client takes. `None`: it came to nothing.
    pub(super) async fn open(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        h2c: bool,
        floods: &IntCounter,
        parting: &Arc<Parting>,
    ) -> Result<Opened, Failed> {
        let head = Arc::new(Head::default());
        match self {
            Self::Plain if h2c => {
                let mut tcp = prepared(tcp, peer)?;
                let http2 = has_preface(&mut tcp).await?;
                let stream: Stream = if http2 {
                    Box::new(Wire::http2(tcp, floods.clone()))
                } else {
                    Box::new(Wire::http1(Tapped::new(tcp, Arc::clone(parting)), Arc::clone(&head)))
                };
                Ok(Opened { stream, http2, scheme: Scheme::Http, head })
            }
            Self::Plain | Self::ForwardAuth => {
                let tapped = Tapped::new(prepared(tcp, peer)?, Arc::clone(parting));
                let stream = Box::new(Wire::http1(tapped, Arc::clone(&head)));
                let scheme = if matches!(self, Self::Plain) { Scheme::Http } else { Scheme::Asked };
                Ok(Opened { stream, http2: false, scheme, head })
            }
            Self::Tls(listener) => {
                let tcp = refuse_plaintext(tcp).await?;
                let (tls, secured) = listener.shake_hands(prepared(tcp, peer)?).await?;
                let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream: Stream = if http2 {
                    Box::new(Wire::http2(tls, floods.clone()))
                } else {
                    Box::new(Wire::http1(Tapped::new(tls, Arc::clone(parting)), Arc::clone(&head)))
                };
                Ok(Opened { stream, http2, scheme: Scheme::Https(Arc::new(secured)), head })
            }
        }
    }
}

/// Why there is no connection.
pub(super) enum Failed {
    Handshake(HandshakeError),
    /// The client was gone before it said anything.
    Gone,
}

impl From<HandshakeError> for Failed {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

fn prepared(tcp: TcpStream, peer: SocketAddr) -> Result<Tcp, Failed> {
    Tcp::new(tcp, peer).map_err(|_| Failed::Gone)
}

/// Whether the client begins with the preface of HTTP/2. What was read is read again by whoever comes next.
async fn has_preface(tcp: &mut Tcp) -> Result<bool, Failed> {
    let mut seen = Vec::with_capacity(PREFACE.len());
    while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
        let mut rest = (&mut *tcp).take((PREFACE.len() - seen.len()) as u64);
        if rest.read_buf(&mut seen).await.map_err(|_| Failed::Gone)? == 0 {
            return Err(Failed::Gone);
        }
    }
    let preface = seen == PREFACE;
    tcp.put_back(seen);
    Ok(preface)
}

/// Who speaks HTTP to a port of TLS is told so; rustls could only say that these were no TLS records.
async fn refuse_plaintext(mut tcp: TcpStream) -> Result<TcpStream, HandshakeError> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(1..) if first == [HANDSHAKE] => return Ok(tcp),
        Ok(1..) => {}
        Ok(0) | Err(_) => return Err(HandshakeError::Closed),
    }
    if first.iter().all(u8::is_ascii_uppercase) {
        // Unread bytes would make the system reset the connection, and the answer might be lost with it.
        let mut request = [0; 4096];
        let _ = tcp.try_read(&mut request);
        let _ = tcp.write_all(WRONG_SCHEME).await;
        let _ = tcp.shutdown().await;
    }
    Err(HandshakeError::Plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_certificates_are_asked_for_a_connection_serves_the_host_it_was_made_for() {
        let scheme = |name: Option<&str>, asks| {
            Scheme::Https(Arc::new(Secured {
                server_name: name.map(Into::into),
                client_certificate: asks,
                asks_for_certificates: asks,
                under: None,
            }))
        };
        assert!(!scheme(Some("a.test"), true).misdirects("a.test"));
        assert!(scheme(Some("a.test"), true).misdirects("b.test"));
        assert!(scheme(None, true).misdirects("b.test"));
        assert!(!scheme(None, true).misdirects("127.0.0.1"));
        assert!(!scheme(None, true).misdirects("[::1]"));
        assert!(!scheme(Some("a.test"), false).misdirects("b.test"), "one certificate may be for both");
        assert!(!Scheme::Http.misdirects("b.test"));
    }

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let (_, body) =
            std::str::from_utf8(WRONG_SCHEME).expect("text").split_once("\r\n\r\n").expect("a head");
        assert_eq!(body.len(), 53);
    }
}
