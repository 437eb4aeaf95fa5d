//! The command line: one command, one file. Exit codes: 0 fine, 1 the thing asked about is not so, 2 usage or I/O.

mod admin;
pub mod check;
mod demo;
mod health;
mod migrate;
mod output;
mod prune;
mod run;
mod session;
mod stats;
mod token;
mod user;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

/// A reverse proxy that makes JWT authentication revocable for services that already run.
///
/// Put it in front of a service: from then on a logout or a ban takes effect on the next request, without a change
/// to the service's code. Without a command it serves.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    run: run::RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Which configuration. Global, so that it may stand before the command as well as behind it.
#[derive(Args)]
struct ConfigArgs {
    /// The configuration file [default: gateway.toml]
    #[arg(short, long = "config", value_name = "FILE", env = "PORTCULLIS_CONFIG", global = true)]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new("gateway.toml"))
    }
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default command)
    ///
    /// SIGHUP reloads the configuration, SIGTERM lets running requests end, SIGUSR2 starts a successor on the same sockets.
    Run(run::RunArgs),
    /// Try it out: gateway, sample upstream and signed tokens on an embedded store; prints curl lines to paste
    Demo,
    /// Validate a configuration; every problem is shown with its line
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Show the configuration with defaults and presets filled in, and what is asked of Redis and the database;
        /// secrets are left out
        #[arg(long)]
        print: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Create or upgrade Portcullis's own tables in the configured database
    Migrate(migrate::MigrateArgs),
    /// Ban, deactivate, activate or log out a user of a running gateway, or look one up
    #[command(subcommand)]
    User(user::UserCommand),
    /// Revoke, inspect or (for development) issue a token
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// List a user's sessions, or revoke one
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// How much the ledger of a running gateway holds
    Stats(admin::AdminArgs),
    /// Remove what has expired from the ledger of a running gateway
    Prune(admin::AdminArgs),
    /// Whether the gateway of this configuration is ready: 0 or 1, for health checks
    Health(health::HealthArgs),
}

/// Parses the arguments and runs the command. Usage errors end the process with 2.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.run.upgrade && !matches!(cli.command, None | Some(Command::Run(_))) {
        Cli::command().error(ErrorKind::ArgumentConflict, "`--upgrade` belongs to `run`").exit();
    }
    match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => {
            run::run(&run::RunArgs { upgrade: args.upgrade || cli.run.upgrade, ..args })
        }
        Some(Command::Demo) => demo::run(),
        Some(Command::Check { config, print, json }) => check::run(config.path(), print, json),
        Some(Command::Migrate(args)) => migrate::run(&args),
        Some(Command::User(command)) => user::run(&command),
        Some(Command::Token(command)) => token::run(&command),
        Some(Command::Session(command)) => session::run(&command),
        Some(Command::Stats(args)) => stats::run(&args),
        Some(Command::Prune(args)) => prune::run(&args),
        Some(Command::Health(args)) => health::run(&args),
    }
}
