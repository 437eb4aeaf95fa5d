//! `portcullis health`: the container's health check, without curl in the image.

use std::process::ExitCode;

use clap::Args;

use super::output::{self, Failure};
use super::{ConfigArgs, admin};
use crate::admin::client::AdminClient;
use crate::config::Config;

#[derive(Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Only 0 and 1: Docker reserves 2.
pub(super) fn run(args: &HealthArgs) -> ExitCode {
    let result = ask(args).map_err(|failure| match failure {
        Failure::NotSo(text) | Failure::Trouble(text) => Failure::NotSo(text),
    });
    output::finish(result)
}

fn ask(args: &HealthArgs) -> Result<String, Failure> {
    let (config, _) = Config::load(args.config.path()).map_err(Failure::trouble)?;
    let client = AdminClient::new(&admin::base_url(config.admin.listen)?, None)?;
    let (ready, readiness) = admin::runtime()?.block_on(client.readiness())?;
    let text = output::data(&readiness, args.json);
    if ready { Ok(text) } else { Err(Failure::NotSo(text)) }
}
