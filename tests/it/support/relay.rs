//! A port that leads to a server, and may lead to another one later: what stands behind an address changes.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Lives as long as the test's process; its threads end with their connections.
pub struct Relay {
    port: u16,
    behind: Arc<AtomicU16>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let behind = Arc::new(AtomicU16::new(port));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let relay = Self {
            port: listener.local_addr().expect("an address").port(),
            behind: Arc::clone(&behind),
            open: Arc::clone(&open),
        };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", behind.load(Ordering::SeqCst))) {
                    drop(join(&client, &server));
                    open.lock().expect("not poisoned").extend([client, server]);
                }
            }
        });
        relay
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections that are open are cut, as a failover does it.
    pub fn lead_to(&self, port: u16) {
        self.behind.store(port, Ordering::SeqCst);
        for stream in self.open.lock().expect("not poisoned").drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn join(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Both));
            drop(from.shutdown(Shutdown::Both));
        });
    }
    Ok(())
}
