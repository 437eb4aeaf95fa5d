//! What routes do with requests besides judging them.

use http::StatusCode;

use super::*;
use crate::route::rewrite::PathRewrite;
use crate::route::{Destination, Mode};

fn route(rest: &str) -> String {
    format!("[[routes]]\npath = \"/x/{{id}}/{{*rest}}\"\nupstream = \"app\"\nauth = \"public\"\n{rest}\n")
}

/// A route that leads nowhere.
fn own(rest: &str) -> String {
    format!("[[routes]]\npath = \"/x/{{id}}/{{*rest}}\"\nauth = \"public\"\n{rest}\n")
}

#[test]
fn rewriting_says_one_thing_in_one_way() {
    let rewrite = |inside: &str| route(&format!("rewrite = {{ {inside} }}"));
    let made = good(&rewrite(
        "strip_prefix = \"/x/\", add_prefix = \"/v2\", host = \"app.internal:80\", restore = true",
    ));
    let rewrite_made = made.routes[0].handling.rewrite.as_ref().expect("a rewrite");
    assert_eq!(rewrite_made.path, PathRewrite::Prefix { strip: "/x".into(), add: "/v2".into() });
    assert_eq!(rewrite_made.apply("/x/7/a"), "/v2/7/a");
    good(&rewrite("replace = \"/v2/{id}/{rest}\""));
    for (inside, message) in [
        ("strip_prefix = \"/y\"", "not every path of this route begins with this"),
        ("strip_prefix = \"/x/7\"", "not every path of this route begins with this"),
        ("strip_prefix = \"x\"", "the beginning of a path"),
        ("strip_prefix = \"/\"", "the beginning of a path"),
        ("strip_prefix = \"/x/{id}\"", "the beginning of a path"),
        ("add_prefix = \"/a/../b\"", "the beginning of a path"),
        ("add_prefix = \"/a?b\"", "the beginning of a path"),
        ("replace = \"/v2/{nobody}\"", "no parameter `{nobody}`"),
        ("replace = \"/v2/{sub}\"", "no parameter `{sub}`"),
        ("replace = \"/v2//{id}\"", "one form"),
        ("replace = \"/v2/{id}?a=b\"", "whole segment"),
        ("replace = \"/v2\", add_prefix = \"/y\"", "`replace` says the whole path"),
        ("replace = \"/v2\", restore = true", "can be undone"),
        ("restore = true", "this rewrites nothing"),
        ("", "this rewrites nothing"),
        ("host = \"a b\"", "expected a host"),
        ("host = \"u@h\"", "expected a host"),
        ("regex = \"x\"", "unknown key"),
    ] {
        let told = told(with(&rewrite(inside)));
        assert!(told.iter().any(|told| told.contains(message)), "{inside}\n{told:#?}");
    }
}

#[test]
fn headers_that_are_not_a_routes_to_touch_are_refused_at_their_place() {
    let request = |inside: &str| route(&format!("headers.request = {{ {inside} }}"));
    let response = |inside: &str| route(&format!("headers.response = {{ {inside} }}"));
    good(&request(
        "set = { X-Real-IP = \"{client_ip}\", x-who = \"{sub}/{claims.tenant}/{id}\" }, add = { x-a = \"1\" }, remove = [\"cookie\"]",
    ));
    good(&response("set = { strict-transport-security = \"max-age=1\" }, remove = [\"server\"]"));
    for (inside, message) in [
        ("set = { X_User_Id = \"1\" }", "`identity.headers` says"),
        ("add = { x-session-id = \"1\" }", "`identity.headers` says"),
        ("set = { host = \"x\" }", "`rewrite.host`"),
        ("remove = [\"Host\"]", "`rewrite.host`"),
        ("set = { Content-Length = \"1\" }", "framed"),
        ("set = { transfer-encoding = \"chunked\" }", "framed"),
        ("remove = [\"connection\"]", "framed"),
        ("add = { upgrade = \"h2c\" }", "framed"),
        ("set = { x-forwarded-for = \"1\" }", "the gateway itself"),
        ("set = { x_request_id = \"1\" }", "the gateway itself"),
        ("set = { \"a b\" = \"1\" }", "not the name of a header"),
        ("set = { x-a = \"1\\r\\nX-B: 2\" }", "cannot stand in a header"),
        ("set = { x-a = \"\\u0000{id}\" }", "cannot stand in a header"),
        ("set = { x-a = \"{nobody}\" }", "unknown placeholder"),
        ("set = { x-a = \"{token}\" }", "the token itself"),
        ("set = { x-a = \"\" }", "an empty value"),
        ("set = { x-a = \"1\", X-A = \"2\" }", "named twice"),
        ("set = { x-a = \"1\" }, remove = [\"x-a\"]", "removed too"),
    ] {
        refused(&request(inside), message);
    }
    for (inside, message) in [
        ("set = { content-encoding = \"gzip\" }", "how the body is written"),
        ("remove = [\"transfer-encoding\"]", "framed"),
        ("set = { x-a = \"1\\n2\" }", "cannot stand in a header"),
    ] {
        refused(&response(inside), message);
    }
    let both = "cors = { origins = [\"*\"] }\nheaders.response.set = { access-control-max-age = \"1\" }";
    refused(&route(both), "on this route `cors` says");
    let told = told(with(&request("set = { x-fine = \"1\", Te = \"trailers\" }")));
    assert_eq!(told, ["5:43: this header is part of how messages are framed and cannot be touched"]);
}

