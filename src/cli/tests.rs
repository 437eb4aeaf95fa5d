//! The command line as it is typed.

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("portcullis").chain(line.split_whitespace()))
}

#[test]
fn the_commands_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_configuration_is_named_with_and_without_the_command() {
    for line in ["-c other.toml", "--config other.toml"] {
        let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(cli.command.is_none() && cli.run.config.path() == "other.toml", "{line}");
    }
    for line in ["run -c other.toml", "-c other.toml run", "-c wrong.toml run -c other.toml"] {
        let Ok(Cli { command: Some(Command::Run(config)), .. }) = parse(line) else { panic!("{line}") };
        assert_eq!(config.config.path(), "other.toml", "{line}");
    }
    let Ok(Cli { command: Some(Command::Run(config)), .. }) = parse("run") else { panic!("run") };
    assert_eq!(config.config.path(), "gateway.toml");
}

#[test]
fn every_documented_command_is_understood() {
    for line in [
        "run",
        "demo",
        "check -c a.toml --print --json",
        "migrate",
        "user ban 7 --reason spam --until 2030-01-01T00:00:00Z --realm acme --json",
        "user deactivate 7",
        "user delete 7",
        "user activate 7 --reason mistake",
        "user security-action 7",
        "user logout 7 --admin http://127.0.0.1:9900 --admin-token-file t",
        "user status 7",
        "token revoke - --json",
        "token inspect a.b.c",
        "token issue --sub 7",
        "token issue --sub 7 --secret-file s --ttl 1h --claim roles=[]",
        "token issue --sub 7 --key-file k --alg RS256 -c gateway.toml",
        "session list 7",
        "session revoke s-1",
        "stats --json",
        "prune",
        "health -c gateway.toml",
        "-c other.toml health",
        "-c other.toml user status 7 --json",
        "-c other.toml token issue --sub 7 --secret-file s",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in
        ["fly", "user ban", "user activate 7 --until 2030-01-01T00:00:00Z", "stats 7", "check --json=1"]
    {
        assert!(parse(line).is_err(), "{line}");
    }
    let no_algorithm = parse("token issue --sub 7 --key-file k").err().map(|error| error.kind());
    assert_eq!(no_algorithm, Some(ErrorKind::MissingRequiredArgument));
}
