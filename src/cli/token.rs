//! `portcullis token`: revoke one, look into one, or issue one for development.

mod issue;

use std::io::Read;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin::AdminArgs;
use super::output::{self, Failure};
use crate::time::Timestamp;
use crate::token::{Fingerprint, Token};
use crate::verify::inspect::unverified;

/// Longer input is no token.
const MAX_INPUT: u64 = 64 * 1024;

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Refuse one token from now on
    Revoke(RevokeArgs),
    /// Show what a token says; nothing is verified
    Inspect(InspectArgs),
    /// Sign a token with a development key
    ///
    /// Production tokens come from your identity provider: this needs a private key or shared secret in a file.
    Issue(issue::IssueArgs),
}

#[derive(Args)]
struct JwtArg {
    /// The token, or - to read it from the standard input (and keep it out of the process list)
    #[arg(value_name = "JWT")]
    jwt: String,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    token: JwtArg,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    token: JwtArg,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &TokenCommand) -> ExitCode {
    output::finish(match command {
        TokenCommand::Revoke(args) => revoke(args),
        TokenCommand::Inspect(args) => inspect(args, Timestamp::now()),
        TokenCommand::Issue(args) => issue::issue(args, Timestamp::now()),
    })
}

impl JwtArg {
    fn read(&self) -> Result<String, Failure> {
        if self.jwt != "-" {
            return Ok(self.jwt.clone());
        }
        let mut text = String::new();
        let input = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
        input.map_err(|error| Failure::Trouble(format!("the standard input cannot be read: {error}")))?;
        Ok(text.trim().to_owned())
    }
}

fn revoke(args: &RevokeArgs) -> Result<String, Failure> {
    let jwt = args.token.read()?;
    let answer = args.admin.call(|client| async move { client.revoke_token(&jwt).await })?;
    Ok(output::data(&answer, args.admin.json))
}

fn inspect(args: &InspectArgs, now: Timestamp) -> Result<String, Failure> {
    let jwt = args.token.read()?;
    let token = Token::new(&jwt);
    let content = unverified(&token).map_err(|error| Failure::NotSo(error.to_string()))?;
    let expires = content.claims.get("exp").and_then(Value::as_i64).map(Timestamp::from_seconds);
    let shown = json!({
        "verified": false,
        "fingerprint": Fingerprint::of(&token).to_string(),
        "header": content.header,
        "claims": content.claims,
        "expires_at": expires.map(|at| at.to_string()),
        "expired": expires.map(|at| at <= now),
    });
    Ok(output::data(&shown, args.json))
}
