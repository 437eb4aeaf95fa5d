//! `portcullis migrate`: Portcullis's own tables, before the gateway starts.

use std::process::ExitCode;

use clap::Args;

use super::output::{self, Failure};
use super::{ConfigArgs, admin};
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
    let (config, _) = Config::load(args.config.path()).map_err(Failure::trouble)?;
    let migrated = admin::runtime()?.block_on(crate::ledger::migrate(&config.ledger));
    migrated.map_err(|error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        Failure::Trouble(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    })?;
    Ok("The tables are up to date.".to_owned())
}
