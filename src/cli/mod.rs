//! The command line: one command, one file.

pub mod check;

use std::process::ExitCode;

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    todo!()
}
