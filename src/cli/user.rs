//! `portcullis user`: what may be done to a user of a running gateway.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::admin::AdminArgs;
use super::output::{self, Failure};
use crate::admin::client::UserAddress;

#[derive(Subcommand)]
pub(super) enum UserCommand {
    /// Refuse every token of a user, now, until lifted or until --until
    Ban(LastingArgs),
    /// As ban, for an account that is switched off
    Deactivate(LastingArgs),
    /// As ban, for an account that is gone
    Delete(LastingArgs),
    /// Lift a ban, a deactivation or a deletion
    Activate(ChangeArgs),
    /// Void every token issued up to now because of a security incident; newer logins work
    SecurityAction(ChangeArgs),
    /// Log out everywhere: tokens issued up to now are void, new logins work
    Logout(UserArgs),
    /// Show a user's status, cut-off and sessions
    Status(UserArgs),
}

/// Whose.
#[derive(Args)]
pub(super) struct UserArgs {
    /// The subject of the user's tokens (`sub`)
    #[arg(value_name = "ID")]
    id: String,
    /// The realm of the user's issuer, where it has one
    #[arg(long, default_value = "")]
    realm: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

impl UserArgs {
    /// As the client addresses a user.
    pub fn address(&self) -> UserAddress<'_> {
        UserAddress { id: &self.id, realm: &self.realm }
    }
}

#[derive(Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    user: UserArgs,
    /// Why, for the audit trail and for whoever looks the user up
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Args)]
pub(super) struct LastingArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// When it ends by itself: RFC 3339, such as 2026-12-31T23:59:59Z
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

pub(super) fn run(command: &UserCommand) -> ExitCode {
    output::finish(act(command))
}

fn act(command: &UserCommand) -> Result<String, Failure> {
    match command {
        UserCommand::Ban(args) => set(&args.change, "banned", args.until.as_deref()),
        UserCommand::Deactivate(args) => set(&args.change, "deactivated", args.until.as_deref()),
        UserCommand::Delete(args) => set(&args.change, "deleted", args.until.as_deref()),
        UserCommand::Activate(args) => set(args, "active", None),
        UserCommand::SecurityAction(args) => set(args, "security_action", None),
        UserCommand::Logout(user) => {
            let answer = user.admin.call(|client| async move { client.logout(user.address()).await })?;
            Ok(output::data(&answer, user.admin.json))
        }
        UserCommand::Status(user) => {
            let answer = user.admin.call(|client| async move { client.user(user.address()).await })?;
            Ok(output::data(&answer, user.admin.json))
        }
    }
}

fn set(args: &ChangeArgs, status: &str, until: Option<&str>) -> Result<String, Failure> {
    let given = [("status", Some(status)), ("reason", args.reason.as_deref()), ("until", until)];
    let fields = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    let body = Value::Object(fields.collect::<Map<_, _>>());
    let user = &args.user;
    let answer = user.admin.call(|client| async move { client.set_status(user.address(), &body).await })?;
    Ok(output::data(&answer, user.admin.json))
}