#[test]
fn a_value_that_may_be_a_secret_is_not_told() {
    let problems = with(&route("headers.request.set = { x-a = \"{${PASSWORD}}\" }")).err().expect("problems");
    assert!(!problems.to_string().contains("hunter2"), "{problems}");
}

#[test]
fn origins_are_written_as_browsers_write_them() {
    let cors = |inside: &str| route(&format!("cors = {{ {inside} }}"));
    for origin in [
        "https://a.example",
        "http://localhost:5173",
        "https://*.a.example:8443",
        "null",
        "capacitor://localhost",
        "http://[::1]:3000",
    ] {
        good(&cors(&format!("origins = [\"{origin}\"], credentials = true")));
    }
    for origin in [
        "a.example",
        "https://a.example/",
        "https://A.example",
        "HTTPS://a.example",
        "https://a.example:443",
        "http://a.example:80",
        "https://",
        "https://*",
        "https://*.",
        "https://a.*.example",
        "https://u@a.example",
        "",
        "https://a.example.",
        "**",
        "https://a.example, https://b.example",
    ] {
        refused(&cors(&format!("origins = [\"{origin}\"]")), "as browsers write it");
    }
    refused(&cors("origins = [\"*\"], credentials = true"), "every page use its visitors' cookies");
    refused(&cors("origins = [\"*\", \"https://a.example\"]"), "stands alone");
    refused(&cors("origins = []"), "must not be empty");
    refused(&cors(""), "`origins` is missing");
    refused(&cors("origins = [\"*\"], headers = [\"*\", \"a\"]"), "stands alone");
    refused(&cors("origins = [\"*\"], headers = [\"a b\"]"), "not the name of a header");
    refused(&cors("origins = [\"null\"], credentials = true, expose = [\"*\"]"), "name the headers");
    refused(&cors("origins = [\"*\"], methods = [\"get\"]"), "capital letters");
}

#[test]
fn a_route_leads_to_one_place() {
    let config = good(&own("redirect = { to = \"/y/{rest}?{query}\" }"));
    let Destination::Redirect(redirect) = &config.routes[0].destination else { panic!("a redirect") };
    assert_eq!(redirect.status, StatusCode::PERMANENT_REDIRECT);
    good(&own("hosts = [\"a.example\"]\nredirect = { to = \"https://{host}{path}?{query}\", status = 301 }"));
    let config =
        good(&own("answer = { status = 404, body = \"no\", headers = { cache-control = \"max-age=60\" } }"));
    let Destination::Answer(fixed) = &config.routes[0].destination else { panic!("an answer") };
    assert_eq!((fixed.status, &*fixed.body, fixed.headers.len()), (StatusCode::NOT_FOUND, &b"no"[..], 2));

    refused(&own(""), "`upstream` is missing");
    refused(&own("redirect = { to = \"https://{host}{path}\" }"), "without `hosts`");
    for to in ["//evil/{rest}", "https://{rest}", "https://{host}{rest}", "{path}", "x", "/{query}", "/a\\nb"]
    {
        let told = told(with(&own(&format!("hosts = [\"h\"]\nredirect = {{ to = \"{to}\" }}"))));
        assert_eq!(told.len(), 1, "{to}: {told:?}");
    }
    refused(&own("redirect = { to = \"/y\", status = 304 }"), "a redirect is 301");
    refused(&own("redirect = { to = \"/y\", status = 200 }"), "must lie between");
    refused(&own("redirect = { to = \"/y\" }\nanswer = { status = 200 }"), "one is enough");
    refused(&route("answer = { status = 200 }"), "`upstream` does nothing here");
    refused(&own("answer = {}\nrewrite = { add_prefix = \"/a\" }"), "`rewrite` does nothing here");
    refused(&own("answer = { status = 204, body = \"x\" }"), "has no body");
    refused(&own("answer = { status = 100 }"), "must lie between");
    refused(&own("answer = { body = \"x\", body_file = \"gateway.toml\" }"), "one is enough");
    refused(&own("answer = { body_file = \"no such file\" }"), "cannot be read");
    refused(&own("answer = { headers = { content-length = \"3\" } }"), "framed");
    refused(&own("answer = { headers = { content-type = \"a/b\" } }"), "`content_type` says");
    refused(&own("answer = { content_type = \"html\" }"), "a media type");
}

