//! Which request goes where, who may send it, and how a browser is told that it may not.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};

struct Scene {
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
}

fn scene(routes: &[&str]) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let setup = Setup::new().issuer(&issuer).upstream("app", &origin);
    let with = |setup: Setup, route: &&str| setup.route(&format!("upstream = \"app\"\n{route}"));
    Scene { gateway: routes.iter().fold(setup, with).start(), origin, issuer }
}

impl Scene {
    /// The route that served a request, by the access line's word; `None` where there is none.
    fn route(&self, method: &str, host: &str, path: &str) -> Option<String> {
        let mut raw = self.gateway.raw();
        raw.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        let response = raw.response();
        if response.status == 404 {
            assert_eq!(response.reason(), "no_route");
            self.origin.saw_nothing();
            return None;
        }
        assert_eq!(response.status, 200, "{method} {host} {path}: {response:?}");
        let id = self.origin.only().values("x-request-id").remove(0);
        self.origin.forget();
        let line = crate::support::eventually("the access line", || {
            self.gateway.log_lines().into_iter().find(|line| line["request_id"] == id.as_str()).ok_or(())
        });
        Some(line["route"].as_str().unwrap().to_owned())
    }

    fn status(&self, path: &str, token: Option<&str>) -> u16 {
        self.gateway.get(path, token).status
    }
}

#[test]
fn the_most_specific_route_serves_and_nothing_unmatched_reaches_a_service() {
    let scene = scene(&[
        "name = \"api\"\nauth = \"public\"\npath = \"/api/{*rest}\"",
        "name = \"user\"\nauth = \"public\"\npath = \"/api/users/{id}\"",
        "name = \"me\"\nauth = \"public\"\npath = \"/api/users/me\"",
        "name = \"post\"\nauth = \"public\"\npath = \"/api/users/{id}\"\nmethods = [\"POST\"]",
        "name = \"host\"\nauth = \"none\"\npath = \"/api/{*rest}\"\nhosts = [\"API.example.com\"]",
        "name = \"wild\"\nauth = \"public\"\npath = \"/{*rest}\"\nhosts = [\"*.example.com\"]",
        "name = \"deep\"\nauth = \"public\"\npath = \"/only\"\nhosts = [\"*.eu.example.com\"]",
    ]);
    for (method, host, path, expected) in [
        ("GET", "a.test", "/api/x/y", Some("api")),
        ("GET", "a.test", "/api/", Some("api")),
        ("GET", "a.test", "/api", None),
        ("GET", "a.test", "/apix", None),
        ("GET", "a.test", "/", None),
        ("GET", "a.test", "/api/users/7", Some("user")),
        ("POST", "a.test", "/api/users/7", Some("post")),
        ("GET", "a.test", "/api/users/me", Some("me")),
        ("POST", "a.test", "/api/users/me", Some("me")),
        ("GET", "a.test", "/api/users/7/posts", Some("api")),
        ("GET", "a.test", "/api/users/7?path=/api/users/me", Some("user")),
        ("GET", "api.example.com", "/api/users/me", Some("host")),
        ("GET", "Api.Example.Com:80", "/api/x", Some("host")),
        ("GET", "api.example.com", "/else", Some("wild")),
        ("GET", "x.eu.example.com", "/only", Some("deep")),
        ("GET", "x.eu.example.com", "/else", Some("wild")),
        ("GET", "example.com", "/else", None),
        ("GET", "evil-example.com", "/else", None),
        ("DELETE", "a.test", "/api/users/7", Some("user")),
    ] {
        assert_eq!(scene.route(method, host, path).as_deref(), expected, "{method} {host} {path}");
    }
}

