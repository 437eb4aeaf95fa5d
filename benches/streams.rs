//! How long after a ban was acknowledged the banned user's WebSockets are open still, with ten thousand idle ones on the
//! gateway, a hundred of each user; and how much memory an idle one takes. Prints percentiles of the time from the control
//! API's answer to the client's reading the close frame (0: before it), over all sockets of all banned users.
//!
//! `cargo bench --bench streams`; `SOCKETS=1000 ROUNDS=5` for less.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and fails loudly")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "as the tests whose support it shares"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use support::gateway::{Gateway, PATIENT_DATABASE, Setup};
use support::issuer::Issuer;
use support::raw::find;
use support::redis::Redis;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const OF_EACH_USER: usize = 100;
const FRAME: [u8; 7] = *b"\x81\x05hello";
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Go on\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A socket of this user has been closed.
struct Closed {
    user: usize,
    at: Instant,
    /// What it was told.
    said: Vec<u8>,
}

fn main() {
    with_enough_descriptors();
    let number = |name: &str, usual: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    // Each is two connections, for the gateway as for the client and the service together.
    let sockets = number("SOCKETS", 10_000).min((descriptors() - 200) / 2);
    let (sockets, rounds) = (sockets - sockets % OF_EACH_USER, number("ROUNDS", 20));
    let users = sockets / OF_EACH_USER;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let service = listener.local_addr().unwrap();
    runtime.spawn(serve(listener));

    let (issuer, redis) = (Issuer::new(Algorithm::ES256), Redis::start());
    let gateway = Setup::new()
        .log("level = \"info\"")
        .issuer(&issuer)
        .section(&format!("{}timeout = \"5s\"\n", redis.config_toml()))
        .section(PATIENT_DATABASE)
        .section(&format!("[[upstreams]]\nname = \"app\"\nservers = [\"{service}\"]\n"))
        .route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"")
        .start();
    let empty = memory(&gateway);
    let (closed, mut closings) = mpsc::unbounded_channel();
    let opened = Arc::new(AtomicUsize::new(0));
    for user in 0..users {
        let token = issuer.good(&format!("user-{user}"));
        for _ in 0..OF_EACH_USER {
            let (token, opened, closed) = (token.clone(), Arc::clone(&opened), closed.clone());
            runtime.spawn(hold(gateway.addr(), user, token, opened, closed));
        }
        support::eventually("a user's sockets are open", || match opened.load(Ordering::SeqCst) {
            open if open == (user + 1) * OF_EACH_USER => Ok(()),
            open => Err(open),
        });
    }
    let full = memory(&gateway);
    let each = full.saturating_sub(empty) as f64 / sockets as f64;
    println!("{sockets} idle WebSockets: {full} KiB, {empty} KiB without them, {each:.1} KiB each");

    let mut delays = Vec::new();
    for user in 0..rounds.min(users) {
        gateway.ban(&format!("user-{user}"));
        let acknowledged = Instant::now();
        for _ in 0..OF_EACH_USER {
            let next = async { tokio::time::timeout(Duration::from_secs(10), closings.recv()).await };
            let closed: Closed = runtime.block_on(next).expect("the ban is not enforced").expect("a client");
            assert_eq!(closed.user, user, "somebody else's");
            assert!(closed.said.starts_with(b"\x88\x0d\x03\xf0user_banned"), "{:?}", closed.said);
            delays.push(closed.at.saturating_duration_since(acknowledged));
        }
    }
    assert!(closings.try_recv().is_err(), "somebody else's");
    if delays.is_empty() {
        return;
    }
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!("{} bans; acknowledged → the close frame was read:", rounds.min(users));
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        println!("  {name:>5} {:>9.3} ms", at(share).as_secs_f64() * 1e3);
    }
    runtime.shutdown_background();
}

/// A process may have few descriptors until it asks for more; the shell asks for it, and for the gateway.
fn with_enough_descriptors() {
    const ASKED: &str = "PORTCULLIS_BENCH_DESCRIPTORS";
    if std::env::var_os(ASKED).is_some() {
        return;
    }
    let itself = std::env::current_exe().unwrap();
    let error = Command::new("sh")
        .args([
            "-c",
            "(ulimit -n 65536) 2>/dev/null && ulimit -n 65536 || ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\"",
        ])
        .arg(itself)
        .args(std::env::args_os().skip(1))
        .env(ASKED, "1")
        .exec();
    panic!("{error}");
}

/// How many this process may have, and the gateway.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Resident, in KiB.
fn memory(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Accepts every upgrade and says what it is told, once.
async fn serve(listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            head(&mut stream).await;
            // Pingora 0.9.1 ends a tunnel whose 101 comes before it has noted that the request has no body.
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.write_all(ACCEPTED).await.unwrap_or_default();
            let mut frame = [0; FRAME.len()];
            if stream.read_exact(&mut frame).await.is_ok() {
                stream.write_all(&frame).await.unwrap_or_default();
            }
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
        });
    }
}

async fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while find(&head, b"\r\n\r\n").is_none() {
        if !matches!(stream.read_buf(&mut head).await, Ok(count) if count > 0) {
            break;
        }
    }
    head
}

/// Opens one and says when it was closed, and how.
async fn hold(
    gateway: SocketAddr,
    user: usize,
    token: String,
    opened: Arc<AtomicUsize>,
    closed: mpsc::UnboundedSender<Closed>,
) {
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut stream = loop {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap_or_default();
        let accepted = head(&mut stream).await.starts_with(b"HTTP/1.1 101");
        let mut frame = [0; FRAME.len()];
        if accepted
            && stream.write_all(&FRAME).await.is_ok()
            && stream.read_exact(&mut frame).await.is_ok()
            && frame == FRAME
        {
            break stream;
        }
    };
    opened.fetch_add(1, Ordering::SeqCst);
    let mut said = vec![0; 64];
    let count = stream.read(&mut said).await.unwrap_or(0);
    said.truncate(count);
    let _ = closed.send(Closed { user, at: Instant::now(), said });
}
