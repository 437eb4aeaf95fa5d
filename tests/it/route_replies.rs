//! Answers that routes give themselves: redirects, fixed answers, maintenance; and denials for people.

use std::fs;

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::http2::Http2;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Response;

fn ask(gateway: &Gateway, target: &str, host: &str) -> Response {
    let mut raw = gateway.raw();
    raw.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    raw.response()
}

fn setup(issuer: &Issuer, origin: &Origin) -> Setup {
    let everything = "name = \"all\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\"";
    Setup::new().server("h2c = true").issuer(issuer).upstream("app", origin).route(everything)
}

#[test]
fn a_redirect_leads_where_its_route_says_whatever_a_client_sends() {
    let (issuer, origin) = (Issuer::new(Algorithm::ES256), Origin::start());
    let gateway = setup(&issuer, &origin)
        .route("path = \"/secure/{*rest}\"\nhosts = [\"a.test\", \"*.b.test\"]\nauth = \"public\"\nredirect = { to = \"https://{host}{path}?{query}\" }")
        .route("path = \"/old/{*rest}\"\nauth = \"public\"\nredirect = { to = \"/new/{rest}?from={path}&{query}\", status = 301 }")
        .route("path = \"/mine\"\nredirect = { to = \"https://id.test/of/{claims.name}\", status = 303 }")
        .start();
    for (target, host, status, location) in [
        ("/secure/x%20y?a=b&c=%0d%0a", "A.test:8080", 308, "https://a.test/secure/x%20y?a=b&c=%0d%0a"),
        ("/secure/", "x.b.test.", 308, "https://x.b.test/secure/"),
        ("/old/a/b?c", "evil.test", 301, "/new/a/b?from=%2Fold%2Fa%2Fb&c"),
        ("/old/", "evil.test", 301, "/new/?from=%2Fold%2F"),
        ("http://evil.test/old/evil.test", "evil.test", 301, "/new/evil.test?from=%2Fold%2Fevil.test"),
    ] {
        let sent = ask(&gateway, target, host);
        assert_eq!((sent.status, sent.header("location")), (status, Some(location)), "{target} {host}");
        assert_eq!((sent.header("content-length"), sent.body.len()), (Some("0"), 0));
    }
    // Any other host is another route's business.
    assert_eq!(ask(&gateway, "/secure/x", "evil.test").status, 200);
    origin.forget();
    for target in ["/old//evil.test", "/old/%2fevil.test", "/old/\\evil.test", "/old/a%0d%0aX-Evil:1"] {
        let refused = ask(&gateway, target, "a.test");
        assert_eq!(
            (refused.reason().as_str(), refused.header("location")),
            ("request_ambiguous", None),
            "{target}"
        );
    }
    // Under `auth` as any other route; what is not plain in a claim is escaped.
    assert_eq!(gateway.get("/mine", None).reason(), "token_missing");
    assert_eq!(gateway.get("/mine", Some(&issuer.good("alice"))).status, 400, "there is no such claim");
    let token = issuer.token("alice", |claims| claims["name"] = "a/../b?#@x".into());
    let sent = gateway.get("/mine", Some(&token));
    assert_eq!(
        (sent.status, sent.header("location")),
        (303, Some("https://id.test/of/a%2F..%2Fb%3F%23%40x"))
    );
    let mut client = Http2::plain(gateway.addr());
    let sent = client.get("a.test", "/secure/x?y", &[]).unwrap();
    assert_eq!((sent.status, sent.header("location")), (308, Some("https://a.test/secure/x?y")));
    origin.saw_nothing();
}

