//! `portcullis prune`: removes what has expired and can deny nothing any more.

use std::process::ExitCode;

use super::admin::AdminArgs;
use super::output;

pub(super) fn run(args: &AdminArgs) -> ExitCode {
    let answer = args.call(|client| async move { client.prune().await });
    output::finish(answer.map(|answer| output::data(&answer, args.json)))
}
