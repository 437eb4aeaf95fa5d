//! `portcullis [run]`: serves.

use std::process::ExitCode;

use super::ConfigArgs;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    crate::app::run(args.path())
}
