//! `portcullis stats`: how much the ledger of a running gateway holds.

use std::process::ExitCode;

use super::admin::AdminArgs;
use super::output;

pub(super) fn run(args: &AdminArgs) -> ExitCode {
    let answer = args.call(|client| async move { client.stats().await });
    output::finish(answer.map(|answer| output::data(&answer, args.json)))
}
