//! Chromium: a page on one origin, the gateway on another.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::gateway::Setup;
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};

/// `localhost` and `127.0.0.1` are two origins to a browser. Cookies do not know ports: the page's host keeps them from
/// being its own.
#[test]
fn a_page_of_an_allowed_origin_reads_answers_and_denials_and_no_other_page_does() {
    let issuer = Issuer::new(Algorithm::ES256);
    let pages = Origin::answering(|_| Answer::new(200, "<!doctype html>").header("Content-Type", "text/html"));
    let service = Origin::answering(|seen| {
        Answer::new(200, seen.line()).header("Content-Type", "text/plain").header("X-Count", "7")
    });
    let allowed = format!("http://localhost:{}", pages.addr().port());
    let gateway = Setup::new()
        .issuer(&issuer)
        .upstream("app", &service)
        .route(&format!(
            "path = \"/{{*rest}}\"\nupstream = \"app\"\ncors = {{ origins = [\"{allowed}\"], credentials = true }}"
        ))
        .start();
    let target = format!("http://localhost:{}/api/items?x=1", gateway.addr().port());
    let browser = Browser::borrow();
    let fetch = "try {
            const answer = await fetch(given.url, given.options);
            return { status: answer.status, text: await answer.text() };
        } catch (error) { return { blocked: error.name }; }";
    let ask = |options: Value| browser.run(fetch, &json!({ "url": target, "options": options }));
    let token = issuer.good("alice");
    // A method and a field that a form could not send: asked for first.
    let put = |token: &str| {
        json!({ "method": "PUT", "body": "{}", "credentials": "include", "headers": {
            "Authorization": format!("Bearer {token}"), "Content-Type": "application/json", "X-Own": "1",
        } })
    };

    browser.open(&format!("{allowed}/"));
    browser.forget_cookies();
    assert_eq!(ask(put(&token)), json!({ "status": 200, "text": "PUT /api/items?x=1 HTTP/1.1" }));
    let seen = service.requests();
    assert_eq!(seen.iter().map(|it| it.line()).collect::<Vec<_>>(), ["PUT /api/items?x=1 HTTP/1.1"], "no preflight");
    // By cookie: set by the page's host, which is the gateway's too, whatever the port.
    browser.run("document.cookie = 'access_token=' + given", &json!(token));
    let by_cookie = ask(json!({ "credentials": "include" }));
    assert_eq!(by_cookie["status"], 200, "{by_cookie}");
    assert_eq!(ask(json!({ "credentials": "omit" }))["status"], 401, "a denial can be read as well");
    browser.forget_cookies();

    gateway.ban("alice");
    let banned = ask(put(&token));
    assert_eq!(banned["status"], 403, "{banned}");
    assert!(banned["text"].as_str().unwrap().contains("user_banned"), "{banned}");
    gateway.activate("alice");

    service.forget();
    browser.open(&format!("http://127.0.0.1:{}/", pages.addr().port()));
    assert_eq!(ask(put(&token)), json!({ "blocked": "TypeError" }));
    service.saw_nothing();
}
