//! Which certificate is shown: chosen by the name a client asks for (SNI, RFC 6066 section 3).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificate;

/// A host may have one certificate of each kind of key.
type Keys = Vec<Arc<CertifiedKey>>;

pub(super) struct Chooser {
    exact: HashMap<Box<str>, Keys>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Keys>,
    /// For names that nothing above has, and for clients that name none.
    rest: Keys,
}

impl Chooser {
    /// The first certificate, and what shares its first host, is for everyone else; unless names are strict.
    pub(super) fn new(certificates: &[Certificate], strict: bool) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Keys>::new(), HashMap::<_, Keys>::new());
        for certificate in certificates {
            for host in certificate.hosts() {
                let (names, name) = match host.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, &**host),
                };
                names.entry(name.into()).or_default().push(Arc::clone(certificate.key()));
            }
        }
        let first = certificates.first().filter(|_| !strict);
        let rest = first.map(|first| {
            let with_it = certificates.iter().filter(|other| other.label() == first.label());
            with_it.map(|certificate| Arc::clone(certificate.key())).collect()
        });
        Self { exact, wildcard, rest: rest.unwrap_or_default() }
    }

    /// The exact name, else the longest wildcard above it, as nginx's `server_name` goes.
    fn keys(&self, name: Option<&str>) -> &Keys {
        let Some(name) = name else { return &self.rest };
        let name = name.to_ascii_lowercase();
        if let Some(keys) = self.exact.get(&*name) {
            return keys;
        }
        let parents = name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..));
        parents.into_iter().find_map(|parent| self.wildcard.get(parent)).unwrap_or(&self.rest)
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys(hello.server_name());
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        keys.iter().find(fits).or_else(|| keys.first()).cloned()
    }
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser").field("exact", &self.exact.len()).finish_non_exhaustive()
    }
}
