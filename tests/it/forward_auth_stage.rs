//! What the tests of forward-auth with real proxies stand on.

use crate::support::eventually;
use crate::support::gateway::{Gateway, PATIENT_DATABASE};
use crate::support::issuer::{Issuer, JwksServer};
use crate::support::origin::Origin;
use crate::support::peers::{Kind, Peer};
use crate::support::raw::{self, Response};

use jsonwebtoken::Algorithm;

/// One test for each proxy.
macro_rules! with_each {
    ($($test:ident)*) => {
        with_each!(@nginx Nginx $($test)*);
        with_each!(@traefik Traefik $($test)*);
        with_each!(@caddy Caddy $($test)*);
        with_each!(@envoy Envoy $($test)*);
    };
    (@$module:ident $kind:ident $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    let kind = crate::support::peers::Kind::$kind;
                    if kind.is_here() {
                        super::$test(kind);
                    }
                }
            )*
        }
    };
}
pub(crate) use with_each;

const EXAMPLE: &str = include_str!("../../examples/forward-auth/gateway.toml");

/// A proxy, the service behind it, and the gateway that it asks.
pub struct Stage {
    // Dropped in this order: who asks goes first.
    pub peer: Peer,
    pub gateway: Gateway,
    pub origin: Origin,
    pub issuer: Issuer,
    pub keys: JwksServer,
}

impl Stage {
    pub fn new(kind: Kind) -> Self {
        Self::with(kind, PATIENT_DATABASE)
    }

    /// The example's gateway, with another `[database]`.
    pub fn with(kind: Kind, database: &str) -> Self {
        Self::with_toml(kind, &example(database))
    }

    pub fn with_toml(kind: Kind, toml: &str) -> Self {
        let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
        let keys = JwksServer::serving(&issuer.jwks());
        let variables = [
            ("PROXY", kind.word()),
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("JWT_ISSUER", &issuer.name),
            ("JWT_AUDIENCE", &issuer.audience),
            ("JWKS_URL", &keys.url()),
        ];
        let gateway = Gateway::start_in(toml, &variables);
        let peer = Peer::start(kind, gateway.asked_at(), origin.addr());
        // Some listen before they know where to forward to.
        eventually("the proxy forwards", || match raw::get(peer.addr(), "/public/ready", None) {
            ready if ready.status == 200 => Ok(()),
            not_yet => Err((not_yet, peer.log())),
        });
        origin.forget();
        Self { peer, gateway, origin, issuer, keys }
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        raw::request(self.peer.addr(), method, path, headers, body)
    }

    pub fn get(&self, path: &str, token: Option<&str>) -> Response {
        raw::get(self.peer.addr(), path, token)
    }

    #[track_caller]
    pub fn refused(&self, response: &Response, status: u16, reason: &str) {
        assert_eq!((response.status, response.reason().as_str()), (status, reason), "{}", self.peer.log());
        self.origin.saw_nothing();
    }
}

/// The example's gateway, with another `[database]`.
pub fn example(database: &str) -> String {
    let (before, rest) = EXAMPLE.split_once("[database]").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    format!("{before}{database}\n{after}")
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}
