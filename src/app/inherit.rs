//! Listening sockets that were open before this process began: a service manager has opened them (`LISTEN_FDS`, as systemd
//! passes them), or the process whose place this one takes.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::net::sockopt;

use super::listen::Wanted;

/// Sockets that nobody has claimed yet.
#[derive(Default)]
pub struct Inherited(Vec<Gift>);

struct Gift {
    /// What the predecessor had it for. Port 0 is known by this alone.
    was: Option<Wanted>,
    socket: TcpListener,
}

impl Inherited {
    /// What a service manager has opened. Takes its variables out of the environment, so that no child believes they are
    /// meant for it: to be called before there is a second thread.
    pub fn from_service_manager() -> std::io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut gifts = Vec::with_capacity(passed.len());
        for number in 0..passed.len() {
            if let Some(socket) = passed.take_tcp_listener(number)? {
                // Whoever opened it may have asked for a datagram's end; `accept` would tell so much later.
                if !sockopt::socket_acceptconn(&socket)? {
                    return Err(std::io::Error::other(format!("socket {number} does not listen")));
                }
                gifts.push(Gift { was: None, socket });
            }
        }
        Ok(Self(gifts))
    }

    /// Adds what the predecessor gave.
    pub(super) fn add(&mut self, was: Wanted, socket: TcpListener) {
        self.0.push(Gift { was: Some(was), socket });
    }

    /// The one for this listener.
    pub(super) fn claim(&mut self, wanted: &Wanted) -> Option<TcpListener> {
        let same = |gift: &Gift| gift.was.as_ref() == Some(wanted);
        let bound = |gift: &Gift| gift.socket.local_addr().ok();
        let exact = |gift: &Gift| wanted.address.port() != 0 && bound(gift) == Some(wanted.address);
        let wider = |gift: &Gift| {
            bound(gift).is_some_and(|bound| hears(&bound, &wanted.address)) && takes_both(&gift.socket)
        };
        let found = self.0.iter().position(same);
        let found = found.or_else(|| self.0.iter().position(exact)).or_else(|| self.0.iter().position(wider));
        found.map(|at| self.0.swap_remove(at).socket)
    }

    /// Where those listen that nobody has claimed. They are closed.
    pub(super) fn unclaimed(self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|gift| gift.socket.local_addr().ok()).collect()
    }
}

/// `[::]:443`, which is what systemd makes of `ListenStream=443`, hears what is meant for `0.0.0.0:443`.
fn hears(bound: &SocketAddr, wanted: &SocketAddr) -> bool {
    let everywhere = bound.ip().is_unspecified() && wanted.ip().is_unspecified();
    bound.is_ipv6() && wanted.is_ipv4() && everywhere && bound.port() == wanted.port() && wanted.port() != 0
}

fn takes_both(socket: &TcpListener) -> bool {
    sockopt::ipv6_v6only(socket).is_ok_and(|only| !only)
}

#[cfg(test)]
mod tests {
    use super::super::listen::Role;
    use super::*;

    fn bound(address: &str) -> TcpListener {
        TcpListener::bind(address).expect("a free port")
    }

    fn wanted(role: Role, address: SocketAddr) -> Wanted {
        Wanted { role, address }
    }

    #[test]
    fn a_socket_is_claimed_by_its_address_and_only_once() {
        let socket = bound("127.0.0.1:0");
        let address = socket.local_addr().expect("an address");
        let mut inherited = Inherited(vec![Gift { was: None, socket }]);
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(inherited.claim(&wanted(Role::Plain, other)).is_none());
        assert!(inherited.claim(&wanted(Role::Plain, SocketAddr::from(([127, 0, 0, 1], 0)))).is_none());
        assert!(inherited.claim(&wanted(Role::Plain, address)).is_some());
        assert!(inherited.claim(&wanted(Role::Plain, address)).is_none());
    }

    #[test]
    fn port_zero_is_claimed_by_what_it_was_for() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (plain, admin) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
        let was = admin.local_addr().expect("an address");
        let mut inherited = Inherited::default();
        inherited.add(wanted(Role::Plain, any), plain);
        inherited.add(wanted(Role::Admin, any), admin);
        let claimed = inherited.claim(&wanted(Role::Admin, any)).expect("the admin's");
        assert_eq!(claimed.local_addr().expect("an address"), was);
        assert!(inherited.claim(&wanted(Role::Admin, any)).is_none());
        assert_eq!(inherited.unclaimed().len(), 1);
    }

    #[test]
    fn a_socket_for_both_families_serves_a_listener_of_ipv4() {
        // Where there is no IPv6 there is nothing to show.
        let Ok(socket) = TcpListener::bind("[::]:0") else { return };
        let port = socket.local_addr().expect("an address").port();
        let mut inherited = Inherited(vec![Gift { was: None, socket }]);
        assert!(inherited.claim(&wanted(Role::Plain, SocketAddr::from(([127, 0, 0, 1], port)))).is_none());
        assert!(inherited.claim(&wanted(Role::Plain, SocketAddr::from(([0, 0, 0, 0], port)))).is_some());
    }
}
