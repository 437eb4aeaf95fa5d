//! How commands find the running gateway they talk to.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::ConfigArgs;
use super::output::Failure;
use crate::admin::client::{AdminClient, ClientError};
use crate::config::Config;

/// Which gateway, and how to show its answer.
///
/// Without these, `[admin]` of the configuration says where it listens and which token it wants.
#[derive(Args)]
pub(super) struct AdminArgs {
    /// The admin listener of a running gateway, such as http://127.0.0.1:9900
    #[arg(long, value_name = "URL", env = "PORTCULLIS_ADMIN")]
    admin: Option<String>,
    /// A file with the control token; PORTCULLIS_ADMIN_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

impl AdminArgs {
    /// Makes one call to the gateway and waits for its answer.
    pub fn call<F>(&self, call: impl FnOnce(AdminClient) -> F) -> Result<Value, Failure>
    where
        F: Future<Output = Result<Value, ClientError>>,
    {
        let client = self.client()?;
        Ok(runtime()?.block_on(call(client))?)
    }

    fn client(&self) -> Result<AdminClient, Failure> {
        let given = self.given_token()?;
        // The configuration's token is for the configuration's gateway, never for an address from elsewhere.
        let (base, token) = match &self.admin {
            Some(base) => (base.clone(), given.or_else(|| self.own_token(base))),
            None => {
                let (config, _) = Config::load(self.config.path()).map_err(|problems| {
                    Failure::Trouble(format!(
                        "name the gateway with --admin or PORTCULLIS_ADMIN; the configuration does not:\n{problems}"
                    ))
                })?;
                let own = config.admin.token.map(String::from);
                (base_url(config.admin.listen)?, given.or(own))
            }
        };
        Ok(AdminClient::new(&base, token.as_deref())?)
    }

    /// The configuration's token, where `base` is the configuration's gateway, written out.
    fn own_token(&self, base: &str) -> Option<String> {
        let (config, _) = Config::load(self.config.path()).ok()?;
        let own = base_url(config.admin.listen).ok()?;
        config.admin.token.filter(|_| own == base.trim_end_matches('/')).map(String::from)
    }

    fn given_token(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.admin_token_file else {
            return Ok(std::env::var("PORTCULLIS_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()));
        };
        let text = fs::read_to_string(file)
            .map_err(|error| Failure::Trouble(format!("{} cannot be read: {error}", file.display())))?;
        Ok(Some(text.trim().to_owned()))
    }
}

/// A runtime for one call.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::trouble)
}

/// Where a listener of this machine is reached.
pub(super) fn base_url(listen: SocketAddr) -> Result<String, Failure> {
    if listen.port() == 0 {
        let text = "the admin listener has port 0, which the gateway's log names; say --admin URL";
        return Err(Failure::Trouble(text.to_owned()));
    }
    let host = match listen.ip() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    Ok(format!("http://{}", SocketAddr::new(host, listen.port())))
}
