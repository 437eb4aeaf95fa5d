//! Mistakes that people bring along from other programs, and those that would be noticed too late.

use super::*;

#[test]
fn wildcards_and_parameters_of_other_programs_are_refused_and_ours_are_named() {
    for (path, instead) in [("/admin/*", "{*rest}"), ("/admin/**", "{*rest}"), ("/users/:id", "{name}")] {
        let text = format!("{ISSUER}{UPSTREAM}{ROUTE}[[routes]]\npath = \"{path}\"\nupstream = \"app\"\n");
        let told = told(parse(&text));
        assert!(told.len() == 1 && told[0].contains(instead), "{path}: {told:#?}");
    }
}

#[test]
fn a_database_in_memory_is_warned_of() {
    for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite://x.db?mode=memory"] {
        let checked = parse(&format!("{ISSUER}{UPSTREAM}{ROUTE}[database]\nurl = \"{url}\"\n"));
        let warnings = checked.expect("a configuration").warnings.to_string();
        assert!(warnings.contains("forgets every revocation"), "{url}: {warnings}");
    }
}

#[test]
fn each_bad_key_is_told_at_its_own_place() {
    let issuer = "[[issuers]]\nissuer = \"a\"\naudience = [\"x\"]\nalgorithms = [\"HS256\"]\nkeys = [\n\
                  { kid = \"a\", alg = \"HS256\", secret = \"short\" },\n\
                  { kid = \"b\", alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" },\n\
                  { kid = \"c\", alg = \"HS256\", secret = \"shorter\" },\n\
                  { kid = \"b\", alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" },\n]\n";
    let told = told(with(issuer));
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[0].starts_with("6:29:") && told[0].ends_with("at least 32 bytes, this one has 5"),
        "{told:#?}"
    );
    assert!(told[1].starts_with("8:29:"), "{told:#?}");
    assert!(told[2].starts_with("9:1:") && told[2].ends_with("another key has this `kid`"), "{told:#?}");
}

#[test]
fn a_header_that_nobody_can_fill_is_warned_of() {
    let header = "[identity]\nheaders = { x-user-email = \"{profile.email}\" }\n";
    let checked = with(header).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings: Vec<_> = checked.warnings.lines().collect();
    assert!(warnings.len() == 1 && warnings[0].contains("`user-cache`"), "{warnings:#?}");
    assert_eq!(checked.config.identity.headers.len(), 1, "clients' own copies are removed all the same");
    refused("[identity]\nheaders = { x-hash = \"{profile.password_hash}\" }\n", "secret");
}
