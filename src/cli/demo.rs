//! `portcullis demo`: a gateway, a service that knows nothing of tokens, and an embedded ledger; prints what to try.

mod service;
mod tour;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::app::{self, Gateway, StartError};
use crate::cause::Chain;
use crate::config::Config;
use crate::report;

/// Where the demo listens if nobody else does; else the system chooses.
const PROXY_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9900;
/// Who signs the demo's tokens, and for whom.
const ISSUER: &str = "https://demo.portcullis.invalid";
const AUDIENCE: &str = "demo";

/// Runs until interrupted. Everything it makes lies in a temporary directory that goes with it.
pub fn run() -> ExitCode {
    let directory = std::env::temp_dir().join(format!("portcullis-demo-{}", secret(6)));
    let ended = in_directory(&directory);
    // It holds nothing but what this process made.
    let _ = std::fs::remove_dir_all(&directory);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis demo: {}", Chain(&*error));
            ExitCode::from(2)
        }
    }
}

fn in_directory(directory: &Path) -> Result<(), Box<dyn std::error::Error>> {
    // The signing secret and the control token lie in it: nobody else on this machine may look.
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(directory)?;
    let keys = Keys { signing: secret(48), control: secret(24) };
    let runtime = app::runtime(2)?;
    runtime.block_on(async {
        let upstream = service::start(keys.signing.clone()).await.map_err(StartError::process)?;
        let path = directory.join("gateway.toml");
        std::fs::write(&path, keys.configuration(upstream, &directory.join("ledger.db")))?;
        let (config, _) = Config::load(&path).map_err(|problems| problems.to_string())?;
        report::log::start(&config.log)?;
        let gateway = Gateway::start(config, &path).await?;
        tour::print(&gateway, &keys)?;
        gateway.serve().await?;
        Ok(())
    })
}

/// Made anew at each start: a demo must not become a back door.
struct Keys {
    signing: String,
    control: String,
}

impl Keys {
    fn configuration(&self, upstream: SocketAddr, database: &Path) -> String {
        let Self { signing, control } = self;
        let (proxy, admin) = (free_or_any(PROXY_PORT), free_or_any(ADMIN_PORT));
        let database = database.display();
        format!(
            r#"
[server]
listen = ["{proxy}"]
[admin]
listen = "{admin}"
token = "{control}"
[log]
level = "warn"
format = "text"
access = "all"
[[issuers]]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
algorithms = ["HS256"]
keys = [{{ kid = "demo", alg = "HS256", secret = "{signing}" }}]
[database]
url = "sqlite://{database}"
[[upstreams]]
name = "sample"
servers = ["{upstream}"]
[[routes]]
name = "service"
path = "/{{*rest}}"
upstream = "sample"
[[routes]]
name = "login"
path = "/login"
upstream = "sample"
auth = "public"
"#
        )
    }
}

fn free_or_any(port: u16) -> SocketAddr {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpListener::bind(address(port)).is_ok() { address(port) } else { address(0) }
}

/// `bytes` random bytes as text.
fn secret(bytes: usize) -> String {
    let random: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
    URL_SAFE_NO_PAD.encode(random)
}
