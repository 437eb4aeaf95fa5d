//! `portcullis migrate`: Portcullis's own tables, before the gateway starts.

use std::process::ExitCode;

use clap::Args;

use super::output::{self, Failure};
use super::{ConfigArgs, admin};
use crate::cause::Chain;
use crate::config::Config;
use crate::ledger::{self, StoreError};

#[derive(Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Install triggers on the presets' tables of users: a change typed into a database console counts at once
    #[arg(long, conflicts_with = "unwatch_users")]
    watch_users: bool,
    /// Take these triggers away again
    #[arg(long)]
    unwatch_users: bool,
}

pub(super) fn run(args: &MigrateArgs) -> ExitCode {
    output::finish(migrate(args))
}

fn migrate(args: &MigrateArgs) -> Result<String, Failure> {
    let (config, _) = Config::load(args.config.path()).map_err(Failure::trouble)?;
    let trouble = |error: StoreError| Failure::Trouble(Chain(&error).to_string());
    let runtime = admin::runtime()?;
    runtime.block_on(ledger::migrate(&config.ledger)).map_err(trouble)?;
    let mut said = "The tables are up to date.".to_owned();
    if args.watch_users || args.unwatch_users {
        let tables = runtime.block_on(ledger::watch(&config.ledger, args.watch_users)).map_err(trouble)?;
        let (done, none) = match args.watch_users {
            true => ("Watched", "No preset has a table of users that could be watched."),
            false => ("No longer watched", "No preset has a table of users."),
        };
        let tables = tables.join(", ");
        said.push_str(&if tables.is_empty() { format!("\n{none}") } else { format!("\n{done}: {tables}.") });
    }
    Ok(said)
}
