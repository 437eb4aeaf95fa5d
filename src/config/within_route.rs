//! What must hold within one of `[[routes]]`: between its keys, and of what it leans on.

use super::reader::{Placed, Table, did_you_mean};
use super::routes::{Around, Auth, Written};
use super::{forward_auth, observers};
use crate::rate::{By, RateLimit};
use crate::route::{ClientCertificate, OnOutage};

/// What must hold between the keys of one route, and what it leans on.
pub fn rules(table: &Table<'_>, written: &Written, around: &Around<'_>) {
    let reader = table.reader;
    if written.auth == Some(Auth::Public) {
        for key in ["require", "on_outage", "redirect"] {
            if table.has(key) && !(key == "redirect" && table.has_table(key)) {
                let message =
                    format!("`{key}` does nothing on a public route: tokens are not looked at there");
                reader.problem(&table.place(key), message);
            }
        }
    } else if written.auth.is_some() && !around.issuers {
        let message = "this route asks for tokens, and there is no `[[issuers]]` whose tokens are believed";
        reader.problem(&if table.has("auth") { table.place("auth") } else { table.at.clone() }, message);
    }
    let by_subject = |limit: &&Placed<RateLimit>| limit.value.by == By::Subject;
    for limit in written.rate_limits.iter().flatten().filter(by_subject) {
        if written.auth == Some(Auth::Public) {
            let message = "nobody is known on a public route: this limit counts by address";
            reader.warn(&limit.at, message);
        }
    }
    if written.client_certificate == Some(ClientCertificate::Required) && !around.client_certificates {
        let message = "no listener asks for client certificates: this route would refuse every request";
        reader.problem(&table.place("client_certificate"), message);
    }
    of_refresh(table, written);
    forward_auth::route(table, written, around.is_asked);
    if written.auth == Some(Auth::Public)
        && observers::revokes(written.observers.as_deref().unwrap_or_default())
    {
        let message = "`revoke` does nothing on a public route: no token is looked at that could be revoked";
        reader.problem(&table.place("on_response"), message);
    }
    let names = || around.upstreams.iter().map(|upstream| &*upstream.name.value);
    if let Some(Placed { at, value }) = &written.upstream
        && !names().any(|name| name == &**value)
    {
        reader.problem(at, format!("there is no such upstream{}", did_you_mean(value, names())));
    }
}

/// What must hold of a refresh route, and of none else.
fn of_refresh(table: &Table<'_>, written: &Written) {
    let tell = |key: &str, message: &str| table.reader.problem(&table.place(key), message);
    match (written.auth, table.has("token_from")) {
        (Some(Auth::Refresh), false) => {
            tell("auth", "a refresh route says where its token is: `token_from = \"body:refreshToken\"`");
        }
        (Some(Auth::Required | Auth::Optional | Auth::Public), true) => {
            tell(
                "token_from",
                "`token_from` is for routes with `auth = \"refresh\"`; elsewhere `[token] from` says",
            );
        }
        _ => {}
    }
    if written.auth == Some(Auth::Refresh) && written.on_outage == Some(OnOutage::Allow) {
        tell("on_outage", "nobody passes a refresh route unasked: new tokens would outlive the outage");
    }
}