#[test]
fn a_fixed_answer_is_given_under_the_routes_auth_and_no_service_is_asked() {
    let (issuer, origin) = (Issuer::new(Algorithm::ES256), Origin::start());
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    fs::write(&page, "<p>hello</p>").unwrap();
    let gateway = setup(&issuer, &origin)
        .route("path = \"/robots.txt\"\nauth = \"public\"\nmethods = [\"GET\"]\nanswer = { body = \"User-agent: *\\nDisallow: /\\n\", headers = { cache-control = \"max-age=60\" } }")
        .route("path = \"/gone\"\nauth = \"public\"\nanswer = { status = 410 }")
        .route("path = \"/nothing\"\nauth = \"public\"\nanswer = { status = 204 }")
        .route(&format!("path = \"/page\"\nanswer = {{ body_file = \"{}\" }}\nheaders.response.set = {{ x-who = \"{{sub}}\", cache-control = \"private\" }}", page.display()))
        .start();
    let robots = gateway.get("/robots.txt", None);
    assert_eq!((robots.status, robots.text().as_str()), (200, "User-agent: *\nDisallow: /\n"));
    assert_eq!(
        (robots.header("content-type"), robots.header("cache-control")),
        (Some("text/plain; charset=utf-8"), Some("max-age=60"))
    );
    let head = gateway.request("HEAD", "/robots.txt", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("26"), 0));
    assert_eq!(gateway.get("/gone", None).status, 410);
    let nothing = gateway.get("/nothing", None);
    assert_eq!(
        (nothing.status, nothing.header("content-length"), nothing.header("content-type")),
        (204, None, None)
    );
    assert_eq!(gateway.get("/page", None).reason(), "token_missing");
    let page = gateway.get("/page", Some(&issuer.good("alice")));
    assert_eq!(
        (page.text().as_str(), page.header("content-type")),
        ("<p>hello</p>", Some("text/html; charset=utf-8"))
    );
    assert_eq!((page.header("x-who"), page.header("cache-control")), (Some("alice"), Some("private")));
    origin.saw_nothing();

    // A body that nobody reads does not become the next request.
    let mut raw = gateway.raw();
    raw.send(
        b"POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n",
    );
    assert_eq!(raw.response().status, 410);
    raw.send(b"GET /gone HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(raw.response().status, 410);
    raw.assert_closed();
    origin.saw_nothing();
    let line = eventually("the access line", || {
        gateway.log_lines().into_iter().find(|line| line["path"] == "/robots.txt").ok_or(())
    });
    assert_eq!((line["verdict"].as_str(), line["upstream"].is_null()), (Some("allow"), true));
}

#[test]
fn maintenance_is_switched_by_a_reload_and_lets_some_in() {
    let (issuer, origin) = (Issuer::new(Algorithm::ES256), Origin::start());
    let guarded = "path = \"/{*rest}\"\nupstream = \"app\"\nhtml = true";
    let set = |server: &str, own: &str| {
        let setup = Setup::new().server("trusted_proxies = [\"127.0.0.1\"]").server(server);
        let setup = setup.issuer(&issuer).upstream("app", &origin).route(guarded);
        setup.route(&format!("path = \"/status\"\nauth = \"public\"\nupstream = \"app\"\n{own}")).toml()
    };
    let gateway = Gateway::start(&set("", ""));
    let token = issuer.good("alice");
    assert_eq!(gateway.get("/x", Some(&token)).status, 200);
    origin.forget();
    let text = "<h1>Back soon</h1>";
    gateway.rewrite_config(&set(
        &format!("maintenance = {{ retry_after = \"10m\", except = [\"192.0.2.0/24\"], body = \"{text}\", content_type = \"text/html\" }}"),
        "maintenance = false",
    ));
    gateway.signal("HUP");
    let down = eventually("maintenance begins", || {
        let answer = gateway.get("/x", Some(&token));
        if answer.status == 503 { Ok(answer) } else { Err(answer) }
    });
    assert_eq!((down.header("retry-after"), down.text().as_str()), (Some("600"), text));
    assert_eq!(
        (down.header("content-type"), down.header("cache-control")),
        (Some("text/html"), Some("no-store"))
    );
    origin.forget();
    assert_eq!(gateway.get("/x", None).status, 503, "nobody is asked for a token");
    origin.saw_nothing();
    assert_eq!(gateway.get("/status", None).status, 200);
    let from = |address: &str, token: Option<&str>| {
        let mut headers = vec![format!("X-Forwarded-For: {address}")];
        headers.extend(token.map(|token| format!("Authorization: Bearer {token}")));
        gateway.request("GET", "/x", &headers.iter().map(String::as_str).collect::<Vec<_>>(), b"").status
    };
    assert_eq!(
        (from("192.0.2.9", Some(&token)), from("192.0.2.9", None), from("198.51.100.1", Some(&token))),
        (200, 401, 503)
    );
    let series = "portcullis_verdicts_total{reason=\"maintenance\",route=\"rest\",verdict=\"deny\"}";
    eventually("the denials are counted", || match gateway.metric(series) {
        Some(count) if count >= 3.0 => Ok(()),
        other => Err(other),
    });

    gateway.rewrite_config(&set("maintenance = true", ""));
    gateway.signal("HUP");
    let plain = eventually("the plain form", || {
        let answer = gateway.get("/status", None);
        if answer.status == 503 { Ok(answer) } else { Err(answer) }
    });
    assert_eq!((plain.reason().as_str(), plain.header("retry-after")), ("maintenance", None));
    let page = gateway.request("GET", "/x", &["Accept: text/html"], b"");
    assert!(
        page.text().contains("being maintained")
            && page.header("content-type") == Some("text/html; charset=utf-8")
    );
    gateway.rewrite_config(&set("", ""));
    gateway.signal("HUP");
    eventually("maintenance ends", || match gateway.get("/x", Some(&token)).status {
        200 => Ok(()),
        other => Err(other),
    });
}

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

