//! What there is to try, as lines to paste into another terminal.

use std::io::Write as _;

use super::{Keys, service};
use crate::app::Gateway;
use crate::time::Timestamp;

/// Prints the tour. Each step is one line of shell, with everything in it.
pub(super) fn print(gateway: &Gateway, keys: &Keys) -> Result<(), Box<dyn std::error::Error>> {
    let proxy = gateway.proxy.first().map(ToString::to_string).unwrap_or_default();
    let (admin, control) = (gateway.admin, &keys.control);
    let now = Timestamp::now();
    let alice = service::token(&keys.signing, "alice", now)?;
    let bob = service::token(&keys.signing, "bob", now)?;

    let ask =
        |token: &str| format!(r"curl -i -w '\n' http://{proxy}/hello -H 'Authorization: Bearer {token}'");
    let control = |method: &str, path: &str, body: &str| {
        let body = if body.is_empty() {
            String::new()
        } else {
            format!(" -H 'Content-Type: application/json' -d '{body}'")
        };
        format!(
            r"curl -i -w '\n' -X {method} http://{admin}{path} -H 'Authorization: Bearer {control}'{body}"
        )
    };
    let revoke = format!(r#"{{"token":"{bob}"}}"#);
    let login = format!(r#"$(curl -s 'http://{proxy}/login?user=alice' | cut -d'"' -f4)"#);
    let fresh = format!(r#"curl -i -w '\n' http://{proxy}/hello -H "Authorization: Bearer {login}""#);
    let steps = [
        ("Alice passes; the service is told who she is, and knows nothing of tokens", ask(&alice)),
        ("Ban her", control("PUT", "/v1/users/alice/status", r#"{"status":"banned","reason":"demo"}"#)),
        ("Her very next request is refused: 403 user_banned", ask(&alice)),
        ("Activate her", control("PUT", "/v1/users/alice/status", r#"{"status":"active"}"#)),
        ("She passes again", ask(&alice)),
        ("Log her out everywhere", control("POST", "/v1/users/alice/logout", "")),
        ("Tokens issued before are void: 401 issued_before_cutoff", ask(&alice)),
        ("A new login works", fresh),
        ("Bob passes", ask(&bob)),
        ("Revoke this one token of his", control("POST", "/v1/tokens/revoke", &revoke)),
        ("It is refused: 401 token_revoked", ask(&bob)),
        (
            "How the gateway is",
            format!(
                r"curl -s -w '\n' http://{admin}/readyz; curl -s http://{admin}/metrics | grep 'verdicts_total.* [1-9]'"
            ),
        ),
    ];
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Portcullis is up: proxy http://{proxy}, control http://{admin}. Paste into another terminal:\n"
    )?;
    for (number, (what, line)) in (1..).zip(steps) {
        writeln!(out, "# {number}. {what}\n{line}\n")?;
    }
    writeln!(out, "Ctrl-C ends it. What happens is told below.\n")?;
    out.flush()?;
    Ok(())
}
