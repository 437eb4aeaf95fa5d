//! A gateway whose process is replaced by another one.

use std::process::Child;

use serde_json::Value;

use super::{DEADLINE, Gateway, command, eventually, exit_of, fs, leaks, log_file, send_signal};
use crate::support::within;

impl Gateway {
    /// Has the gateway start its own successor and waits until that one serves alone; the first process has ended well.
    pub fn succeed(&mut self) {
        let before = self.pid();
        self.signal("USR2");
        let next = eventually("a successor serves", || {
            let lines = self.log_lines();
            let serves = |line: &&Value| line["message"] == "Another process serves from now on";
            let named = lines.iter().filter(serves).filter_map(|line| line["successor"].as_u64()).next_back();
            named.map(|pid| pid as u32).filter(|pid| *pid != before).ok_or_else(|| self.log())
        });
        self.ended(before);
        self.successor = Some(next);
    }

    /// Starts a process with `--upgrade` that takes this one's place.
    pub fn upgrade(&mut self) {
        let directory = self.directory.path();
        let child = command(directory)
            .arg("--upgrade")
            .stdout(log_file(directory, "stdout.log"))
            .stderr(log_file(directory, "stderr.log"))
            .spawn()
            .unwrap();
        let before = std::mem::replace(&mut self.child, child);
        self.ended_child(before);
    }

    fn ended_child(&self, mut child: Child) {
        let status = exit_of(&mut child).unwrap_or_else(|| panic!("still there; its log:\n{}", self.log()));
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Waits for the end of a process that was ours, or that one of ours has begun.
    fn ended(&mut self, pid: u32) {
        if pid == self.child.id() {
            let status = self.wait_exit();
            assert_eq!(status.code(), Some(0), "{}", self.log());
            return;
        }
        eventually("the process before has ended", || if alive(pid) { Err(self.log()) } else { Ok(()) });
    }

    /// The same for a process that is no child of ours.
    pub(super) fn stop_successor(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let Some(pid) = self.successor.filter(|&pid| alive(pid)) else { return found };
        if let Some(metrics) = self.last_metrics() {
            found.extend(leaks::search("/metrics", metrics.as_bytes()));
        }
        send_signal(pid, "TERM");
        let start = std::time::Instant::now();
        let ended = within(DEADLINE * 2, "an exit", || match alive(pid) {
            false => Ok(true),
            true if start.elapsed() > DEADLINE => Ok(false),
            true => Err("running"),
        });
        if !ended {
            send_signal(pid, "KILL");
            found.push("the successor did not end on SIGTERM".to_owned());
        }
        found
    }
}

/// Whether a process is there that has not ended yet.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}