#[test]
fn browsers_are_told_the_way_back_only_where_they_are_sent_somewhere() {
    let guarded = |rest: &str| format!("{ISSUER}[[routes]]\npath = \"/x\"\nupstream = \"app\"\n{rest}\n");
    let config = good(&guarded("html = true\nredirect = \"/login\"\nreturn_to = \"next\""));
    let login = config.routes[0].denials.login.as_ref().expect("a login page");
    assert_eq!((&*login.to, login.return_to.as_deref()), ("/login", Some("next")));
    refused(&guarded("return_to = \"next\""), "say where that is");
    refused(&guarded("redirect = \"/login\"\nreturn_to = \"a&b\""), "the name of a parameter");
}

#[test]
fn maintenance_holds_for_every_route_that_says_nothing_else() {
    let all =
        "[server]\nmaintenance = { retry_after = \"5m\", except = [\"10.0.0.0/8\"], body = \"soon\" }\n";
    let config = good(&format!("{all}{}", route("maintenance = false")));
    let [own, inherited] = &config.routes[..] else { panic!("two routes") };
    assert!(own.handling.maintenance.is_none());
    let maintenance = inherited.handling.maintenance.as_ref().expect("of the server");
    assert_eq!((maintenance.status, maintenance.retry_after), (503, Some(Duration::from_secs(300))));
    assert!(maintenance.concerns([192, 0, 2, 1].into()) && !maintenance.concerns([10, 1, 2, 3].into()));
    assert!(good(&route("maintenance = true")).routes[0].handling.maintenance.is_some());
    refused(&route("maintenance = \"on\""), "expected `true` or `false`");
    refused(&route("maintenance = { status = 200 }"), "must lie between");
    refused(&route("maintenance = { except = [\"home\"] }"), "expected a network");
    refused(&route("maintenance = { content_type = \"text/html\" }"), "which is not given");
}

#[test]
fn a_body_may_be_as_long_as_its_route_says_else_as_the_server_says() {
    let limits = "[server.limits]\nbody_bytes = \"1KiB\"\n";
    let config = good(&format!("{limits}{}", route("body_bytes = \"1GiB\"\nmode = \"observe\"")));
    let bytes: Vec<_> = config.routes.iter().map(|route| route.handling.body_bytes).collect();
    assert_eq!(bytes, [1 << 30, 1 << 10]);
    assert_eq!(config.routes[0].handling.mode, Mode::Observe);
    refused(&route("mode = \"watch\""), "expected one of `enforce`, `observe`");
}

#[test]
fn what_is_in_effect_of_routes_is_a_configuration_again() {
    let all = [
        "[server]\nmaintenance = { retry_after = \"5m\", body = \"soon\" }\n".to_owned(),
        route(
            "rewrite = { strip_prefix = \"/x\", restore = true }\nbody_bytes = \"1GiB\"\nmode = \"observe\"\nmaintenance = false",
        ),
        route(
            "hosts = [\"a.b\"]\nheaders = { request = { set = { x-a = \"{sub}\" } }, response = { add = { x-b = \"1\" } } }\ncors = { origins = [\"null\"] }",
        ),
        own("hosts = [\"b.b\"]\nredirect = { to = \"https://{host}/{rest}\" }"),
        own("hosts = [\"c.b\"]\nanswer = { status = 404, body = \"no\", headers = { x-a = \"1\" } }"),
    ];
    let checked = with(&all.concat()).unwrap_or_else(|problems| panic!("{problems}"));
    let again = parse(&toml::to_string(&checked.effective).expect("TOML"));
    let again = again.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(again.config == checked.config && again.effective == checked.effective);
}
