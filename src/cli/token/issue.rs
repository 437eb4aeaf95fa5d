//! `portcullis token issue`: signs with a key it is given, or with the shared secret of a configuration that has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::ConfigArgs;
use crate::cli::output::Failure;
use crate::config::Config;
use crate::time::Timestamp;
use crate::verify::issue::{self, SigningKey};
use crate::verify::{Algorithm, IssuerSettings, KeySource};

#[derive(Args)]
#[command(group = clap::ArgGroup::new("key").args(["secret_file", "key_file"]))]
pub(in crate::cli) struct IssueArgs {
    /// The subject
    #[arg(long, value_name = "ID")]
    sub: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// The issuer (`iss`). With --config it is the configuration's only one, or the one named here, and `aud` comes along
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// Sign with the shared secret in this file; HS256 unless --alg says otherwise. Without any key it is the shared
    /// secret of the configuration's issuer
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Sign with the private key in this PEM file
    #[arg(long, value_name = "FILE", requires = "alg")]
    key_file: Option<PathBuf>,
    /// The algorithm, such as RS256, ES256 or EdDSA
    #[arg(long, value_parser = algorithm)]
    alg: Option<Algorithm>,
    /// The key's id, for the header
    #[arg(long)]
    kid: Option<String>,
    /// How long the token is valid
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Another claim; the value is JSON, or else taken as text
    #[arg(long = "claim", value_name = "NAME=JSON", value_parser = claim)]
    claims: Vec<(String, Value)>,
    /// Write JSON, with the claims
    #[arg(long)]
    json: bool,
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(name).ok_or_else(|| "not an algorithm that is supported".to_owned())
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("not NAME=JSON")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

pub(super) fn issue(args: &IssueArgs, now: Timestamp) -> Result<String, Failure> {
    let issuer = issuer(args)?;
    let (kid, algorithm, key) = key(args, issuer.as_ref())?;
    let claims = claims(args, issuer.as_ref(), now);
    let jwt = issue::issue(&claims, algorithm, kid, &key).map_err(Failure::trouble)?;
    Ok(if args.json { json!({ "token": jwt, "claims": claims }).to_string() } else { jwt })
}

/// The configuration's issuer, where a configuration is named, or needed for its key.
fn issuer(args: &IssueArgs) -> Result<Option<IssuerSettings>, Failure> {
    let has_key = args.secret_file.is_some() || args.key_file.is_some();
    if has_key && args.config.config.is_none() {
        return Ok(None);
    }
    let (config, _) = Config::load(args.config.path()).map_err(Failure::trouble)?;
    let named = |name: &str| args.issuer.as_deref().is_none_or(|wanted| wanted == name);
    let mut issuers = config.issuers.into_iter().filter(|issuer| named(&issuer.issuer));
    match (issuers.next(), issuers.next()) {
        (Some(issuer), None) => Ok(Some(issuer)),
        _ => Err(Failure::Trouble("name one of the configuration's issuers with --issuer".to_owned())),
    }
}

type Signer<'a> = (Option<&'a str>, Algorithm, SigningKey);

/// A secret signs with HMAC only, a private key never does: the confusion of the two is an old attack.
fn key<'a>(args: &'a IssueArgs, issuer: Option<&'a IssuerSettings>) -> Result<Signer<'a>, Failure> {
    if let (None, None, Some(issuer)) = (&args.secret_file, &args.key_file, issuer) {
        let shared = match &issuer.keys {
            KeySource::Fixed(keys) => keys.shared_secret(),
            KeySource::Url { .. } | KeySource::Discovery { .. } => None,
        };
        let none = "the configuration has no shared secret to sign with: give --secret-file or --key-file";
        let (kid, algorithm, key) = shared.ok_or_else(|| Failure::Trouble(none.to_owned()))?;
        if args.alg.is_some_and(|wanted| wanted != algorithm) {
            return Err(Failure::Trouble(format!("the configuration's secret serves {}", algorithm.name())));
        }
        return Ok((args.kid.as_deref().or(kid), algorithm, key));
    }
    let (algorithm, key) = match (&args.secret_file, &args.key_file, args.alg) {
        (Some(file), None, algorithm) => {
            (algorithm.unwrap_or(Algorithm::HS256), SigningKey::Secret(secret(&read(file)?).to_vec()))
        }
        (None, Some(file), Some(algorithm)) => (algorithm, SigningKey::Pem(read(file)?)),
        _ => return Err(Failure::Trouble("either --secret-file, or --key-file with --alg".to_owned())),
    };
    if algorithm.is_hmac() != matches!(key, SigningKey::Secret(_)) {
        let text = "HS algorithms go with --secret-file, the others with --key-file";
        return Err(Failure::Trouble(text.to_owned()));
    }
    Ok((args.kid.as_deref(), algorithm, key))
}

/// Editors end files with a line feed that is not part of the secret.
fn secret(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::Trouble(format!("{} cannot be read: {error}", file.display())))
}

fn claims(args: &IssueArgs, issuer: Option<&IssuerSettings>, now: Timestamp) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    put("sub", args.sub.as_str().into());
    put("iat", now.seconds().into());
    put("exp", now.plus(args.ttl).seconds().into());
    put("jti", uuid::Uuid::new_v4().to_string().into());
    if let Some(issuer) = &args.issuer {
        put("iss", issuer.as_str().into());
    }
    if let Some(issuer) = issuer {
        put("iss", (&*issuer.issuer).into());
        if let Some(audience) = issuer.audience.first() {
            put("aud", (&**audience).into());
        }
    }
    for (name, value) in &args.claims {
        put(name, value.clone());
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_value_is_json_or_else_text() {
        assert_eq!(claim("roles=[\"admin\"]"), Ok(("roles".into(), json!(["admin"]))));
        assert_eq!(claim("tenant=acme"), Ok(("tenant".into(), "acme".into())));
        assert!(claim("tenant").is_err() && claim("=x").is_err());
    }

    #[test]
    fn only_the_last_line_end_of_a_secret_is_dropped() {
        assert_eq!(secret(b"a b\r\n"), b"a b");
        assert_eq!(secret(b"a\n\n"), b"a\n");
    }
}
