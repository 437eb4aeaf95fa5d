//! `portcullis demo`: everything in one process, to try it out.

use std::process::ExitCode;

pub(super) fn run() -> ExitCode {
    crate::app::demo()
}
