//! The service behind the gateway: records the exact bytes it received and answers as told.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::raw::find;
use super::{eventually, listening, pause};

/// What one request looked like on the wire.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// The request line and fields, up to and with the empty line; less where the connection ended earlier.
    pub head: Vec<u8>,
    /// As on the wire: with chunk sizes and trailers where it was chunked.
    pub body: Vec<u8>,
}

impl Seen {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// `GET /path HTTP/1.1`
    pub fn line(&self) -> String {
        self.text().split("\r\n").next().unwrap_or_default().to_owned()
    }

    /// The target exactly as received.
    pub fn target(&self) -> String {
        self.line().split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Every value of this name, compared without case.
    pub fn values(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, it)| it.trim().to_owned()).collect()
    }

    /// Every field name, lower-cased and with everything non-alphanumeric as `-`: as a careless service reads them.
    pub fn folded_names(&self) -> Vec<String> {
        let text = self.text();
        let names = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name);
        let fold = |it: char| if it.is_ascii_alphanumeric() { it.to_ascii_lowercase() } else { '-' };
        names.map(|name| name.chars().map(fold).collect()).collect()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub chunked: bool,
    pub delay: Duration,
    /// Close after answering.
    pub close: bool,
    /// Sent instead of everything above.
    pub raw: Option<Vec<u8>>,
}

impl Answer {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.as_ref().to_vec(),
            chunked: false,
            delay: Duration::ZERO,
            close: false,
            raw: None,
        }
    }

    pub fn ok() -> Self {
        Self::new(200, "ok")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }

    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// `101`: from here on the connection is an echo, recorded in [`Origin::tunnelled`].
    pub fn switch_to_websocket() -> Self {
        Self::new(101, "").header("Connection", "Upgrade").header("Upgrade", "websocket")
    }

    fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut head = format!("HTTP/1.1 {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.close {
            head.push_str("Connection: close\r\n");
        }
        let mut bytes;
        match (self.status, self.chunked) {
            (101, _) => bytes = format!("{head}\r\n").into_bytes(),
            (_, false) => {
                bytes = format!("{head}Content-Length: {}\r\n\r\n", self.body.len()).into_bytes();
                bytes.extend(&self.body);
            }
            (_, true) => {
                bytes =
                    format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", self.body.len()).into_bytes();
                bytes.extend(&self.body);
                bytes.extend(if self.body.is_empty() { &b"\r\n"[..] } else { b"\r\n0\r\n\r\n" });
            }
        }
        bytes
    }
}

type Behaviour = Box<dyn Fn(&Seen) -> Answer + Send>;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    tunnelled: Mutex<Vec<u8>>,
    behaviour: Mutex<Behaviour>,
    connections: AtomicUsize,
    open: AtomicUsize,
    stopping: AtomicBool,
}

/// A listening service; it stops when dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Origin {
    /// Answers `200 ok` to everything.
    pub fn start() -> Self {
        Self::answering(|_| Answer::ok())
    }

    pub fn answering(behaviour: impl Fn(&Seen) -> Answer + Send + 'static) -> Self {
        let listener = listening::bind();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            tunnelled: Mutex::default(),
            behaviour: Mutex::new(Box::new(behaviour)),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let acceptor = thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// From the next request on.
    pub fn answer(&self, behaviour: impl Fn(&Seen) -> Answer + Send + 'static) {
        *lock(&self.shared.behaviour) = Box::new(behaviour);
    }

    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The only request there was.
    pub fn only(&self) -> Seen {
        let seen = self.requests();
        assert_eq!(seen.len(), 1, "one request expected: {:?}", lines(&seen));
        seen.into_iter().next().unwrap()
    }

    /// Not one byte of a request.
    pub fn saw_nothing(&self) {
        let seen = self.requests();
        assert!(seen.is_empty(), "the origin saw {:?}", lines(&seen));
        assert!(lock(&self.shared.tunnelled).is_empty());
    }

    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// How many connections were ever made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// What came after a `101`.
    pub fn tunnelled(&self) -> Vec<u8> {
        lock(&self.shared.tunnelled).clone()
    }

    /// `[[upstreams]]` for it.
    pub fn config_toml(&self, name: &str) -> String {
        format!("[[upstreams]]\nname = \"{name}\"\nservers = [\"{}\"]\n", self.address)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap_or_default();
        }
        if !thread::panicking() {
            eventually("the origin's connections end", || match self.open() {
                0 => Ok(()),
                open => Err(open),
            });
        }
    }
}

fn lines(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(Seen::text).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        thread::spawn(move || {
            Connection { stream, number, pending: Vec::new(), shared: shared.clone() }.serve();
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

struct Connection {
    stream: TcpStream,
    number: usize,
    pending: Vec<u8>,
    shared: Arc<Shared>,
}

impl Connection {
    fn serve(&mut self) {
        // Short, so that a stopping origin is noticed on an idle connection.
        self.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while let Some(seen) = self.request() {
            let answer = (lock(&self.shared.behaviour))(&seen);
            lock(&self.shared.seen).push(seen);
            if !answer.delay.is_zero() {
                pause(answer.delay);
            }
            if self.stream.write_all(&answer.bytes()).is_err() || answer.close {
                return;
            }
            if answer.status == 101 {
                return self.echo();
            }
        }
    }

    /// The next request, however broken; `None` at the end of the connection.
    fn request(&mut self) -> Option<Seen> {
        let whole = self.until(|bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4));
        let head = match whole {
            Some(end) => self.pending.drain(..end).collect(),
            None => std::mem::take(&mut self.pending),
        };
        if head.is_empty() {
            return None;
        }
        let mut seen = Seen { connection: self.number, head, body: Vec::new() };
        if !seen.values("transfer-encoding").is_empty() {
            let end = self.until(chunked_end).unwrap_or(self.pending.len());
            seen.body = self.pending.drain(..end).collect();
        } else if let Some(length) =
            seen.values("content-length").first().and_then(|it| it.parse::<usize>().ok())
        {
            let end =
                self.until(|bytes| (bytes.len() >= length).then_some(length)).unwrap_or(self.pending.len());
            seen.body = self.pending.drain(..end).collect();
        }
        Some(seen)
    }

    fn until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        listening::until(&mut self.stream, &mut self.pending, &self.shared.stopping, found)
    }

    fn fill(&mut self) -> bool {
        listening::fill(&mut self.stream, &mut self.pending, &self.shared.stopping)
    }

    fn echo(&mut self) {
        loop {
            let bytes = std::mem::take(&mut self.pending);
            lock(&self.shared.tunnelled).extend(&bytes);
            if self.stream.write_all(&bytes).is_err() || !self.fill() {
                return;
            }
        }
    }
}

/// Where a chunked body ends, trailers included.
fn chunked_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
    }
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some(at);
        }
    }
}
