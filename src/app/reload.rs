//! Reloading: validated whole, swapped in whole, or refused with every problem told.

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
    let keys = [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.threads", old.server.threads != new.server.threads),
        ("server.limits.connections", old.server.limits.connections != new.server.limits.connections),
        (
            "server.limits.idle_upstreams",
            old.server.limits.idle_upstreams != new.server.limits.idle_upstreams,
        ),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("log.level", old.log.level != new.log.level),
        ("log.format", old.log.format != new.log.format),
        ("log.audit_file", old.log.audit_file != new.log.audit_file),
    ];
    keys.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

/// Notices that a file is another one than before.
pub(super) struct FileWatch {
    path: PathBuf,
    last: Option<(SystemTime, u64)>,
}

impl FileWatch {
    pub(super) fn new(path: &Path) -> Self {
        Self { last: stamp(path), path: path.to_owned() }
    }

    /// The file as it is now has been read.
    pub(super) fn was_read(&mut self) {
        self.last = stamp(&self.path);
    }

    /// Waits until the file has changed and has then stayed the same for one look: who writes it may still be writing.
    pub(super) async fn changed(&mut self) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        let mut candidate = self.last;
        interval.tick().await;
        loop {
            interval.tick().await;
            let now = stamp(&self.path);
            if now != self.last && now == candidate && now.is_some() {
                self.last = now;
                return;
            }
            candidate = now;
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
