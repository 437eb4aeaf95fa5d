//! Routes: who may pass, and which of them can stand beside each other.

use super::*;

#[test]
fn routes_say_who_may_pass_and_lean_on_what_exists() {
    let route = |rest: &str| format!("[[routes]]\npath = \"/x\"\nupstream = \"app\"\n{rest}\n");
    refused(&route(""), "no `[[issuers]]`");
    good(&format!("{ISSUER}{}", route("auth = \"optional\"\nrequire = { claims = { tenant = \"acme\" } }")));
    assert_eq!(good(&route("auth = \"none\"")).routes[0].access, Access::Open);
    let public = |rest: &str| route(&format!("auth = \"public\"\n{rest}"));
    refused(&public("require = { scopes = [\"a\"] }"), "`require` does nothing");
    refused(&public("on_outage = \"allow\""), "`on_outage` does nothing");
    refused(&public("hosts = [\"a.b:80\"]"), "a host without port");
    refused(&public("hosts = [\"*.*.b\"]"), "a host without port");
    refused(&public("methods = [\"TRACE\"]"), "refused on every route");
    refused(&public("methods = [\"get\"]"), "capital letters");
    refused(&format!("{ISSUER}{}", route("redirect = \"//evil\"")), "a local path");
    refused(&public("auht = \"x\""), "did you mean `auth`?");
}

#[test]
fn two_routes_that_match_the_same_requests_are_told_at_both_places() {
    let route = |path: &str, rest: &str| {
        format!("[[routes]]\npath = \"{path}\"\nupstream = \"app\"\nauth = \"public\"\n{rest}\n")
    };
    let both = format!(
        "{}{}",
        route("/a/{x}", "methods = [\"GET\", \"PUT\"]"),
        route("/a/{y}", "methods = [\"PUT\"]")
    );
    let told = told(with(&both));
    assert_eq!(
        told,
        [
            "2:1: this route matches the same requests as route `a-y`, and no order decides",
            "7:1: this route matches the same requests as route `a-x`, and no order decides",
        ]
    );
    good(&format!("{}{}", route("/a", "hosts = [\"x.y\"]"), route("/a", "hosts = [\"*.y\"]")));
    good(&format!("{}{}", route("/a", ""), route("/a", "methods = [\"PUT\"]")));
    refused(
        &format!("{}{}", route("/a", "name = \"n\""), route("/b", "name = \"n\"")),
        "two routes have this name",
    );
}
