//! TLS for clients: which certificate is shown to whom, which clients have to show one, and the handshake.
//!
//! [`certificate`] reads what operators put into files, [`choose`] picks by the name a client asks for, [`terms`] is
//! everything a listener agrees to with a client, replaced whole on reload.

pub mod certificate;
mod choose;
mod metrics;
pub mod settings;
mod terms;

pub use certificate::{Certificate, Roots};
pub use metrics::TlsMetrics;
pub use terms::{HandshakeError, Listener, Secured, Terms, TermsError};
