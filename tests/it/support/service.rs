//! A service that speaks TLS, HTTP/2, or both, and answers every request with its own body. What only speaks plain
//! HTTP/1.1 is an [`super::origin::Origin`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Response};
use pingora::tls::TlsAcceptor;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::pki::{Authority, Identity};
use super::raw::find;

/// One request as the service understood it.
#[derive(Clone, Debug)]
pub struct Told {
    /// `HTTP/1.1` or `HTTP/2.0`
    pub version: &'static str,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The name that was asked for in the handshake.
    pub server_name: Option<String>,
    /// Whether the gateway has shown a certificate.
    pub certified: bool,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

/// What all requests of a connection have in common.
#[derive(Clone)]
struct Link {
    server_name: Option<String>,
    certified: bool,
    number: usize,
}

/// A running service; it stops when dropped.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped, it takes every connection with it.
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Vec<Told>>,
    /// Lets `/pause` go on.
    go_on: Notify,
    connections: AtomicUsize,
    /// Whether `/refused` has been refused.
    refused: AtomicBool,
}

impl Shared {
    fn tell(&self, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }
}

/// How it is spoken to.
pub struct Speaks {
    tls: Option<Arc<ServerConfig>>,
}

impl Speaks {
    /// HTTP/2 with prior knowledge.
    pub fn h2c() -> Self {
        Self { tls: None }
    }

    /// TLS with HTTP/1.1, and with HTTP/2 where `http2` says so. Clients have to show a certificate of `clients`.
    pub fn tls(identity: &Identity, http2: bool, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        let mut config =
            builder.with_single_cert(vec![identity.der.clone()], identity.private_key()).unwrap();
        let offered: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        Self { tls: Some(Arc::new(config)) }
    }
}

impl Service {
    pub fn start(speaks: Speaks) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        runtime.spawn(accept(listener, Arc::new(speaks), shared.clone()));
        Self { address, shared, _runtime: runtime }
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    pub fn requests(&self) -> Vec<Told> {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The only request there was.
    pub fn only(&self) -> Told {
        let told = self.requests();
        assert_eq!(told.len(), 1, "one request expected: {told:?}");
        told.into_iter().next().unwrap()
    }

    /// How many there were for this path.
    pub fn requests_to(&self, path: &str) -> usize {
        self.requests().iter().filter(|told| told.path == path).count()
    }

    /// Lets one `/pause` or `/hold` go on.
    pub fn go_on(&self) {
        self.shared.go_on.notify_one();
    }

    /// `[[upstreams]]` for it, with these lines.
    pub fn config_toml(&self, name: &str, lines: &str) -> String {
        format!("[[upstreams]]\nname = \"{name}\"\nservers = [\"{}\"]\n{lines}\n", self.address)
    }
}

async fn accept(listener: TcpListener, speaks: Arc<Speaks>, shared: Arc<Shared>) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let (speaks, shared) = (speaks.clone(), shared.clone());
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let Some(config) = &speaks.tls else {
                return http2(tcp, shared, Link { server_name: None, certified: false, number }).await;
            };
            // A gateway that does not believe the certificate ends the handshake.
            let Ok(stream) = TlsAcceptor::from(config.clone()).accept(tcp).await else { return };
            let session = stream.get_ref().1;
            let link = Link {
                server_name: session.server_name().map(str::to_owned),
                certified: session.peer_certificates().is_some(),
                number,
            };
            if session.alpn_protocol() == Some(b"h2") {
                http2(stream, shared, link).await;
            } else {
                http1(stream, shared, link).await;
            }
        });
    }
}

/// `/bye` is the last request of a connection (GOAWAY); the first `/refused` is not looked at (REFUSED_STREAM).
async fn http2<S>(stream: S, shared: Arc<Shared>, link: Link)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (shared, link) = (shared.clone(), link.clone());
        match request.uri().path() {
            "/bye" => connection.graceful_shutdown(),
            "/refused" if !shared.refused.swap(true, Ordering::SeqCst) => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            _ => {}
        }
        tokio::spawn(async move {
            // A gateway that resets the stream hears no more of it.
            let _ = answer(request, respond, &shared, link).await;
        });
    }
}

/// Echoes the body and its type, with trailers as gRPC has them. `/pause` waits in the middle until it is told to go on,
/// `/hold` before its head.
async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    shared: &Shared,
    link: Link,
) -> Result<(), h2::Error> {
    let (mut head, mut stream) = request.into_parts();
    // Said as HTTP/1.1 would.
    if let Some(authority) = head.uri.authority() {
        head.headers.insert(http::header::HOST, authority.as_str().parse().unwrap());
    }
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let path = head.uri.path().to_owned();
    let media_type = head.headers.get("content-type").cloned();
    shared.tell(Told {
        version: "HTTP/2.0",
        path: path.clone(),
        headers: head.headers,
        body: body.clone(),
        server_name: link.server_name,
        certified: link.certified,
        connection: link.number,
    });
    if path == "/hold" {
        shared.go_on.notified().await;
    }
    let mut response = Response::builder().body(()).unwrap();
    response.headers_mut().extend(media_type.map(|it| (http::header::CONTENT_TYPE, it)));
    let mut sending = respond.send_response(response, false)?;
    sending.send_data(Bytes::from(body), false)?;
    if path == "/pause" {
        shared.go_on.notified().await;
        sending.send_data(Bytes::from_static(b" and on"), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sending.send_trailers(trailers)
}

/// After an upgrade, an echo.
async fn http1<S>(mut stream: S, shared: Arc<Shared>, link: Link)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pending = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = find(&pending, b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut pending).await {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&pending.drain(..end).collect::<Vec<_>>()).into_owned();
        let mut headers = HeaderMap::new();
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.trim().parse().unwrap());
        }
        let length: usize =
            headers.get("content-length").map_or(0, |it| it.to_str().unwrap().parse().unwrap());
        while pending.len() < length {
            match stream.read_buf(&mut pending).await {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
        let body: Vec<u8> = pending.drain(..length).collect();
        let upgrade = headers.contains_key("upgrade");
        let answer = match upgrade {
            true => "HTTP/1.1 101 Go on\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
            false => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        };
        shared.tell(Told {
            version: "HTTP/1.1",
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            headers,
            body: body.clone(),
            server_name: link.server_name.clone(),
            certified: link.certified,
            connection: link.number,
        });
        if send(&mut stream, &[answer.as_bytes(), &body].concat()).await.is_err() {
            return;
        }
        if upgrade {
            return echo(stream, pending).await;
        }
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, mut pending: Vec<u8>) {
    while send(&mut stream, &std::mem::take(&mut pending)).await.is_ok() {
        if !matches!(stream.read_buf(&mut pending).await, Ok(count) if count > 0) {
            return;
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
