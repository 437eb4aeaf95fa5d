//! A client that speaks HTTP/2, over TLS or with prior knowledge, and may break its rules.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Version};
use pingora::tls::TlsConnector;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::DEADLINE;
use super::https::Client;
use super::raw::Response;

/// One connection.
pub struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A request whose head was sent.
pub struct Pending {
    pub response: ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Http2 {
    /// By ALPN, asking for this name.
    pub fn tls(client: &Client<'_>, address: SocketAddr, name: &str) -> Self {
        let config = client.clone().alpn(&[b"h2"]).config();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Self::new(async move {
            let tcp = TcpStream::connect(address).await.unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
        })
    }

    /// As [`Http2::tls`], where the gateway may not be there.
    pub fn try_tls(client: &Client<'_>, address: SocketAddr, name: &str) -> std::io::Result<Self> {
        let config = client.clone().alpn(&[b"h2"]).config();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Self::try_new(async move {
            let tcp = TcpStream::connect(address).await?;
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await
        })
    }

    /// With prior knowledge.
    pub fn plain(address: SocketAddr) -> Self {
        Self::new(async move { TcpStream::connect(address).await.unwrap() })
    }

    fn new<S>(stream: impl Future<Output = S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::try_new(async { Ok(stream.await) }).unwrap()
    }

    fn try_new<S>(stream: impl Future<Output = std::io::Result<S>>) -> std::io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, connection) = runtime.block_on(async {
            let stream = stream.await?;
            let handshake =
                h2::client::Builder::new().max_local_error_reset_streams(None).handshake(stream).await;
            handshake.map_err(std::io::Error::other)
        })?;
        let driver = runtime.spawn(connection);
        Ok(Self { runtime, sender, driver })
    }

    /// Sends a head; what follows is up to the caller.
    pub fn begin(&mut self, request: Request<()>, end: bool) -> Result<Pending, h2::Error> {
        let mut sender = self.sender.clone();
        self.wait(async move {
            sender = sender.ready().await?;
            let (response, body) = sender.send_request(request, end)?;
            Ok(Pending { response, body })
        })
    }

    /// One request, whole, and its answer.
    pub fn request(&mut self, request: Request<()>, body: &[u8]) -> Result<Response, h2::Error> {
        let mut pending = self.begin(request, body.is_empty())?;
        let body = Bytes::copy_from_slice(body);
        self.wait(async move {
            let sending = async {
                if !body.is_empty() {
                    send(&mut pending.body, body).await;
                }
            };
            let (response, ()) = tokio::join!(pending.response, sending);
            whole(response?).await
        })
    }

    /// `GET https://HOST/PATH` with these fields.
    pub fn get(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response, h2::Error> {
        self.request(get(host, path, headers), b"")
    }

    /// The answer to what was begun.
    pub fn answer(&mut self, pending: ResponseFuture) -> Result<Response, h2::Error> {
        self.wait(async move { whole(pending.await?).await })
    }

    /// How many streams the gateway takes at a time; known once it has answered anything.
    pub fn streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// How the connection ended.
    pub fn ended(mut self) -> Result<(), h2::Error> {
        let driver = &mut self.driver;
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, driver).await })
            .expect("still open")
            .unwrap()
    }

    pub fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, future).await })
            .expect("no answer in time")
    }
}

pub fn get(host: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(format!("https://{host}{path}")).version(Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// `:status 200` in the static table (RFC 7541 appendix A).
pub const STATUS_200: u8 = 0x88;

/// The preface, settings, and one request of exactly these fields: no library would send some of them.
pub fn raw_request(fields: &[(&str, &str)]) -> Vec<u8> {
    raw_exchange(&[raw_frame(HEADERS, END_STREAM | END_HEADERS, &block(fields))])
}

/// The preface, settings, and these frames.
pub fn raw_exchange(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend(frames.concat());
    bytes
}

/// One frame of stream 1.
pub fn raw_frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = payload.len().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
    frame.extend(payload);
    frame
}

/// A field block.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literal, never indexed, without Huffman coding (RFC 7541 section 6.2.3).
        block.push(0x10);
        for text in [name, value] {
            number(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 section 5.1, with a prefix of seven bits.
fn number(mut number: usize, block: &mut Vec<u8>) {
    if number < 127 {
        block.push(number as u8);
        return;
    }
    block.push(127);
    number -= 127;
    while number >= 128 {
        block.push((number % 128) as u8 | 128);
        number /= 128;
    }
    block.push(number as u8);
}

async fn send(stream: &mut SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let piece = body.split_to(room.min(body.len()));
                if stream.send_data(piece, body.is_empty()).is_err() {
                    return;
                }
            }
            // The gateway has answered without waiting for all of it.
            _ => return,
        }
    }
}

async fn whole(response: http::Response<RecvStream>) -> Result<Response, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Ok(Response { status: head.status.as_u16(), headers, body })
}
