//! Clients that never stop asking, and notice every answer that does not come. They obey what they are told:
//! `Connection: close`, and GOAWAY.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::eventually;
use super::http2::{self, Http2};
use super::https::{Client, Https};
use super::raw::Raw;

/// What the clients have seen.
#[derive(Default)]
struct Tally {
    done: AtomicBool,
    answered: AtomicUsize,
    /// Kept connections that were given up because the gateway asked for it.
    told: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    fn answered(&self, status: u16) {
        match status {
            200 => drop(self.answered.fetch_add(1, Ordering::SeqCst)),
            other => self.failed(format!("status {other}")),
        }
    }

    fn failed(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }
}

/// Running clients. Dropped, they end.
pub struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
}

/// Where and how they ask.
#[derive(Clone)]
pub struct Target {
    pub plain: SocketAddr,
    /// With a certificate for this name.
    pub tls: Option<(SocketAddr, &'static str)>,
    pub token: String,
    /// Whether the gateway will end: then a refused connection is no failure, but the end.
    pub ends: bool,
}

impl Load {
    /// One client that keeps its connection, one that takes a new one each time; the same with TLS, and one with HTTP/2.
    pub fn on(target: &Target) -> Self {
        let tally = Arc::new(Tally::default());
        let mut clients = Vec::new();
        let mut spawn = |client: fn(&Target, &Tally)| {
            let (target, tally) = (target.clone(), Arc::clone(&tally));
            clients.push(std::thread::spawn(move || client(&target, &tally)));
        };
        spawn(each_on_its_own);
        spawn(|target, tally| {
            keep(target, tally, || connect(target.plain).map(|tcp| Raw::over(Box::new(tcp))))
        });
        if target.tls.is_some() {
            spawn(|target, tally| {
                let config = Arc::new(Client::blind().config());
                let (address, name) = target.tls.unwrap();
                keep(target, tally, || Https::connect(Arc::clone(&config), address, name).map(Https::raw));
            });
            spawn(streams);
        }
        Self { tally, clients }
    }

    /// Waits for that many more answers.
    pub fn goes_on(&self, more: usize) {
        let before = self.tally.answered.load(Ordering::SeqCst);
        eventually("requests go on", || match self.tally.answered.load(Ordering::SeqCst) - before {
            _ if self.failed() => Ok(()),
            seen if seen >= more => Ok(()),
            few => Err(few),
        });
        assert!(!self.failed(), "{:?}", self.tally.failures.lock().unwrap());
    }

    fn failed(&self) -> bool {
        !self.tally.failures.lock().unwrap().is_empty()
    }

    /// Ends the clients: nothing has failed. Returns how many answers there were, and how many connections the gateway
    /// asked to be given up.
    pub fn end(mut self) -> (usize, usize) {
        self.stop();
        let failures = std::mem::take(&mut *self.tally.failures.lock().unwrap());
        assert!(
            failures.is_empty(),
            "{} failed, such as: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        (self.tally.answered.load(Ordering::SeqCst), self.tally.told.load(Ordering::SeqCst))
    }

    fn stop(&mut self) {
        self.tally.done.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            if let Err(panic) = client.join() {
                self.tally.failed(format!("a client panicked: {:?}", panic.downcast_ref::<String>()));
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

fn connect(address: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&address, super::DEADLINE)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(token: &str, more: &str) -> String {
    format!("GET /load HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
}

fn each_on_its_own(target: &Target, tally: &Tally) {
    let request = request(&target.token, "Connection: close\r\n");
    while !tally.done() {
        let asked = connect(target.plain).and_then(|tcp| {
            let mut raw = Raw::over(Box::new(tcp));
            raw.send(&request).try_response()
        });
        match asked {
            Ok(response) => tally.answered(response.status),
            // Nothing was taken of it: who ends may be reached no more, and the client asks elsewhere.
            Err(_) if target.ends => return,
            Err(error) => tally.failed(format!("a connection of its own: {error}")),
        }
    }
}

/// Asks on one connection until told to leave it.
fn keep(target: &Target, tally: &Tally, connect: impl Fn() -> std::io::Result<Raw>) {
    let request = request(&target.token, "");
    while !tally.done() {
        let mut raw = match connect() {
            Ok(raw) => raw,
            Err(_) if target.ends => return,
            Err(error) => return tally.failed(format!("no connection: {error}")),
        };
        let mut first = true;
        while !tally.done() {
            let response = match raw.send(&request).try_response() {
                Ok(response) => response,
                Err(_) if first && target.ends => return,
                Err(error) => return tally.failed(format!("a kept connection: {error}")),
            };
            first = false;
            tally.answered(response.status);
            if response.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close")) {
                tally.told.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
    }
}

/// The same by HTTP/2, with several requests at a time.
fn streams(target: &Target, tally: &Tally) {
    let (address, name) = target.tls.unwrap();
    let bearer = format!("Bearer {}", target.token);
    let get = || http2::get(name, "/load", &[("authorization", bearer.as_str())]);
    while !tally.done() {
        let mut connection = match Http2::try_tls(&Client::blind(), address, name) {
            Ok(connection) => connection,
            Err(_) if target.ends => return,
            Err(error) => return tally.failed(format!("no HTTP/2 connection: {error}")),
        };
        let mut told = false;
        while !tally.done() && !told {
            let mut begun = Vec::new();
            for _ in 0..3 {
                match connection.begin(get(), true) {
                    Ok(pending) => begun.push(pending.response),
                    // It was not sent.
                    Err(error) if left(&error) => told = true,
                    Err(error) => return tally.failed(format!("HTTP/2, sending: {error}")),
                }
            }
            for pending in begun {
                match connection.answer(pending) {
                    Ok(response) => tally.answered(response.status),
                    Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                        told = true
                    }
                    Err(error) => return tally.failed(format!("HTTP/2: {error}")),
                }
            }
            told |= !connection.is_open();
        }
        if told {
            tally.told.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Whether the other side has said that it takes no more, or has left after having said so.
fn left(error: &h2::Error) -> bool {
    error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) || error.is_io()
}
