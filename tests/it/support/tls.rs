//! An authority of one's own, and what it certifies.

use std::path::{Path, PathBuf};

use super::server::{Directory, run};

/// Certificates in files; dropped, they are gone.
pub struct Authority {
    directory: Directory,
}

impl Authority {
    /// Makes `ca.pem`, and `NAME.pem` with `NAME.key` for `server` (of 127.0.0.1 and localhost) and for `client`.
    pub fn new() -> Self {
        let authority = Self { directory: Directory::for_user(None, "portcullis-tls-") };
        let (ca, key) = (authority.path("ca.pem"), authority.path("ca.key"));
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority",
            &[("-keyout", &key), ("-out", &ca)],
        );
        for name in ["server", "client"] {
            let [request, key_of, extensions, certificate] =
                ["csr", "key", "ext", "pem"].map(|it| authority.path(&format!("{name}.{it}")));
            openssl(
                &format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name}"),
                &[("-keyout", &key_of), ("-out", &request)],
            );
            std::fs::write(&extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
            openssl(
                "x509 -req -days 2 -CAcreateserial",
                &[
                    ("-in", &request),
                    ("-CA", &ca),
                    ("-CAkey", &key),
                    ("-extfile", &extensions),
                    ("-out", &certificate),
                ],
            );
        }
        authority
    }

    /// For a Redis, or a sentinel, that speaks TLS on this port and asks nobody for a certificate.
    pub fn options(&self, port: u16) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let [certificate, key, ca] = ["server.pem", "server.key", "ca.pem"].map(path);
        let named = [
            ("port", port.to_string()),
            ("cert-file", certificate),
            ("key-file", key),
            ("ca-cert-file", ca),
            ("auth-clients", "no".to_owned()),
        ];
        named.into_iter().flat_map(|(option, value)| [format!("--tls-{option}"), value]).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn openssl(words: &str, files: &[(&str, &Path)]) {
    let mut command = vec!["openssl".to_owned()];
    command.extend(words.split(' ').map(str::to_owned));
    for (option, file) in files {
        command.extend([(*option).to_owned(), file.display().to_string()]);
    }
    run(None, &command);
}
