//! A service that speaks its part of a conversation as it is told to, byte for byte, and keeps what it saw.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::listening;
use super::origin::Seen;
use super::raw::find;

/// A listening service; it stops when dropped.
pub struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    part: Mutex<Part>,
    stopping: AtomicBool,
}

/// What the service does with one request whose head has come. `false`: it closes the connection.
type Part = Arc<dyn Fn(&mut Talk, &Seen) -> bool + Send + Sync>;

/// One connection, as the service sees it.
pub struct Talk {
    stream: TcpStream,
    pending: Vec<u8>,
    shared: Arc<Shared>,
    /// The request's place among those seen.
    number: usize,
}

impl Scripted {
    pub fn start(part: impl Fn(&mut Talk, &Seen) -> bool + Send + Sync + 'static) -> Self {
        let listener = listening::bind();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            part: Mutex::new(Arc::new(part)),
            stopping: AtomicBool::new(false),
        });
        let told = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if told.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&told);
                stream.set_nodelay(true).unwrap();
                // Short, so that an idle connection ends with the service.
                stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                thread::spawn(move || Talk { stream, pending: Vec::new(), shared, number: 0 }.run());
            }
        });
        Self { address, shared }
    }

    /// From the next request on.
    pub fn play(&self, part: impl Fn(&mut Talk, &Seen) -> bool + Send + Sync + 'static) {
        *self.shared.part.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(part);
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What came since this was last asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many requests [`Scripted::take_seen`] would give.
    pub fn asked(&self) -> usize {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// `[[upstreams]]` for it, with more lines.
    pub fn config_toml(&self, name: &str, lines: &str) -> String {
        format!("[[upstreams]]\nname = \"{name}\"\nservers = [\"{}\"]\n{lines}\n", self.address)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which sees the flag.
        drop(TcpStream::connect(self.address));
    }
}

impl Talk {
    fn run(mut self) {
        while let Some(end) = self.until(|bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4)) {
            let head = self.pending.drain(..end).collect();
            let seen = Seen { connection: 0, head, body: Vec::new() };
            let part = {
                let mut all = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
                self.number = all.len();
                all.push(seen.clone());
                Arc::clone(&self.shared.part.lock().unwrap_or_else(PoisonError::into_inner))
            };
            if !part(&mut self, &seen) {
                return;
            }
        }
    }

    /// Says this. `false`: nobody listens any more.
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Says this, and that the connection is to be closed.
    pub fn say_last(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.say(bytes);
        false
    }

    /// Reads the whole body, chunks taken apart, and keeps it; `None` if it does not come to its end.
    pub fn body(&mut self, request: &Seen) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        let whole = if request.values("transfer-encoding").is_empty() {
            let length = request.values("content-length").first().map_or(0, |it| it.parse().unwrap());
            self.take(length, &mut body)
        } else {
            self.chunks(&mut body)
        };
        let mut all = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get_mut(self.number) {
            seen.body.clone_from(&body);
        }
        whole.map(|()| body)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Some(());
            }
            self.take(size, body)?;
            self.line()?;
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.until(|bytes| find(bytes, b"\r\n"))?;
        let line: Vec<u8> = self.pending.drain(..end + 2).collect();
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    /// Exactly so many bytes.
    pub fn take(&mut self, mut count: usize, into: &mut Vec<u8>) -> Option<()> {
        while count > 0 {
            if self.pending.is_empty() && !self.fill() {
                return None;
            }
            let part = count.min(self.pending.len());
            into.extend(self.pending.drain(..part));
            count -= part;
        }
        Some(())
    }

    /// Waits until the other side has closed or reset the connection.
    pub fn closed(&mut self) {
        while self.fill() {
            self.pending.clear();
        }
    }

    /// Does nothing for as long as the service runs.
    pub fn rest(&self) {
        while !self.shared.stopping.load(Ordering::SeqCst) {
            super::pause(Duration::from_millis(20));
        }
    }

    /// A piece of whatever comes next; `None` at the end.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        (!self.pending.is_empty() || self.fill()).then(|| std::mem::take(&mut self.pending))
    }

    fn until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        listening::until(&mut self.stream, &mut self.pending, &self.shared.stopping, found)
    }

    fn fill(&mut self) -> bool {
        listening::fill(&mut self.stream, &mut self.pending, &self.shared.stopping)
    }
}
