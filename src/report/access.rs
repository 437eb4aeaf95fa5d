//! The access log: one line per request. The worker only pushes a small struct into a bounded queue; a thread of its
//! own formats and writes in batches, so that a slow terminal or a full pipe costs lines, never requests.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use http::Method;
use prometheus::IntCounter;

use super::Finished;
use super::settings::Format;
use crate::route::Route;
use crate::time::Timestamp;
use crate::verdict::{Assurance, Credential, DenyReason};

mod format;

/// Lines that may wait. With [`PAUSE`] this is some 160 000 lines a second before the writer has to be woken.
const QUEUE: usize = 8192;
/// How often the writer looks. Waking it for every line would cost each request a system call.
const PAUSE: Duration = Duration::from_millis(50);
/// A longer path is cut: what waits in the queue must be bounded in bytes as well.
const MAX_PATH: usize = 1024;
const MAX_REQUEST_ID: usize = 128;
const MAX_METHOD: usize = 32;
/// The buffer is given to the output when it holds this much.
const BATCH: usize = 64 * 1024;

/// A finished request on its way to the writer. What can be shared is; path and request id share one allocation.
struct Line {
    at: Timestamp,
    method: Method,
    path_and_id: Box<str>,
    path_length: usize,
    status: u16,
    route: Option<Arc<Route>>,
    credential: Option<Arc<Credential>>,
    outcome: Outcome,
    upstream: Option<SocketAddr>,
    total: Duration,
    upstream_time: Option<Duration>,
    judgment: Duration,
    client: IpAddr,
    bytes: u64,
    asked_by: Option<&'static str>,
}

enum Outcome {
    Allowed,
    AllowedUnasked(Box<str>),
    Denied(DenyReason),
}

impl Line {
    fn of(finished: &Finished<'_>) -> Self {
        let path = finished.path.split(['?', '#']).next().unwrap_or_default();
        let path = cut(path, MAX_PATH);
        let request_id = cut(finished.request_id, MAX_REQUEST_ID);
        let (route, credential, outcome) = match finished.verdict {
            Ok(grant) => {
                let outcome = match &grant.assurance {
                    Assurance::Full => Outcome::Allowed,
                    Assurance::RevocationUnknown(outage) => {
                        Outcome::AllowedUnasked(outage.to_string().into())
                    }
                };
                (Some(grant.route.clone()), grant.credential.clone(), outcome)
            }
            Err(denial) => {
                (denial.route.clone(), denial.credential.clone(), Outcome::Denied(denial.reason.clone()))
            }
        };
        Self {
            at: Timestamp::now(),
            method: shortened(finished.method),
            path_and_id: [path, request_id].concat().into(),
            path_length: path.len(),
            status: finished.status,
            route,
            credential,
            outcome,
            upstream: finished.upstream,
            total: finished.total,
            upstream_time: finished.upstream_time,
            judgment: finished.judgment,
            client: finished.client,
            bytes: finished.bytes,
            asked_by: finished.asked_by,
        }
    }

    fn path(&self) -> &str {
        self.path_and_id.get(..self.path_length).unwrap_or_default()
    }

    fn request_id(&self) -> &str {
        self.path_and_id.get(self.path_length..).unwrap_or_default()
    }
}

/// At most `limit` bytes, ending between two characters.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// A client may invent methods of any length, and put a token there.
fn shortened(method: &Method) -> Method {
    if method.as_str().len() <= MAX_METHOD {
        return method.clone();
    }
    Method::from_bytes(cut(method.as_str(), MAX_METHOD).as_bytes()).unwrap_or_default()
}

/// The way to the writer; clones share it.
#[derive(Clone)]
pub struct AccessWriter(Arc<Shared>);

struct Shared {
    queue: Arc<ArrayQueue<Line>>,
    closed: Arc<AtomicBool>,
    lost: IntCounter,
    writer: Thread,
    joined: Mutex<Option<JoinHandle<()>>>,
}

impl AccessWriter {
    /// Starts the writer on the standard output.
    pub fn start(format: Format, metrics: &super::Metrics) -> std::io::Result<Self> {
        Self::start_on(std::io::stdout(), format, metrics.access_lines_lost().clone())
    }

    /// Starts the writer on any output; lines that it refuses are counted in `lost`.
    fn start_on(
        output: impl Write + Send + 'static,
        format: Format,
        lost: IntCounter,
    ) -> std::io::Result<Self> {
        let queue = Arc::new(ArrayQueue::new(QUEUE));
        let closed = Arc::new(AtomicBool::new(false));
        let mut writer =
            Writer { queue: queue.clone(), output, format, lost: lost.clone(), buffer: Vec::new() };
        let until = closed.clone();
        let handle = std::thread::Builder::new().name("access-log".into()).spawn(move || {
            // Read before the queue is emptied: what was pushed before the close is written.
            while !until.load(Ordering::Acquire) {
                writer.drain();
                std::thread::park_timeout(PAUSE);
            }
            writer.drain();
        })?;
        let thread = handle.thread().clone();
        Ok(Self(Arc::new(Shared { queue, closed, lost, writer: thread, joined: Mutex::new(Some(handle)) })))
    }

    /// Never waits: a line that finds the queue full is lost, and counted.
    pub(super) fn push(&self, finished: &Finished<'_>) {
        let shared = &self.0;
        if shared.queue.push(Line::of(finished)).is_err() {
            shared.lost.inc();
        }
        if shared.queue.len() > QUEUE / 2 {
            shared.writer.unpark();
        }
    }

    /// Writes what waits and ends the writer. To be called last, when no request runs any more.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.writer.unpark();
        let handle = self.0.joined.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            // A panicking writer has been reported by the panic hook.
            let _ = handle.join();
        }
    }
}

struct Writer<W> {
    queue: Arc<ArrayQueue<Line>>,
    output: W,
    format: Format,
    lost: IntCounter,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn drain(&mut self) {
        let mut waiting = 0;
        while let Some(line) = self.queue.pop() {
            match self.format {
                Format::Json => format::json(&line, &mut self.buffer),
                Format::Text => format::text(&line, &mut self.buffer),
            }
            waiting += 1;
            if self.buffer.len() >= BATCH {
                self.write_out(waiting);
                waiting = 0;
            }
        }
        self.write_out(waiting);
    }

    fn write_out(&mut self, lines: u64) {
        if self.buffer.is_empty() {
            return;
        }
        if self.output.write_all(&self.buffer).and_then(|()| self.output.flush()).is_err() {
            self.lost.inc_by(lines);
        }
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests;
