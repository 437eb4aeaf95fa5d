//! A client that sends exactly the bytes it is given, and reads exactly one answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// What bytes go over: TCP, or TLS on top of it.
pub trait Duplex: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Duplex for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// One connection.
pub struct Raw {
    stream: Box<dyn Duplex>,
    /// Read, but belonging to the next answer.
    pending: Vec<u8>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names as sent.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One frame of HTTP/2.
pub struct Frame {
    pub kind: u8,
    pub payload: Vec<u8>,
}

impl Response {
    /// The first value, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|it| panic!("{it}: {self:?}"))
    }

    /// The `reason` of a problem document (RFC 9457), which must be one.
    pub fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["reason"].as_str().unwrap_or_else(|| panic!("no reason: {}", self.text())).to_owned()
    }
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    /// Where nobody may listen any more.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Box::new(stream)))
    }

    pub fn over(stream: Box<dyn Duplex>) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// A gateway that has already refused may have closed: what it said is still to be read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        if let Err(error) = self.stream.write_all(bytes.as_ref()) {
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        }
        self
    }

    /// The next answer to anything but HEAD, interim (1xx) answers included.
    pub fn response(&mut self) -> Response {
        self.read(false).unwrap()
    }

    pub fn response_to_head(&mut self) -> Response {
        self.read(true).unwrap()
    }

    /// The next answer, or how the connection ended instead.
    pub fn try_response(&mut self) -> io::Result<Response> {
        self.read(false)
    }

    /// The connection is closed by the other side, with nothing more said.
    pub fn assert_closed(&mut self) {
        let rest = self.rest_until_closed();
        assert!(rest.is_empty(), "more was said: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Everything up to the close.
    pub fn rest_until_closed(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        while self.fill(deadline).unwrap_or_else(|it| panic!("still open: {it}")) {}
        std::mem::take(&mut self.pending)
    }

    /// Whether the other side has closed. Of an open connection this is known only by waiting a moment.
    pub fn is_closed(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_millis(100);
        loop {
            match self.fill(deadline) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Whether the other side has closed, as far as is known by now.
    pub fn is_closed_now(&mut self) -> bool {
        self.ended_by(Instant::now())
    }

    /// Waits until nothing more can be read, for whatever reason.
    pub fn wait_closed(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.ended_by(deadline) {
            assert!(Instant::now() < deadline, "still open");
        }
    }

    fn ended_by(&mut self, deadline: Instant) -> bool {
        match self.fill(deadline) {
            Ok(more) => !more,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Bytes that are not HTTP (after 101), at least so many.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.try_bytes(count).unwrap_or_else(|seen| panic!("closed after {seen:?}"))
    }

    /// As [`Raw::bytes`]; what there was when the other side closed before that many.
    pub fn try_bytes(&mut self, count: usize) -> Result<Vec<u8>, Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        while self.pending.len() < count {
            if !self.fill(deadline).unwrap() {
                return Err(std::mem::take(&mut self.pending));
            }
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// The next frame of HTTP/2.
    pub fn frame(&mut self) -> io::Result<Frame> {
        let deadline = Instant::now() + DEADLINE;
        let head = self.exactly(9, deadline)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        Ok(Frame { kind: head[3], payload: self.exactly(length, deadline)? })
    }

    /// Nothing more will be sent.
    pub fn finish(&mut self) {
        self.stream.tcp().shutdown(std::net::Shutdown::Write).unwrap_or_default();
    }

    fn read(&mut self, to_head: bool) -> io::Result<Response> {
        let deadline = Instant::now() + DEADLINE;
        let end = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill(deadline)? {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed before an answer"));
            }
        };
        let head = self.take(end);
        let (status, headers) = parse_head(&head);
        let mut response = Response { status, headers, body: Vec::new() };
        if to_head || status < 200 || status == 204 || status == 304 {
            return Ok(response);
        }
        response.body = match (response.header("transfer-encoding"), response.header("content-length")) {
            (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => self.chunked(deadline)?,
            (_, Some(length)) => self.exactly(length.parse().unwrap(), deadline)?,
            _ => self.rest_until_closed(),
        };
        Ok(response)
    }

    fn chunked(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line(deadline)?;
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
            body.extend(self.exactly(size, deadline)?);
            if size > 0 {
                self.line(deadline)?;
                continue;
            }
            while !self.line(deadline)?.is_empty() {}
            return Ok(body);
        }
    }

    fn line(&mut self, deadline: Instant) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.pending, b"\r\n") {
                let line = self.take(at + 2);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.fill(deadline)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, count: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.pending.len() < count {
            if !self.fill(deadline)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.take(count))
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.pending.drain(..count).collect()
    }

    /// Reads something; `false` is the end. A reset is an end too.
    fn fill(&mut self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.tcp().set_read_timeout(Some(left))?;
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            // TLS says when it ends on purpose; here the end is enough.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn parse_head(head: &[u8]) -> (u16, Vec<(String, String)>) {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap();
    let code = status.split(' ').nth(1).and_then(|it| it.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    (code.unwrap_or_else(|| panic!("not an answer: {status:?}")), headers)
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// One request on a connection of its own; `headers` are whole lines without their ends.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let mut raw = Raw::connect(address);
    raw.send([head.as_bytes(), b"\r\n", body].concat());
    match method {
        "HEAD" => raw.response_to_head(),
        _ => raw.response(),
    }
}

/// `GET`, with a bearer token or without.
pub fn get(address: SocketAddr, path: &str, token: Option<&str>) -> Response {
    let bearer = token.map(|it| format!("Authorization: Bearer {it}"));
    request(address, "GET", path, &bearer.iter().map(String::as_str).collect::<Vec<_>>(), b"")
}
