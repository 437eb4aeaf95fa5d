//! Judging an exchange once more that was granted and is still open: would it be granted now? An outage ends nothing.

use std::sync::Arc;

use http::Method;

use super::{Gate, Purpose, anonymous, requirements};
use crate::ledger::Lookup;
use crate::route::{Access, Anonymous, ClientCertificate, Mode, Refresh, Route};
use crate::time::Timestamp;
use crate::verdict::{Credential, DenyReason};
use crate::verify::Unverified;

/// What was granted, perhaps by the gate of an older configuration.
#[derive(Clone, Copy, Debug)]
pub struct Granted<'a> {
    pub method: &'a Method,
    /// As it was judged: [`crate::target::Target`].
    pub host: &'a str,
    pub path: &'a str,
    /// Whether the client has shown a certificate that is believed.
    pub client_certificate: bool,
    pub credential: Option<&'a Arc<Credential>>,
    /// Whether what has to be asked about the credential was rendered by this gate's own ledger.
    pub by_this_ledger: bool,
}

impl Gate {
    /// Whether it would be granted now, and with which credential it is to be watched from here on.
    pub async fn judge_again(
        &self,
        granted: &Granted<'_>,
        now: Timestamp,
    ) -> Result<Option<Arc<Credential>>, DenyReason> {
        let route = self.routes.find(granted.host, granted.path, granted.method);
        let route = route.ok_or(DenyReason::NoRoute)?;
        match self.strictly_again(route, granted, now).await {
            // Where it is only observed, whoever would be denied is nobody.
            Err(_) if observes(route) => Ok(None),
            judged => judged,
        }
    }

    /// Whether an exchange takes place where nothing is denied.
    pub fn observes(&self, granted: &Granted<'_>) -> bool {
        self.routes.find(granted.host, granted.path, granted.method).is_some_and(observes)
    }

    async fn strictly_again(
        &self,
        route: &Arc<Route>,
        granted: &Granted<'_>,
        now: Timestamp,
    ) -> Result<Option<Arc<Credential>>, DenyReason> {
        if route.settings.client_certificate == ClientCertificate::Required && !granted.client_certificate {
            return Err(DenyReason::ClientCertificateMissing);
        }
        let (policy, purpose) = match &route.settings.access {
            Access::Open => return Ok(granted.credential.cloned()),
            Access::Guarded(policy) => (policy, Purpose::Access),
            Access::Refresh(Refresh { policy, .. }) => (policy, Purpose::Refresh),
        };
        let Some(credential) = granted.credential else {
            return match policy.anonymous {
                Anonymous::Refuse => Err(DenyReason::TokenMissing),
                Anonymous::Admit => anonymous(route, policy).map(|_| None),
            };
        };
        let holds = self.verifiers.still_holds(&credential.claims, &credential.seal, now);
        let credential = match holds {
            Err(over @ (Unverified::Expired | Unverified::NotYetValid)) => {
                return Err(DenyReason::Unverified(over));
            }
            Ok(()) if granted.by_this_ledger => Arc::clone(credential),
            // Its issuer is configured otherwise by now, or its key has gone; or other questions are asked.
            Ok(()) | Err(_) => self.credential(&credential.token.token(), purpose, now).await?,
        };
        if let Some(reason) = self.revoked(&credential, now).await {
            return Err(reason);
        }
        requirements(policy, &credential.claims)?;
        Ok(Some(credential))
    }

    /// What the ledger holds against a credential by now.
    pub async fn revoked(&self, credential: &Credential, now: Timestamp) -> Option<DenyReason> {
        match self.ledger.find(&credential.questions, &credential.claims, now).await {
            Lookup::Revoked(revocation) => Some(DenyReason::Revoked(revocation)),
            // Whoever was let in stays while nobody can be asked.
            Lookup::Live | Lookup::Unknown(_) => None,
        }
    }
}

fn observes(route: &Arc<Route>) -> bool {
    route.settings.handling.mode == Mode::Observe
}
