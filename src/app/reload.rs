//! Reloading: validated whole, swapped in whole, or refused with every problem told.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::signal::unix::Signal;

use super::current::Current;
use super::inherit::Inherited;
use super::listen::Listeners;
use super::notify::Manager;
use super::watch::FileWatch;
use crate::admin::AdminState;
use crate::cause::Chain;
use crate::config::{self, Checked, Config, Files};
use crate::proxy::Door;
use crate::report::{self, Audit};

/// Everything that a new configuration changes. On a task of its own: stores that are slow to open must not keep an order
/// to stop waiting.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    pub(super) current: Arc<Current>,
    pub(super) listeners: Arc<Mutex<Listeners>>,
    pub(super) door: Arc<Door>,
    pub(super) state: Arc<AdminState>,
    pub(super) audit: Arc<Audit>,
    pub(super) manager: Manager,
}

/// What asks for a reload, or for less.
pub(super) struct Orders {
    /// SIGHUP: read everything again.
    pub(super) hang_up: Signal,
    /// SIGUSR1: the audit file was rotated.
    pub(super) user1: Signal,
}

impl Reloader {
    /// On SIGHUP, and when a file has changed that was read.
    pub(super) async fn serve_forever(self, mut orders: Orders, read: Files) {
        let mut files = FileWatch::new(read);
        loop {
            tokio::select! {
                _ = orders.user1.recv() => {
                    self.reopen();
                    continue;
                }
                _ = orders.hang_up.recv() => self.reopen(),
                () = files.changed() => {}
            }
            self.manager.reloading();
            let (read, refused) = self.reload().await;
            files.were_read(read, refused);
            self.manager.ready();
        }
    }

    fn reopen(&self) {
        if let Err(error) = self.audit.reopen() {
            tracing::error!(%error, "Audit file not reopened; the old one stays in use");
        }
    }

    /// Reads the file again and puts it in force. Returns what was read, and whether it was refused.
    async fn reload(&self) -> (Files, bool) {
        let metrics = &self.current.makers.metrics;
        let refuse = |why: &dyn std::fmt::Display| {
            metrics.reload_refused();
            let path = self.path.display();
            tracing::error!(%path, "Configuration refused, the old one keeps serving:\n{why}");
        };
        // Ten thousand routes take a while, and no request waits for them meanwhile.
        let path = self.path.clone();
        let Checked { config, warnings, files, .. } =
            match tokio::task::spawn_blocking(move || Config::check(&path)).await {
                Ok(Ok(checked)) => checked,
                Ok(Err(mut problems)) => {
                    refuse(&problems);
                    return (std::mem::take(&mut problems.files), true);
                }
                Err(stumbled) => {
                    refuse(&stumbled);
                    return (Files::default(), true);
                }
            };
        let fixed = needs_restart(&self.current.config(), &config);
        if let Err(error) = self.put_in_force(config).await {
            refuse(&Chain(&error));
            return (files, true);
        }
        for warning in warnings.lines() {
            tracing::warn!("{warning}");
        }
        self.tell_of(&fixed);
        metrics.reload_applied();
        tracing::info!(path = %self.path.display(), "Configuration in force");
        (files, false)
    }

    /// Whatever can fail comes before anything is replaced.
    async fn put_in_force(&self, config: Config) -> Result<(), super::StartError> {
        let plan = self.listeners.lock().plan(&config, &mut Inherited::default())?;
        let audit = self.audit.moved_to(config.log.audit_file.as_deref());
        let audit = audit.map_err(super::StartError::Audit)?;
        let before = self.current.config();
        self.current.replace(config).await?;
        let config = self.current.config();
        if let Some(audit) = audit {
            self.audit.replace(audit);
        }
        if config.log.level != before.log.level {
            report::log::set_level(&config.log.level);
        }
        self.listeners.lock().carry_out(plan, &self.door, &self.state);
        self.state.set_token(config.admin.token.as_deref());
        Ok(())
    }

    /// One line a key, with its place.
    fn tell_of(&self, fixed: &[&'static str]) {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        for key in fixed {
            let file = self.path.display();
            let place = config::line_of(&text, key).map(|line| format!("{file}:{line}"));
            let place = place.unwrap_or_else(|| file.to_string());
            tracing::warn!(
                key,
                place,
                "This key needs a restart or an upgrade of the process: the old value stays"
            );
        }
    }
}

/// What was set up once and stays as it is.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("server.threads", old.server.threads != new.server.threads),
        ("server.upgrade_socket", old.server.upgrade_socket != new.server.upgrade_socket),
        ("server.limits.connections", old.server.limits.connections != new.server.limits.connections),
        (
            "server.limits.idle_upstreams",
            old.server.limits.idle_upstreams != new.server.limits.idle_upstreams,
        ),
        ("log.format", old.log.format != new.log.format),
    ];
    keys.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}