#[test]
fn a_browser_is_sent_to_log_in_with_the_way_back_and_a_script_is_not() {
    let (issuer, origin) = (Issuer::new(Algorithm::ES256), Origin::start());
    let gateway = Setup::new()
        .issuer(&issuer)
        .upstream("app", &origin)
        .route("path = \"/{*rest}\"\nupstream = \"app\"\nredirect = \"/login?lang=en\"\nreturn_to = \"next\"\nhtml = true")
        .start();
    let get = |target: &str, headers: &[&str]| gateway.request("GET", target, headers, b"");
    let sent = get("/a/b?c=d&e=http://evil.test/", &[BROWSER, "Sec-Fetch-Mode: navigate"]);
    assert_eq!(
        (sent.status, sent.header("location")),
        (302, Some("/login?lang=en&next=%2Fa%2Fb%3Fc%3Dd%26e%3Dhttp%3A%2F%2Fevil.test%2F"))
    );
    assert_eq!((sent.header("cache-control"), sent.header("vary")), (Some("no-store"), Some("Accept")));
    // Whoever is told the way back is not told the token.
    let sent = get(&format!("/a?x&access_token={}", issuer.expired("alice")), &[BROWSER]);
    assert_eq!(sent.header("location"), Some("/login?lang=en&next=%2Fa%3Fx"));
    // The way back is a path of this host, however the target was written.
    let mut raw = gateway.raw();
    raw.send(format!(
        "GET http://h.test/x HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n{BROWSER}\r\n\r\n"
    ));
    assert_eq!(raw.response().header("location"), Some("/login?lang=en&next=%2Fx"));
    for script in ["Sec-Fetch-Mode: cors", "Sec-Fetch-Mode: same-origin", "X-Requested-With: XMLHttpRequest"]
    {
        assert_eq!(get("/a", &[BROWSER, script]).status, 401, "{script}");
    }
    assert_eq!(get("/a", &["Accept: */*"]).reason(), "token_missing");
    assert_eq!(gateway.request("POST", "/a", &[BROWSER], b"x").status, 401, "a form would be lost");
    let own = get("/login?lang=en&next=%2F", &[BROWSER]);
    assert_eq!((own.status, own.header("content-type")), (401, Some("text/html; charset=utf-8")), "no loop");
    gateway.ban("mallory");
    let bearer = format!("Authorization: Bearer {}", issuer.good("mallory"));
    assert_eq!(get("/a", &[BROWSER, &bearer]).status, 403, "logging in would not help");
    origin.saw_nothing();
    // What the service answers is passed on as it is; that it cannot be reached is told as a page too.
    origin.answer(|_| Answer { raw: Some(b"nonsense\r\n\r\n".to_vec()), close: true, ..Answer::ok() });
    let good = format!("Authorization: Bearer {}", issuer.good("alice"));
    let broken = gateway.request("POST", "/a", &[BROWSER, &good], b"x");
    assert_eq!((broken.status, broken.header("content-type")), (502, Some("text/html; charset=utf-8")));
}
