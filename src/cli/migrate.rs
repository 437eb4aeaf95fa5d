//! `portcullis migrate`: Portcullis's own tables, before the gateway starts.

use std::process::ExitCode;

use clap::Args;

use super::output::{self, Failure};
use super::{ConfigArgs, admin};
use crate::cause::Chain;
use crate::config::Config;

#[derive(Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &MigrateArgs) -> ExitCode {
    output::finish(migrate(args))
}

fn migrate(args: &MigrateArgs) -> Result<String, Failure> {
    let (config, _) = Config::load(&args.config.config).map_err(Failure::trouble)?;
    let migrated = admin::runtime()?.block_on(crate::ledger::migrate(&config.ledger));
    migrated.map_err(|error| Failure::Trouble(Chain(&error).to_string()))?;
    Ok("The tables are up to date.".to_owned())
}