#[test]
fn routes_with_other_parameter_names_in_the_same_place_all_serve() {
    let scene = scene(&[
        "name = \"one\"\nauth = \"public\"\npath = \"/{id}\"",
        "name = \"posts\"\nauth = \"public\"\npath = \"/{name}/posts\"",
        "name = \"a\"\nauth = \"public\"\npath = \"/a\"",
        "name = \"deep\"\nauth = \"public\"\npath = \"/{x}/a/{z}\"",
        "name = \"rest\"\nauth = \"public\"\npath = \"/{*r}\"",
    ]);
    for (path, expected) in [
        ("/7", "one"),
        ("/7/posts", "posts"),
        ("/a", "a"),
        ("/a/posts", "posts"),
        ("/a/a/a", "deep"),
        ("/b/a/posts", "deep"),
        ("/b/a", "rest"),
        ("/", "rest"),
    ] {
        assert_eq!(scene.route("GET", "a.test", path).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn routes_that_no_order_decides_are_refused_at_both_places() {
    let origin = Origin::start();
    let route = |path: &str| format!("upstream = \"app\"\nauth = \"public\"\npath = \"{path}\"");
    let clash = Setup::new().upstream("app", &origin).route(&route("/{id}/x")).route(&route("/{name}/x"));
    let refused = Gateway::fails(&clash.toml());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("matches the same requests as route").count(), 2, "{said}");
}

#[test]
fn required_optional_and_public_treat_a_token_as_they_say() {
    let scene = scene(&[
        "name = \"required\"\npath = \"/required\"",
        "name = \"optional\"\npath = \"/optional\"\nauth = \"optional\"",
        "name = \"picky\"\npath = \"/picky\"\nauth = \"optional\"\nrequire = { roles = [\"admin\"] }",
        "name = \"public\"\npath = \"/public\"\nauth = \"public\"",
    ]);
    let (good, expired) = (scene.issuer.good("alice"), scene.issuer.expired("alice"));
    let banned = scene.issuer.good("mallory");
    scene.gateway.ban("mallory");
    for (path, token, status, user) in [
        ("/required", None, 401, None),
        ("/required", Some(&good), 200, Some("alice")),
        ("/required", Some(&expired), 401, None),
        ("/required", Some(&banned), 403, None),
        ("/optional", None, 200, None),
        ("/optional", Some(&good), 200, Some("alice")),
        ("/optional", Some(&expired), 401, None),
        ("/optional", Some(&banned), 403, None),
        // What the route requires, nobody has who is nobody.
        ("/picky", None, 401, None),
        ("/picky", Some(&good), 403, None),
        ("/public", None, 200, None),
        ("/public", Some(&good), 200, None),
        ("/public", Some(&expired), 200, None),
        ("/public", Some(&banned), 200, None),
    ] {
        assert_eq!(scene.status(path, token.map(String::as_str)), status, "{path} {user:?}");
        if status == 200 {
            let told = scene.origin.only().values("x-user-id");
            assert_eq!(told.first().map(String::as_str), user, "{path}");
            scene.origin.forget();
        }
        scene.origin.saw_nothing();
    }
}

#[test]
fn scopes_roles_and_claims_are_required_where_a_route_says_so() {
    let scene = scene(&[
        "name = \"s\"\npath = \"/s\"\nrequire = { scopes = [\"read\", \"write\"] }",
        "name = \"r\"\npath = \"/r\"\nrequire = { roles = [\"admin\", \"owner\"] }",
        "name = \"c\"\npath = \"/c\"\nrequire = { claims = { tenant = \"acme\", \"/org/level\" = 3 } }",
    ]);
    let issuer = &scene.issuer;
    let token = |claim: &str, value: Value| issuer.token("alice", |claims| claims[claim] = value);
    let roles =
        |value: Value| issuer.token("alice", |claims| claims["realm_access"] = json!({ "roles": value }));
    let org = |tenant: Value, level: Value| {
        issuer.token("alice", |claims| {
            claims["tenant"] = tenant;
            claims["org"] = json!({ "level": level });
        })
    };
    for (path, token, status) in [
        ("/s", token("scope", json!("write read more")), 200),
        ("/s", token("scope", json!(["read", "write"])), 200),
        ("/s", token("scope", json!("read")), 403),
        ("/s", token("scope", json!("read writes")), 403),
        ("/s", token("scope", json!("READ WRITE")), 403),
        ("/s", issuer.good("alice"), 403),
        ("/r", roles(json!(["user", "owner"])), 200),
        ("/r", roles(json!(["user"])), 403),
        ("/r", roles(json!([])), 403),
        ("/r", issuer.good("alice"), 403),
        ("/c", org(json!("acme"), json!(3)), 200),
        ("/c", org(json!(["acme", "other"]), json!(3)), 200),
        ("/c", org(json!("acme"), json!("3")), 403),
        ("/c", org(json!("acm"), json!(3)), 403),
        ("/c", org(json!({ "acme": true }), json!(3)), 403),
        ("/c", issuer.good("alice"), 403),
    ] {
        let claims: Vec<&str> = token.split('.').collect();
        assert_eq!(scene.status(path, Some(&token)), status, "{path} {}", claims[1]);
    }
    assert_eq!(scene.origin.requests().len(), 5);
}

#[test]
fn a_browser_gets_a_page_or_is_sent_to_log_in_where_the_route_says_so() {
    let scene = scene(&[
        "name = \"page\"\npath = \"/page\"\nhtml = true",
        "name = \"login\"\npath = \"/login-first\"\nredirect = \"/login\"",
        "name = \"api\"\npath = \"/api\"",
    ]);
    let browser = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let ask = |method: &str, path: &str, headers: &[&str]| scene.gateway.request(method, path, headers, b"");
    let page = ask("GET", "/page", &[browser]);
    assert_eq!((page.status, page.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert_eq!(page.header("www-authenticate"), Some("Bearer"));
    assert!(page.text().starts_with("<!doctype html>") && page.text().contains("needs an access token"));
    for accept in ["Accept: */*", "Accept: application/json, text/html;q=0.5", "Accept: text/html;q=0"] {
        assert_eq!(ask("GET", "/page", &[accept]).reason(), "token_missing", "{accept}");
    }
    let sent = ask("GET", "/login-first", &[browser]);
    assert_eq!((sent.status, sent.header("location")), (302, Some("/login")));
    assert!(sent.body.is_empty());
    assert_eq!(ask("HEAD", "/login-first", &[browser]).status, 302);
    assert_eq!(ask("POST", "/login-first", &[browser]).status, 401, "a form would be lost");
    assert_eq!(ask("GET", "/login-first", &[]).status, 401);
    assert_eq!(ask("GET", "/api", &[browser]).reason(), "token_missing");
    scene.gateway.ban("mallory");
    let bearer = format!("Authorization: Bearer {}", scene.issuer.good("mallory"));
    let banned = ask("GET", "/login-first", &[browser, &bearer]);
    assert_eq!((banned.status, banned.reason().as_str()), (403, "user_banned"), "logging in would not help");
    scene.origin.saw_nothing();
}

#[test]
fn the_answer_of_the_service_is_passed_on_as_it_is() {
    let scene = scene(&["name = \"all\"\npath = \"/{*rest}\"\nauth = \"public\""]);
    for status in [200, 201, 204, 301, 304, 400, 401, 403, 404, 418, 500, 503] {
        scene.origin.answer(move |_| {
            let body = if matches!(status, 204 | 304) { "" } else { "of the service" };
            Answer::new(status, body).header("WWW-Authenticate", "Basic realm=\"own\"").header("X-Own", "1")
        });
        let response = scene.gateway.request("GET", "/x", &[], b"");
        assert_eq!((response.status, response.header("x-own")), (status, Some("1")));
        assert_eq!(response.header("www-authenticate"), Some("Basic realm=\"own\""));
    }
}

#[test]
fn thousands_of_routes_start_and_have_series_once_somebody_comes() {
    let origin = Origin::start();
    let route = |at: usize| {
        format!(
            "name = \"r{at}\"\npath = \"/service-{at}/{{id}}\"\nupstream = \"app\"\nauth = \"public\"\nrewrite = {{ strip_prefix = \"/service-{at}\" }}"
        )
    };
    let setup = (0..2000).fold(Setup::new().upstream("app", &origin), |setup, at| setup.route(&route(at)));
    let gateway = setup.start();
    for at in [0, 1000, 1999] {
        assert_eq!(gateway.get(&format!("/service-{at}/x?y"), None).status, 200);
        assert_eq!(origin.only().line(), "GET /x?y HTTP/1.1");
        origin.forget();
    }
    assert_eq!(gateway.get("/service-2000/x", None).reason(), "no_route");
    let count = |route: &str| {
        gateway
            .metric(&format!("portcullis_requests_total{{method=\"GET\",route=\"{route}\",status=\"2xx\"}}"))
    };
    crate::support::eventually("the request is counted", || match count("r1999") {
        Some(1.0) => Ok(()),
        other => Err(other),
    });
    assert_eq!(count("r7"), None, "a million series for nobody");
}

#[test]
fn a_route_that_is_got_answers_head_too() {
    let scene = scene(&[
        "name = \"get\"\npath = \"/a\"\nmethods = [\"GET\"]\nauth = \"public\"",
        "name = \"put\"\npath = \"/b\"\nmethods = [\"PUT\"]\nauth = \"public\"",
    ]);
    assert_eq!(scene.gateway.request("HEAD", "/a", &[], b"").status, 200);
    assert_eq!(scene.origin.only().line(), "HEAD /a HTTP/1.1");
    scene.origin.forget();
    assert_eq!(scene.gateway.request("HEAD", "/b", &[], b"").status, 404);
    assert_eq!(scene.gateway.request("OPTIONS", "/a", &[], b"").status, 404);
    scene.origin.saw_nothing();
}
