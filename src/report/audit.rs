//! The audit trail: who did what to whom through the control API, one JSON line each.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;
use serde::Serialize;

use super::Metrics;
use crate::time::Timestamp;

/// One control action, done or refused.
#[derive(Clone, Debug, Serialize)]
pub struct AuditLine<'a> {
    /// RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    /// Who asked: `admin` is the holder of the control token, `observer` an entry of `on_response`.
    pub actor: &'a str,
    /// `user.status`, `user.logout`, `token.revoke`, `session.revoke`, `session.track`, `prune`.
    pub action: &'a str,
    /// Whom or what it was about; a token by its fingerprint.
    pub target: &'a str,
    /// `applied`, `pending` (the database holds it, Redis will) or the title of the problem.
    pub outcome: &'a str,
    /// What was asked for beyond the target, such as the new status with its reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// The ledger's version after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    pub request_id: &'a str,
    pub remote: SocketAddr,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// Where audit lines go.
pub struct Audit {
    sink: Mutex<Sink>,
    lost: IntCounter,
}

/// One place for them.
pub enum Sink {
    /// Appended to.
    File {
        /// Where it was opened, and is opened again.
        path: PathBuf,
        /// As it was opened last.
        file: File,
    },
    /// Where there is no file.
    Log,
}

impl Sink {
    fn open(file: Option<&Path>) -> io::Result<Self> {
        match file {
            Some(path) => Ok(Self::File { path: path.into(), file: append(path)? }),
            None => Ok(Self::Log),
        }
    }
}

impl Audit {
    /// Opens `audit_file` for appending, or takes the log where there is none.
    pub fn open(file: Option<&Path>, metrics: &Metrics) -> io::Result<Self> {
        let lost = metrics.audit_lines_lost().clone();
        Ok(Self { sink: Mutex::new(Sink::open(file)?), lost })
    }

    /// Opens the file anew, after a log rotation moved it. The old one stays in use when that fails.
    pub fn reopen(&self) -> io::Result<()> {
        let Sink::File { path, file } = &mut *self.sink() else { return Ok(()) };
        *file = append(path)?;
        Ok(())
    }

    /// Opens another place; `None`: it is the one in use.
    pub fn moved_to(&self, file: Option<&Path>) -> io::Result<Option<Sink>> {
        let same = match &*self.sink() {
            Sink::File { path, .. } => file == Some(path),
            Sink::Log => file.is_none(),
        };
        if same { Ok(None) } else { Sink::open(file).map(Some) }
    }

    /// Lines go there from now on.
    pub fn replace(&self, sink: Sink) {
        *self.sink() = sink;
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an action that has happened. A line that cannot be written is an error in the log, which then holds it.
    pub fn record(&self, line: &AuditLine<'_>) {
        let written = match &mut *self.sink() {
            Sink::File { file, .. } => write_line(file, line),
            Sink::Log => {
                tracing::info!(target: "audit", line = %Json(line), "{} {}", line.action, line.outcome);
                Ok(())
            }
        };
        if let Err(error) = written {
            self.lost.inc();
            tracing::error!(target: "audit", %error, line = %Json(line), "the audit file cannot be written");
        }
    }
}

/// One write per line: with `O_APPEND` lines of several processes do not mix.
fn write_line(file: &mut File, line: &AuditLine<'_>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

struct Json<'a>(&'a AuditLine<'a>);

impl std::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self.0).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> AuditLine<'static> {
        AuditLine {
            at: Timestamp::from_millis(0),
            actor: "admin",
            action: "user.status",
            target: "7",
            outcome: "applied",
            detail: Some("banned: spam\nand more"),
            version: Some(3),
            request_id: "r-1",
            remote: SocketAddr::from(([127, 0, 0, 1], 4000)),
        }
    }

    #[test]
    fn lines_are_appended_to_a_file_only_its_owner_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("registered");
        for _ in 0..2 {
            Audit::open(Some(&path), &metrics).expect("opened").record(&line());
        }
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().count(), 2, "{text}");
        let first: serde_json::Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!((&first["at"], &first["version"]), (&"1970-01-01T00:00:00.000Z".into(), &3.into()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn after_a_rotation_the_new_file_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("registered");
        let audit = Audit::open(Some(&path), &metrics).expect("opened");
        std::fs::rename(&path, folder.path().join("old")).expect("moved");
        audit.reopen().expect("reopened");
        audit.record(&line());
        assert_eq!(std::fs::read_to_string(&path).expect("read").lines().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("registered");
        Audit::open(Some(Path::new("/dev/full")), &metrics).expect("opened").record(&line());
        assert_eq!(metrics.audit_lines_lost().get(), 1);
    }
}
