//! What a service of the tests does with a connection's bytes: it reads until it has what it looks for, or is to stop.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A port of one's own, and as many connections as the machine allows: a shell's limit is often a thousand, and clients and
/// services of the tests are one process.
pub fn bind() -> TcpListener {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    });
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Reads on until `found` in what is pending says where it ends. `None`: the connection ended, or the service is stopping.
pub fn until(
    stream: &mut impl Read,
    pending: &mut Vec<u8>,
    stopping: &AtomicBool,
    found: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    loop {
        if let Some(end) = found(pending) {
            return Some(end);
        }
        if !fill(stream, pending, stopping) {
            return None;
        }
    }
}

/// Waits for more. The stream's time-out is short: at each, a service that is stopping is noticed.
pub fn fill(stream: &mut impl Read, pending: &mut Vec<u8>, stopping: &AtomicBool) -> bool {
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => {
                pending.extend_from_slice(&buffer[..count]);
                return true;
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                if stopping.load(Ordering::SeqCst) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}
