use super::*;
use crate::proxy::settings::Style;

const ASKED: &str = "[forward_auth]\nlisten = [\"127.0.0.1:9902\"]\nstyle = \"caddy\"\n";
const ALONE: &str = "[[routes]]\npath = \"/{*rest}\"\nauth = \"public\"\n";

fn alone(extra: &str) -> Result<Checked, Problems> {
    parse(&format!("{ASKED}{extra}\n{ALONE}"))
}

#[track_caller]
fn tells(result: Result<Checked, Problems>, message: &str) {
    let told = told(result);
    assert!(told.len() == 1 && told[0].contains(message), "{told:#?}");
}

#[test]
fn a_gateway_that_is_only_asked_needs_no_upstream_and_listens_for_nobody_else() {
    let checked = alone("").unwrap_or_else(|problems| panic!("{problems}"));
    let asked = checked.config.forward_auth.expect("the section");
    assert_eq!((asked.listen, asked.style), (vec!["127.0.0.1:9902".parse().expect("address")], Style::Caddy));
    let allowed = |address: &str| {
        asked.allow.iter().any(|it| it.contains(&address.parse::<std::net::IpAddr>().expect("address")))
    };
    assert!(allowed("127.0.0.1") && allowed("::1") && !allowed("192.0.2.1"), "loopback alone");
    assert!(checked.config.server.listen.is_empty() && checked.config.upstreams.is_empty());
    assert_eq!(checked.config.routes[0].upstream, None);

    let one = good("[forward_auth]\nlisten = \"127.0.0.1:9902\"\nstyle = \"envoy\"\n").forward_auth;
    assert_eq!(one.map(|asked| asked.listen.len()), Some(1));
    // Beside upstreams nothing changes for those who are forwarded for.
    let both = good(ASKED);
    assert_eq!(both.server.listen, ["0.0.0.0:8080".parse().expect("address")]);
    assert_eq!(both.routes[0].upstream.as_deref(), Some("app"));
    assert_eq!(good("").forward_auth, None);
}

#[test]
fn a_route_without_an_upstream_is_for_proxies_that_ask() {
    tells(parse(&format!("{UPSTREAM}{ROUTE}{ALONE}")), "`upstream` is missing");
    let with = |line: &str| alone(&format!("{ISSUER}[[routes]]\npath = \"/a\"\n{line}\n"));
    tells(with("on_response = [{ status = \"2xx\", revoke = \"user\" }]"), "answers are not seen");
    tells(with("timeouts = { read = \"5s\" }"), "nothing to wait for");
    tells(with("auth = \"refresh\"\ntoken_from = \"body:refreshToken\""), "bodies are not seen");
    assert!(with("auth = \"refresh\"\ntoken_from = \"cookie:refresh\"").is_ok());
    tells(
        parse(&format!("{ASKED}{UPSTREAM}[[routes]]\npath = \"/\"\nupstream = 5\nauth = \"public\"\n")),
        "expected a string",
    );
}

#[test]
fn the_style_and_the_addresses_are_asked_for() {
    refused("[forward_auth]\nlisten = [\"127.0.0.1:9902\"]", "`style` is missing");
    refused("[forward_auth]\nstyle = \"nginx\"", "`listen` is missing");
    refused("[forward_auth]\nlisten = [\"127.0.0.1:9902\"]\nstyle = \"ngnix\"", "did you mean `nginx`?");
    refused("[forward_auth]\nlisten = []\nstyle = \"nginx\"", "must not be empty");
    refused(&format!("{ASKED}allow = []"), "must not be empty");
    refused(
        "[forward_auth]\nlisten = [\"0.0.0.0:8080\"]\nstyle = \"nginx\"",
        "the server listens on it already",
    );
    refused(&format!("[admin]\nlisten = \"127.0.0.1:9902\"\n{ASKED}"), "listens on this address already");
    let everybody =
        with(&format!("{ASKED}allow = [\"0.0.0.0/0\"]")).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(everybody.warnings.to_string().contains("every address may ask"));
}
