//! Whose tokens are believed, and by which keys.

use super::*;
use crate::verify::KeySource;

#[test]
fn issuers_say_clearly_whom_they_believe() {
    good(ISSUER);
    let changed = |from: &str, to: &str| ISSUER.replace(from, to);
    refused(&changed("[\"HS256\"]", "[\"HS256\", \"RS256\"]"), "must not be mixed");
    refused(&changed("audience = [\"x\"]\n", ""), "`audience` must name");
    good(&changed("audience = [\"x\"]", "required = [\"exp\"]"));
    refused(&changed("keys", "jwks_file = \"Cargo.toml\"\nkeys"), "keys come from one place");
    refused(
        &changed("keys = [{ alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" }]", ""),
        "no keys",
    );
    refused(&changed("secret", "pem"), "takes a `secret` key");
    refused(&changed("secret =", "secret_base64 = \"AAAA\", secret ="), "exactly one of");
    refused(&changed("alg = \"HS256\"", "alg = \"HS512\""), "not in the issuer's `algorithms`");
    refused(&format!("{ISSUER}jwks = {{ refresh = \"1m\" }}"), "about key sets that are fetched");
    refused(&format!("{ISSUER}refresh_lifetime = \"1m\""), "shorter than `token_lifetime`");
    refused(&format!("{ISSUER}realm = \"a/b\""), "a realm is of letters");
    refused(
        "[[issuers]]\nissuer = \"a\"\naudience = [\"x\"]\nalgorithms = [\"HS256\"]\njwks_url = \"https://h/\"",
        "not published",
    );
}

#[test]
fn keys_are_fetched_over_https_unless_told_otherwise() {
    let remote = |issuer: &str, source: &str| {
        format!("[[issuers]]\nissuer = \"{issuer}\"\naudience = [\"x\"]\nalgorithms = [\"RS256\"]\n{source}")
    };
    refused(&remote("a", "jwks_url = \"http://h/jwks\""), "plain HTTP");
    refused(&remote("http://h", "discovery = true"), "plain HTTP");
    refused(&remote("https://h", "discovery = false"), "names no keys");
    for source in ["jwks_url = \"http://127.0.0.1:1/\"", "jwks_url = \"http://h/\"\njwks.allow_http = true"] {
        let config = good(&remote("a", source));
        assert!(matches!(config.issuers[0].keys, KeySource::Url { .. }));
    }
}

#[test]
fn several_issuers_each_name_a_realm_of_their_own() {
    let issuer = |name: &str, realm: &str| {
        format!("{}{realm}\n", ISSUER.replace("issuer = \"a\"", &format!("issuer = \"{name}\"")))
    };
    let two = |a: &str, b: &str| format!("{}{}", issuer("a", a), issuer("b", b));
    good(&two("realm = \"a\"", "realm = \"b\""));
    good(&two("realm = \"\"", "realm = \"\""));
    refused(&two("realm = \"a\"", ""), "each names its `realm`");
    refused(&two("realm = \"a\"", "realm = \"\""), "cannot stand beside named ones");
    refused(&format!("{}{}", issuer("a", "realm = \"a\""), issuer("a", "realm = \"b\"")), "configured twice");
}
