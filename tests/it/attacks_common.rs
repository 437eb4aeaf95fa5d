//! What the tests of attacks have in common: a gateway before a service that keeps every byte it gets.

use jsonwebtoken::Algorithm;

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;

pub struct Scene {
    pub gateway: Gateway,
    pub origin: Origin,
    pub issuer: Issuer,
    /// A good one, of a user without roles.
    pub token: String,
}

/// Everything is guarded.
pub fn scene() -> Scene {
    Scene::with(|setup| setup.route("name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\""))
}

impl Scene {
    /// An issuer, and the service as the upstream `app`; `routed` says what leads to it, and whatever else there is.
    pub fn with(routed: impl FnOnce(Setup) -> Setup) -> Self {
        let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
        let gateway = routed(Setup::new().issuer(&issuer).upstream("app", &origin)).start();
        let token = issuer.good("alice");
        Self { gateway, origin, issuer, token }
    }

    /// The line with the good token, with its end.
    pub fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }
}
