//! What the tests of open exchanges have in common: a service that keeps them open, and clients that stay.

use std::net::SocketAddr;

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Raw;

/// A text frame as servers send them, and the words in it.
pub const FRAME: &[u8] = b"\x81\x05hello";

/// Everything that can be held open.
pub const KINDS: [&str; 5] = ["ws", "events", "poll", "download", "upload"];

/// `/ws` echoes what it is sent, the other kinds are never done; anything else is answered at once.
pub fn origin() -> Origin {
    let raw = |bytes: &[u8]| Answer { raw: Some(bytes.to_vec()), ..Answer::ok() };
    // Pingora sends the first bytes of an answer with a length when there are more than fit into a segment.
    let download = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"[..], &[b'x'; 5000]].concat();
    Origin::answering(move |seen| match seen.target().split(['/', '?']).nth(1) {
        Some("ws") => Answer::switch_to_websocket(),
        Some("events") => {
            raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
              9\r\ndata: 1\n\n\r\n")
        }
        Some("download") => raw(&download),
        Some("poll") => raw(b""),
        _ => Answer::ok(),
    })
}

pub struct Scene {
    pub origin: Origin,
    pub issuer: Issuer,
}

impl Scene {
    pub fn new() -> Self {
        Self { origin: origin(), issuer: Issuer::new(Algorithm::ES256) }
    }

    /// One guarded route to everything, with these sections more.
    pub fn setup(&self, sections: &[&str]) -> Setup {
        sections.iter().fold(Gateway::guarding(&self.issuer, &self.origin), |setup, it| setup.section(it))
    }

    /// A token with this session.
    pub fn session(&self, user: &str, session: &str) -> String {
        self.issuer.token(user, |claims| claims["sid"] = session.into())
    }

    /// A token that expires then.
    pub fn until(&self, user: &str, expires: u64) -> String {
        self.issuer.token(user, |claims| claims["exp"] = expires.into())
    }
}

/// Something that is open, with the first bytes of its answer read.
pub struct Open {
    pub raw: Raw,
    pub kind: &'static str,
}

/// The head of a request that opens this.
pub fn request(kind: &str, token: Option<&str>) -> String {
    let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let more = match kind {
        "ws" => {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        }
        "events" => "Accept: text/event-stream\r\n",
        "upload" => "Content-Length: 1000000\r\n",
        _ => "",
    };
    let method = if kind == "upload" { "POST" } else { "GET" };
    format!("{method} /{kind} HTTP/1.1\r\nHost: a.test\r\n{bearer}{more}\r\n")
}

/// Opens it over a connection of its own.
pub fn open(address: SocketAddr, kind: &'static str, token: &str) -> Open {
    open_over(|| Raw::connect(address), kind, Some(token))
}

pub fn open_over(connect: impl Fn() -> Raw, kind: &'static str, token: Option<&str>) -> Open {
    let mut raw = connect();
    raw.send(request(kind, token));
    match kind {
        "ws" => {
            assert_eq!(raw.response().status, 101);
            assert_eq!(raw.send(FRAME).bytes(FRAME.len()), FRAME);
        }
        "events" | "download" => assert_eq!(raw.response_to_head().status, 200),
        "upload" => drop(raw.send(vec![b'x'; 2000])),
        _ => {}
    }
    Open { raw, kind }
}

impl Open {
    /// Waits for the end, which must be of the kind that a cut is.
    pub fn ends(mut self, reason: &str) {
        let rest = self.raw.rest_until_closed();
        match self.kind {
            "ws" => assert_eq!(rest, close_frame(1008, reason), "{}", String::from_utf8_lossy(&rest)),
            // The end of chunks would say that this was all.
            "events" => assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}"),
            "download" => assert!(rest.len() < 10_000),
            _ => assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest)),
        }
    }

    /// Of a WebSocket: whether it still carries what is said.
    pub fn is_alive(&mut self) {
        assert_eq!(self.raw.send(FRAME).bytes(FRAME.len()), FRAME);
    }
}

pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut frame = vec![0x88, u8::try_from(reason.len() + 2).unwrap()];
    frame.extend(code.to_be_bytes());
    frame.extend(reason.as_bytes());
    frame
}

/// Polls until so many streams of all kinds are shown.
pub fn streams_become(gateway: &Gateway, expected: usize) {
    eventually(&format!("{expected} streams are shown"), || {
        let metrics = gateway.metrics();
        let counts = metrics.lines().filter_map(|line| line.strip_prefix("portcullis_streams{"));
        let shown: f64 = counts.filter_map(|it| it.split_once("} ")?.1.parse::<f64>().ok()).sum();
        if shown == expected as f64 { Ok(()) } else { Err(shown) }
    });
}

/// Polls until nothing is connected to the service any more.
pub fn service_is_left(origin: &Origin) {
    eventually("the service sees its connections end", || match origin.open() {
        0 => Ok(()),
        open => Err(open),
    });
}

pub fn cut_for(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("portcullis_streams_closed_total{{reason=\"{reason}\"}}")).unwrap_or_default()
}
