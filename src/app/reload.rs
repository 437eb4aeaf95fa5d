//! Reloading: validated whole, swapped in whole, or refused with every problem told.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::current::Current;
use crate::cause::Chain;
use crate::config::Config;

/// How often the file is looked at. Events of the file system miss what mounts and editors do to a file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The new configuration was refused; why has been logged.
pub(super) struct Refused;

impl Current {
    /// Reads the file again and puts it in force.
    pub(super) async fn reload(&self, path: &Path) -> Result<Arc<Config>, Refused> {
        let refuse = |why: &dyn std::fmt::Display| {
            self.makers.metrics.reload_refused();
            tracing::error!(path = %path.display(), "Configuration refused, the old one keeps serving:\n{why}");
            Refused
        };
        let (config, warnings) = Config::load(path).map_err(|problems| refuse(&problems))?;
        let fixed = needs_restart(&self.config(), &config);
        self.replace(config).await.map_err(|error| refuse(&Chain(&error)))?;
        for warning in warnings.lines() {
            tracing::warn!("{warning}");
        }
        if !fixed.is_empty() {
            tracing::warn!(keys = fixed.join(", "), "These keys take effect at the next start");
        }
        self.makers.metrics.reload_applied();
        tracing::info!(path = %path.display(), "Configuration in force");
        Ok(self.config())
    }
}

/// What was set up once and stays as it is.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let addresses =
        |config: &Config| config.server.tls.iter().map(|listener| listener.listen).collect::<Vec<_>>();
    let questions =
        |config: &Config| config.forward_auth.as_ref().map(|it| it.listen.clone()).unwrap_or_default();
    let keys = [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.tls.listen", addresses(old) != addresses(new)),
        ("server.threads", old.server.threads != new.server.threads),
        ("server.limits.connections", old.server.limits.connections != new.server.limits.connections),
        (
            "server.limits.idle_upstreams",
            old.server.limits.idle_upstreams != new.server.limits.idle_upstreams,
        ),
        ("forward_auth.listen", questions(old) != questions(new)),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("log.level", old.log.level != new.log.level),
        ("log.format", old.log.format != new.log.format),
        ("log.audit_file", old.log.audit_file != new.log.audit_file),
    ];
    keys.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

/// Notices that one of some files is another one than before.
pub(super) struct FileWatch {
    files: Vec<(PathBuf, Stamp)>,
}

/// What changes with a file's content: when it was written, how long it is, which file it is (`mv` may keep the rest).
type Stamp = Option<(SystemTime, u64, u64)>;

impl FileWatch {
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
        Self { files: files.into_iter().map(|path| (path.clone(), stamp(&path))).collect() }
    }

    /// These from now on. What is watched already keeps its stamp: it may have changed since it was read.
    pub(super) fn watch(&mut self, files: Vec<PathBuf>) {
        let known = |path: &Path| self.files.iter().find(|(known, _)| known == path).map(|(_, stamp)| *stamp);
        let with_stamp = |path: PathBuf| {
            let stamp = known(&path).unwrap_or_else(|| stamp(&path));
            (path, stamp)
        };
        self.files = files.into_iter().map(with_stamp).collect();
    }

    /// The files as they are now have been read.
    pub(super) fn were_read(&mut self) {
        for (path, last) in &mut self.files {
            *last = stamp(path);
        }
    }

    /// Waits until a file has changed and all have then stayed the same for one look: who writes one may still be
    /// writing, and a key follows its certificate.
    pub(super) async fn changed(&mut self) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        let mut candidate: Vec<Stamp> = self.files.iter().map(|(_, last)| *last).collect();
        interval.tick().await;
        loop {
            interval.tick().await;
            let now: Vec<Stamp> = self.files.iter().map(|(path, _)| stamp(path)).collect();
            let mut changed = self.files.iter().zip(&now).filter(|((_, last), now)| *now != last);
            // A file that is not there is about to be.
            if now == candidate && changed.clone().all(|(_, now)| now.is_some()) && changed.next().is_some() {
                self.files.iter_mut().zip(now).for_each(|((_, last), now)| *last = now);
                return;
            }
            candidate = now;
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
