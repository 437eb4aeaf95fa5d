//! `portcullis session`: where a user is logged in, and logging one device out.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::admin::AdminArgs;
use super::output::{self, Failure};
use super::user::UserArgs;

#[derive(Subcommand)]
pub(super) enum SessionCommand {
    /// The sessions of a user that the gateway remembers
    List(UserArgs),
    /// Refuse every token of one session
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// The session id of its tokens (`sid`)
    #[arg(value_name = "SID")]
    sid: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(command: &SessionCommand) -> ExitCode {
    output::finish(act(command))
}

fn act(command: &SessionCommand) -> Result<String, Failure> {
    let (answer, json) = match command {
        SessionCommand::List(user) => {
            let answer = user.admin.call(|client| async move { client.sessions(user.address()).await })?;
            (answer, user.admin.json)
        }
        SessionCommand::Revoke(args) => {
            let answer = args.admin.call(|client| async move { client.revoke_session(&args.sid).await })?;
            (answer, args.admin.json)
        }
    };
    Ok(output::data(&answer, json))
}
