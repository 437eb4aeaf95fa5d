//! Where somebody else's process asks for the listening sockets: `server.upgrade_socket`, which is there for its owner
//! alone and changes hands in one step.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::succession::SuccessionError;

/// The socket, and the file it is reached by.
pub(super) struct UpgradeSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// The file we made: another one at this path is a successor's.
    file: u64,
}

impl UpgradeSocket {
    /// `takes_over`: the process that listens there now is our predecessor.
    pub(super) fn bind(path: &Path, takes_over: bool) -> Result<Self, SuccessionError> {
        let bound = || {
            if !takes_over && std::os::unix::net::UnixStream::connect(path).is_ok() {
                let why = "another process hands over here; take its place with `--upgrade`";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            // Under its name only when nobody else can reach it; what stood there before is replaced in one step.
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{}", std::process::id()));
            let temporary = PathBuf::from(name);
            let _ = std::fs::remove_file(&temporary);
            let listener = UnixListener::bind(&temporary)?;
            let placed = std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o600))
                .and_then(|()| std::fs::metadata(&temporary))
                .and_then(|metadata| std::fs::rename(&temporary, path).map(|()| metadata.ino()));
            if placed.is_err() {
                let _ = std::fs::remove_file(&temporary);
            }
            Ok(Self { listener, path: path.to_owned(), file: placed? })
        };
        bound().map_err(|source| SuccessionError::Socket { path: path.to_owned(), source })
    }

    /// At the end, unless a successor has put its own there.
    pub(super) fn remove(&self) {
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_upgrade_socket_is_its_owners_and_replaces_a_dead_ones_but_not_a_live_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("upgrade.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let first = UpgradeSocket::bind(&path, false).expect("a stale one is replaced");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(UpgradeSocket::bind(&path, false).is_err(), "somebody listens there");
        let second = UpgradeSocket::bind(&path, true).expect("a predecessor's is replaced");
        first.remove();
        assert!(path.exists(), "it is the second one's");
        second.remove();
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0);
    }
}
