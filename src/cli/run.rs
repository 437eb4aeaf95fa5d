//! `portcullis [run]`: serves.

use std::process::ExitCode;

use clap::Args;

use super::ConfigArgs;
use crate::app::{self, Beginning};

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Take the place of the process that serves now: its listening sockets, by `server.upgrade_socket`
    ///
    /// It goes on until this one is ready, then lets its running requests end. SIGUSR2 makes it start a successor by
    /// itself.
    #[arg(short, long)]
    pub(super) upgrade: bool,
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    app::run(args.config.path(), &Beginning::from_environment(args.upgrade))
}
