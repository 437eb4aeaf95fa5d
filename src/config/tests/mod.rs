//! What the configuration accepts and what it says to the rest.

mod files;
mod forward_auth;
mod handling;
mod issuers;
mod ledger;
mod mistakes;
mod routes;
mod sessions;
mod shipped;
mod tls;
mod upstreams;

use std::time::Duration;

use super::*;
use crate::ledger::rule::{Condition, IfAbsent};
use crate::ledger::settings::{HostPort, RedisAddress, RedisServers};
use crate::route::Access;

const UPSTREAM: &str = "[[upstreams]]\nname = \"app\"\nservers = [\"127.0.0.1:3000\"]\n";
const ROUTE: &str = "[[routes]]\npath = \"/\"\nupstream = \"app\"\nauth = \"public\"\n";
const ISSUER: &str = "[[issuers]]\nissuer = \"a\"\naudience = [\"x\"]\nalgorithms = [\"HS256\"]\n\
                      keys = [{ alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" }]\n";

fn environment(name: &str) -> Option<String> {
    match name {
        "THREADS" => Some("3".into()),
        "PASSWORD" => Some("hunter2hunter2".into()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Checked, Problems> {
    Config::parse(text, "gateway.toml", Path::new("."), &environment)
}

/// A working file with `extra` before the upstream and the route.
fn with(extra: &str) -> Result<Checked, Problems> {
    parse(&format!("{extra}\n{UPSTREAM}{ROUTE}"))
}

fn good(text: &str) -> Config {
    match with(text) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// `line:column: message` of every problem.
fn told(result: Result<Checked, Problems>) -> Vec<String> {
    let problems = result.err().expect("problems");
    problems.list.iter().map(|p| format!("{}:{}: {}", p.line, p.column, p.message)).collect()
}

/// The one problem of a working file with `extra` in it; it holds `message`.
#[track_caller]
fn refused(extra: &str, message: &str) {
    let told = told(with(extra));
    assert!(told.len() == 1 && told[0].contains(message), "{extra}\n{told:#?}");
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = good("");
    assert_eq!(config.server.listen, ["0.0.0.0:8080".parse().expect("address")]);
    assert!(config.server.threads >= 1);
    assert_eq!(config.server.limits.body_bytes, 10 << 20);
    assert_eq!(config.server.drain, Duration::from_secs(30));
    assert_eq!(config.admin.listen, "127.0.0.1:9900".parse().expect("address"));
    assert_eq!(config.identity.headers.len(), 3);
    assert_eq!(config.ledger.database.url, "sqlite://portcullis.db");
    assert_eq!(config.ledger.refresh_lifetime, Duration::from_secs(7 * 24 * 3600));
    assert_eq!((config.tokens, config.ledger.answers), (100_000, 1_000_000));
    assert_eq!(config.routes[0].access, Access::Open);
    assert_eq!(&*config.routes[0].name, "root");
}

#[test]
fn every_problem_is_told_at_once_each_with_its_place() {
    let text = "[server]\nlisten = [\"nowhere\"]\nthread = 2\ndrain = 5\n\n[log]\nformat = \"jason\"\n\n\
                [[upstreams]]\nname = \"app\"\nservers = [\"http://x:1\", { address = \"a:1\", weight = 0 }]\n\n\
                [[routes]]\npath = \"/\"\nupstream = \"ap\"\nauth = \"public\"\n";
    assert_eq!(
        told(parse(text)),
        [
            "2:11: expected an address and a port, such as \"127.0.0.1:8080\"",
            "3:1: unknown key `thread` in `server`; did you mean `threads`?",
            "4:9: expected a duration with its unit, such as \"5s\", found an integer",
            "7:10: expected one of `json`, `text`; did you mean `json`?",
            "11:12: expected a host and a port, such as \"10.0.0.5:3000\", without a scheme",
            "11:54: must lie between 1 and 1000",
            "15:12: there is no such upstream; did you mean `app`?",
        ]
    );
}

#[test]
fn a_problem_is_shown_with_its_line() {
    let problems = with("[server]\nthread = 2").err().expect("problems");
    let shown = problems.to_string();
    let mut lines = shown.lines();
    assert_eq!(
        lines.next(),
        Some("gateway.toml:2:1: unknown key `thread` in `server`; did you mean `threads`?")
    );
    assert!(shown.contains("2 | thread = 2") && shown.contains("| ^^^^^^"), "{shown}");
}

#[test]
fn syntax_errors_and_duplicate_keys_have_their_place() {
    assert!(told(parse("[server]\nlisten = [\n"))[0].starts_with("2:"));
    assert!(told(parse("[server]\nthreads = 1\nthreads = 2\n"))[0].starts_with("3:1: "));
}

#[test]
fn variables_are_filled_in_and_never_shown() {
    let config =
        good("[server]\nthreads = \"${THREADS}\"\n[redis]\nurl = \"redis://:${PASSWORD}@${HOST:-h}/0\"");
    assert_eq!(config.server.threads, 3);
    let redis = config.ledger.redis.expect("Redis");
    assert_eq!(redis.login.password.as_deref(), Some("hunter2hunter2"));
    let address = RedisAddress::Tcp(HostPort { host: "h".into(), port: 6379 });
    assert!(redis.servers == RedisServers::Single(address));
    refused("[redis]\nurl = \"${REDIS_URL}\"", "environment variable `REDIS_URL` is not set");
    for section in [
        "[redis]\nurl",
        "[database]\nurl",
        "[log]\nformat",
        "[log]\nlevel",
        "[server]\ndrain",
        "[identity]\nx",
    ] {
        let problems = with(&format!("{section} = \"{{${{PASSWORD}}\"")).err().expect("problems");
        assert!(!format!("{problems}{problems:?}").contains("hunter2"), "{problems}");
    }
}

#[test]
fn secrets_appear_in_no_message_and_not_in_what_is_in_effect() {
    let bad = format!(
        "[admin]\ntoken = \"hunter2 hunter2\"\n[redis]\nurl = \"redis://u:hunter2@h/x\"\n[database]\nurl = \"my://u:hunter2@h\"\n\
         [[issuers]]\nissuer = \"a\"\nkeys = [{{ alg = \"HS1\", secert = \"hunter2\", secret_base64 = \"hunter2!\" }}]\n{UPSTREAM}{ROUTE}"
    );
    let problems = parse(&bad).err().expect("problems");
    assert!(problems.list.len() > 5 && !format!("{problems}{problems:?}").contains("hunter2"), "{problems}");
    let open = parse("[admin]\ntoken = \"hunter2\n").err().expect("problems");
    assert!(!open.to_string().contains("hunter2"), "{open}");

    let fine = format!(
        "[admin]\ntoken = \"hunter2hunter2hunter2\"\n[redis]\nurl = \"redis://u:hunter2@h/1\"\n\
         [database]\nurl = \"postgres://u:hunter2@h/db\"\n{ISSUER}"
    );
    let effective = toml::to_string(&with(&fine).unwrap_or_else(|problems| panic!("{problems}")).effective)
        .expect("TOML");
    assert!(!effective.contains("hunter2") && !effective.contains("0123456789abcdef"), "{effective}");
    assert!(effective.contains("<secret>") && effective.contains("redis://h/1"), "{effective}");
}

#[test]
fn what_is_in_effect_is_a_configuration_again() {
    let checked = with("[ledger]\npresets = [\"native\", \"invalid-users\"]")
        .unwrap_or_else(|problems| panic!("{problems}"));
    let again = parse(&toml::to_string(&checked.effective).expect("TOML"));
    let again = again.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(again.config == checked.config && again.effective == checked.effective);
}

#[test]
fn the_control_listener_is_not_opened_to_others_without_a_token() {
    refused("[admin]\nlisten = \"0.0.0.0:9900\"", "needs `token`");
    refused("[admin]\ntoken_file = \"/dev/null\"", "not a regular file");
    refused("[admin]\nlisten = \"127.0.0.1:8080\"", "the server listens on this address already");
    assert_eq!(good("[admin]\nlisten = \"127.0.0.1:0\"").admin.listen.port(), 0);
}

#[test]
fn secret_files_lose_their_newline_and_are_found_beside_the_configuration() {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("t"), "0123456789abcdef\n").expect("file");
    let text = format!("[admin]\ntoken_file = \"t\"\n{UPSTREAM}{ROUTE}");
    let checked = Config::parse(&text, "gateway.toml", directory.path(), &environment)
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.config.admin.token.as_deref(), Some("0123456789abcdef"));
    assert!(checked.warnings.to_string().contains("everyone on this machine can read"));

    let text = text.replace("token_file", "token = \"0123456789abcdef\"\ntoken_file");
    let both = Config::parse(&text, "gateway.toml", directory.path(), &environment);
    assert_eq!(told(both), ["3:1: `token` and `token_file` are both given; one is enough"]);
    refused("[admin]\ntoken_file = \"no such file\"", "cannot be read");
}

#[test]
fn an_empty_configuration_serves_nothing_and_says_so() {
    let told = told(parse(""));
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("`[[upstreams]]`") && told[1].contains("`[[routes]]`"), "{told:?}");
}

#[test]
fn zero_and_the_absurd_are_out_of_bounds() {
    refused("[server.limits]\nheader_timeout = \"0s\"", "must lie between");
    refused("[server.limits]\nheaders = 0", "must lie between");
    refused("[server.limits]\nbody_bytes = \"9EiB\"", "must lie between");
    refused("[redis]\nurl = \"redis://h\"\ntimeout = \"1h\"", "must lie between");
    refused("[log]\nsample = 2.5", "must lie between");
    refused("[log]\nlevel = \"inof\"", "expected one of");
    refused("[log]\naccess = \"off\"\nsample = 0.5", "only `access");
    refused("[token]\nfrom = [\"header:a b\"]", "letters, digits");
    refused("[token]\nfrom = []", "must not be empty");
    refused("[identity]\nheaders = { x-a = \"{sub}\", X_A = \"{sid}\" }", "two spellings");
    refused("[identity]\nheaders = { host = \"{sub}\" }", "a meaning of its own");
}
