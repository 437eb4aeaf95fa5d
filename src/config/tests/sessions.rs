//! What routes are told of logins, refreshes and logouts.

use super::*;

#[test]
fn a_refresh_route_says_where_its_token_is_and_no_other_does() {
    let route = |rest: &str| format!("{ISSUER}[[routes]]\npath = \"/x\"\nupstream = \"app\"\n{rest}\n");
    let refresh = |rest: &str| route(&format!("auth = \"refresh\"\n{rest}"));
    let config =
        good(&refresh("token_from = [\"body:/data/rt\", \"body:rt\", \"cookie:rt\", \"header:x-rt\"]"));
    let Access::Refresh(found) = &config.routes[0].access else { panic!("{:?}", config.routes[0].access) };
    assert_eq!((found.bodies.len(), found.places.len(), found.body_bytes), (2, 2, 64 << 10));
    refused(&refresh(""), "says where its token is");
    refused(&route("auth = \"refesh\""), "did you mean `refresh`?");
    refused(&route("token_from = \"cookie:rt\""), "is for routes with `auth = \"refresh\"`");
    refused(&refresh("token_from = \"query:rt\""), "in a URL");
    refused(&refresh("token_from = \"boddy:rt\""), "expected `body:MEMBER`");
    refused(&refresh("token_from = \"body:\""), "needs the name");
    refused(&refresh("token_from = []"), "must not be empty");
    refused(&refresh("token_from = [\"cookie:rt\", \"cookie:rt\"]"), "listed twice");
    refused(&refresh("token_from = \"cookie:rt\"\non_outage = \"allow\""), "would outlive the outage");
    // What the ledger allows elsewhere is not inherited here.
    let open = format!("[ledger]\non_outage = \"allow\"\n{}", refresh("token_from = \"cookie:rt\""));
    let policy = good(&open).routes[0].access.policy().map(|policy| policy.on_outage);
    assert_eq!(policy, Some(crate::route::OnOutage::Deny));
    refused("[token]\nbody_bytes = \"1MiB\"", "must lie between");
}

#[test]
fn refresh_tokens_lack_an_audience_unless_told_otherwise() {
    let issuer = &good(ISSUER).issuers[0];
    assert_eq!(issuer.refresh.required, ["exp", "iat", "sub", "iss"].map(Box::<str>::from));
    assert_eq!((issuer.refresh.audience.len(), issuer.refresh.types.len()), (0, 3));
    let told = |rest: &str| format!("{ISSUER}[issuers.refresh]\n{rest}\n");
    assert_eq!(good(&told("audience = [\"auth\"]")).issuers[0].refresh.audience, [Box::<str>::from("auth")]);
    refused(&told("required = [\"aud\"]"), "must name whom refresh tokens are for");
    refused(&told("audiences = []"), "did you mean `audience`?");
}

#[test]
fn observers_do_one_thing_each_and_none_that_would_do_nothing() {
    let ledger = "[ledger]\npresets = [\"native\", \"token-blacklist\"]\n";
    let route = |rest: &str| {
        format!("{ledger}{ISSUER}[[routes]]\npath = \"/x\"\nupstream = \"app\"\non_response = [{rest}]\n")
    };
    let all = "{ revoke = \"user\" }, { status = 303, revoke = \"token\" }, \
               { status = \"200, 201\", track = \"session\", token_at = \"accessToken\" }";
    assert_eq!(good(&route(all)).routes[0].observers.len(), 3);
    refused(&route("{ status = \"2xx\" }"), "this does nothing");
    refused(&route("{ revoke = \"tokn\" }"), "did you mean `token`?");
    refused(&route("{ revoke = \"token\", status = \"1xx\" }"), "expected a status");
    refused(&route("{ revoke = \"token\", token_at = \"/a\" }"), "this is about `track`");
    refused(&route("{ revoke = \"token\", track = \"session\", token_at = \"/a\" }"), "an entry of its own");
    refused(&route("{ track = \"session\" }"), "`token_at` is missing");
    refused(&route("{ track = \"session\", token_at = \"/a\", max_bytes = \"1GiB\" }"), "must lie between");
    refused(
        &route("{ revok = \"token\" }").replace("{ revok", "{ revoke = \"token\", revok"),
        "unknown key `revok`",
    );
    let public = route("{ revoke = \"token\" }").replace("on_response", "auth = \"public\"\non_response");
    refused(&public, "does nothing on a public route");
    let native = |rest: &str| route(rest).replace(", \"token-blacklist\"", "");
    refused(&native("{ track = \"session\", token_at = \"/a\" }"), "keeps sessions");
    let listed = |rest: &str| route(rest).replace("\"native\", ", "");
    refused(&listed("{ revoke = \"session\" }"), "would enforce this");
    refused(&listed("{ revoke = \"user\" }"), "would enforce this");
    good(&listed("{ revoke = \"token\" }"));
}
