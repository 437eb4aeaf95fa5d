//! A network between the ledger and Redis, of the worse kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{RedisSettings, Server};

pub struct Proxy {
    settings: RedisSettings,
    silent: watch::Sender<bool>,
    swallowing: Arc<AtomicBool>,
    _running: DropGuard,
    _directory: tempfile::TempDir,
}

impl Proxy {
    pub async fn before(server: &Server) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let settings =
            RedisSettings { url: format!("redis+unix://{}", socket.display()), ..server.settings() };
        let (silent, hears) = watch::channel(false);
        let swallowing = Arc::new(AtomicBool::new(false));
        let (running, swallows, target) = (CancellationToken::new(), swallowing.clone(), server.socket());
        let ended = running.clone();
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&target).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, hears.clone(), Arc::default()));
                tokio::spawn(pass(from_server, to_client, hears.clone(), swallows.clone()));
            }
        }));
        Self { settings, silent, swallowing, _running: running.drop_guard(), _directory: directory }
    }

    pub fn settings(&self) -> RedisSettings {
        self.settings.clone()
    }

    /// Nothing is passed on and nothing closed, until it is over.
    pub fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// Answers are passed on, and pushes are not.
    pub fn swallow_pushes(&self) {
        self.swallowing.store(true, Ordering::Relaxed);
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut silent: watch::Receiver<bool>,
    swallowing: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        if silent.wait_for(|silent| !silent).await.is_err() {
            return;
        }
        let passed = &bytes[..read];
        if swallowing.load(Ordering::Relaxed) && passed.starts_with(b">2\r\n$10\r\ninvalidate") {
            continue;
        }
        if to.write_all(passed).await.is_err() {
            return;
        }
    }
}
