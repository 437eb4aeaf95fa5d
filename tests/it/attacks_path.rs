//! Path and host: two parsers must never read one request differently. Every test speaks through a raw
//! socket, and says exactly what the service behind saw.

use jsonwebtoken::Algorithm;

use crate::attacks_common::Scene;
use crate::support::gateway::Setup;
use crate::support::issuer::Issuer;
use crate::support::origin::Origin;
use crate::support::raw::Response;

/// `/public/…` is open to everybody, `/api/…` needs a token, `/admin/…` the role `admin`; by host, `admin.test` needs
/// that role too.
const ROUTES: [&str; 4] = [
    "name = \"public\"\npath = \"/public/{*rest}\"\nupstream = \"app\"\nauth = \"public\"",
    "name = \"api\"\npath = \"/api/{*rest}\"\nupstream = \"app\"",
    "name = \"admin\"\npath = \"/admin/{*rest}\"\nupstream = \"app\"\nrequire = { roles = [\"admin\"] }",
    "name = \"admin-host\"\nhosts = [\"admin.test\"]\npath = \"/{*rest}\"\nupstream = \"app\"\n\
     require = { roles = [\"admin\"] }",
];

fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    Scene::with(|setup| change(ROUTES.iter().fold(setup, |setup, route| setup.route(route))))
}

impl Scene {
    /// One GET whose request line and Host lines are exactly these bytes, with a good token of a user without roles.
    fn target(&self, target: &[u8], hosts: &str) -> Response {
        let rest = self.bearer() + "Connection: close\r\n\r\n";
        let head = [b"GET ", target, b" HTTP/1.1\r\n", hosts.as_bytes(), rest.as_bytes()].concat();
        self.gateway.raw().send(head).response()
    }

    fn refused(&self, target: &[u8], why: &str) {
        let response = self.target(target, "Host: a.test\r\n");
        let shown = String::from_utf8_lossy(target).into_owned();
        assert_eq!(response.status, 400, "{shown} ({why}): {response:?}");
        self.origin.saw_nothing();
    }

    fn ambiguous(&self, target: &[u8], why: &str) {
        let response = self.target(target, "Host: a.test\r\n");
        let shown = String::from_utf8_lossy(target).into_owned();
        assert_eq!(response.status, 400, "{shown} ({why}): {response:?}");
        assert_eq!(response.reason(), "request_ambiguous", "{shown} ({why})");
        self.origin.saw_nothing();
    }
}

/// Paths that some parser resolves to `/admin/…`, or simply reads in its own way.
const AMBIGUOUS: &[(&[u8], &str)] = &[
    (b"/public/../admin/x", "CVE-2019-9901: dot segments"),
    (b"/public/./x", "CVE-2019-9901"),
    (b"/public/..", "CVE-2019-9901: at the end"),
    (b"/public/.", "CVE-2019-9901"),
    (b"/public/%2e%2e/admin/x", "CVE-2019-9901: encoded dots"),
    (b"/public/%2E%2e/admin/x", "CVE-2019-9901: in both cases"),
    (b"/public/.%2e/admin/x", "CVE-2026-33494: half encoded"),
    (b"/public/%2e/x", "CVE-2026-33494"),
    (b"/public/..%2fadmin/x", "CVE-2021-29492: encoded slash"),
    (b"/public%2fx", "CVE-2021-29492"),
    (b"/public/%2Fadmin", "CVE-2021-29492"),
    (b"/public/..%5cadmin/x", "CVE-2021-31920: encoded backslash"),
    (b"/public/x%5Cy", "CVE-2021-31920"),
    (b"/public/..\\admin\\x", "CVE-2021-31920: backslash"),
    (b"/public//admin/x", "CVE-2021-31920: merged slashes"),
    (b"//admin/x", "CVE-2021-31920: an authority to some"),
    (b"/public/x//", "CVE-2021-31920"),
    (b"/public/..;/admin/x", "CVE-2026-73551: parameters hide dots"),
    (b"/public/x;y=1", "CVE-2026-73511: parameters"),
    (b"/public;/x", "CVE-2026-73553"),
    (b"/public/..%3B/admin/x", "CVE-2026-73551: parameters that are decoded first"),
    (b"/public/%2e.%3bx=1/admin/x", "CVE-2026-73551"),
    (b"/admin/x#/public/x", "CVE-2021-32779: raw fragment"),
    (b"/public/x#", "CVE-2021-32779: empty fragment"),
    (b"/public/%252e%252e/admin/x", "CVE-2026-27587: decoded twice"),
    (b"/public/%252fadmin", "CVE-2026-27587"),
    (b"/public/%25%32%66admin", "CVE-2021-32637: double in pieces"),
    (b"/public/%00", "CVE-2026-27587: NUL"),
    (b"/public/x%00/../admin", "CVE-2026-27587"),
    (b"/public/%0d%0aX: y", "CVE-2026-27587: control bytes"),
    (b"/public/%0a", "CVE-2026-27587"),
    (b"/public/%7f", "CVE-2026-27587: DEL"),
    (b"/public/%", "CVE-2026-27587: invalid escape"),
    (b"/public/%2", "CVE-2026-27587"),
    (b"/public/%zz", "CVE-2026-27587"),
    (b"/public/%u002e%u002e/admin", "CVE-2026-27587: IIS escapes"),
    (b"/public/\xc3\xa9", "CVE-2021-32637: raw UTF-8"),
    (b"/public/\xff", "CVE-2021-32637: raw bytes"),
    (b"/public/%c0%ae%c0%ae/admin", "CVE-2026-27587: overlong dots"),
];

#[test]
fn a_path_that_two_parsers_read_differently_is_refused_and_forwarded_nowhere() {
    let scene = scene(|it| it);
    for (target, why) in AMBIGUOUS {
        // Some of these are no HTTP at all; then the parser's own 400 is as good.
        match target.iter().all(|it| (0x21..0x7f).contains(it)) {
            true => scene.ambiguous(target, why),
            false => scene.refused(target, why),
        }
    }
}

#[test]
fn a_target_that_is_no_path_is_refused() {
    let scene = scene(|it| it);
    for (target, why) in [
        // Pingora reads `GET admin` as the path `/` and forwards `admin`: judged raw, it is nothing.
        (&b"admin/x"[..], "no leading slash"),
        (b"public/x", "no leading slash"),
        (b"*", "asterisk form is for OPTIONS (RFC 9112 3.2.4)"),
        (b"?/public/x", "a query alone"),
        (b"http://a.test", "absolute form without a path: nothing to judge, or `/`, which no route has"),
        (b"ftp://a.test/public/x", "another scheme"),
        (b"http://user@a.test/public/x", "userinfo (RFC 9110 4.2.4)"),
        (b"http:///public/x", "no authority"),
    ] {
        let response = scene.target(target, "Host: a.test\r\n");
        assert!(matches!(response.status, 400 | 404), "{why}: {response:?}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn the_origin_gets_the_bytes_that_were_judged() {
    let scene = scene(|it| it);
    for target in [
        "/public/x",
        "/public/x/",
        "/public/a.b/..c/d..",
        "/public/%C3%A9",
        "/public/a%20b",
        "/public/~x-_!$&'()*+,=:@",
        "/public/x?q=%2e%2e%2f&r=//..;",
        "/public/x?next=http://b.test/../admin",
        "/public/x?",
        "/public/%23x",
        "/public/%3Fx",
    ] {
        scene.origin.forget();
        let response = scene.target(target.as_bytes(), "Host: a.test\r\n");
        assert_eq!(response.status, 200, "{target}: {response:?}");
        assert_eq!(scene.origin.only().target(), target);
    }
}

#[test]
fn another_spelling_of_a_path_is_judged_and_forwarded_in_the_one_form() {
    let scene = scene(|it| it);
    for (target, forwarded) in [
        (&b"/public/%3fx"[..], "/public/%3Fx"),
        (b"/public/%c3%a9", "/public/%C3%A9"),
        (b"/%70ublic/x", "/public/x"),
        // Browsers send these as they are.
        (b"/public/a[1]|b^c", "/public/a%5B1%5D%7Cb%5Ec"),
        (b"/public/{x}", "/public/%7Bx%7D"),
        // What is not allowed in a request line is escaped while the head is parsed.
        (b"/public/x y", "/public/x%20y"),
    ] {
        scene.origin.forget();
        let response = scene.target(target, "Host: a.test\r\n");
        assert_eq!(response.status, 200, "{forwarded}: {response:?}");
        assert_eq!(scene.origin.only().target(), forwarded);
    }
    scene.origin.forget();
    assert_eq!(scene.target(b"/public/\tx", "Host: a.test\r\n").status, 400);
    scene.origin.saw_nothing();
}

#[test]
fn an_exemption_looks_at_the_path_only_and_on_segment_boundaries() {
    let scene = scene(|it| it);
    for (target, why) in [
        ("/admin/x?/public/x", "CVE-2021-39156: an exemption found in the query"),
        ("/admin/x?a=/public/", "CVE-2021-39156"),
        ("/admin/%3f/public/x", "CVE-2025-54576: an encoded `?` ends nothing"),
        ("/admin/%23/public/x", "CVE-2025-54576: an encoded `#` ends nothing"),
        ("/admin/public/x", "CVE-2025-54576: unanchored"),
    ] {
        let response = scene.target(target.as_bytes(), "Host: a.test\r\n");
        assert_eq!((response.status, response.reason().as_str()), (403, "insufficient_role"), "{why}");
        scene.origin.saw_nothing();
    }
    for (target, why) in [
        ("/publicity", "CVE-2026-48020: a prefix inside a segment"),
        ("/public.evil/x", "CVE-2026-40912"),
        ("/PUBLIC/x", "paths have case (RFC 9110 4.2.3)"),
    ] {
        let response = scene.target(target.as_bytes(), "Host: a.test\r\n");
        assert_eq!((response.status, response.reason().as_str()), (404, "no_route"), "{why}: {target}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn an_escaped_letter_is_still_the_letter() {
    // RFC 3986 6.2.2.2: `%61` is `a`. Either it is judged as `/admin`, or it is refused; never another route's.
    let scene =
        scene(|it| it.route("name = \"rest\"\npath = \"/{*rest}\"\nupstream = \"app\"\nauth = \"public\""));
    for target in ["/%61dmin/x", "/ad%6din/x", "/%41dmin/../admin/x"] {
        let response = scene.target(target.as_bytes(), "Host: a.test\r\n");
        assert!(matches!(response.status, 400 | 403), "{target}: {response:?}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn normalizing_resolves_once_and_forwards_what_was_judged() {
    let scene = scene(|it| it.server("paths = { ambiguous = \"normalize\" }"));
    for (sent, forwarded) in [
        ("/admin/../public/x", "/public/x"),
        ("/public/./x", "/public/x"),
        ("/public//x", "/public/x"),
        ("/public/%2e/x", "/public/x"),
    ] {
        scene.origin.forget();
        let response = scene.target(sent.as_bytes(), "Host: a.test\r\n");
        assert_eq!(response.status, 200, "{sent}: {response:?}");
        assert_eq!(scene.origin.only().target(), forwarded, "{sent}");
    }
    scene.origin.forget();
    for sent in
        ["/public/../admin/x", "/public/%2e%2e/admin/x", "/public//../admin/x", "/public/..%2fadmin/x"]
    {
        let response = scene.target(sent.as_bytes(), "Host: a.test\r\n");
        assert!(matches!(response.status, 400 | 403), "{sent}: {response:?}");
        scene.origin.saw_nothing();
    }
    // What has no one meaning stays refused: NUL, control bytes, broken escapes.
    for sent in ["/public/%00", "/public/%zz", "/public/%0a"] {
        assert_eq!(scene.target(sent.as_bytes(), "Host: a.test\r\n").status, 400, "{sent}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn a_host_is_the_same_however_it_is_written() {
    let scene = scene(|it| it);
    let port = scene.gateway.addr().port();
    for host in ["admin.test", "ADMIN.TEST", "Admin.test.", "admin.test:80", &format!("admin.test:{port}")] {
        // CVE-2021-39155, CVE-2026-27588: another spelling must not find another route.
        let response = scene.target(b"/public/x", &format!("Host: {host}\r\n"));
        assert_eq!(response.status, 403, "{host}: {response:?}");
        scene.origin.saw_nothing();
    }
    for host in ["xadmin.test", "admin.test.evil.test", "admin-test"] {
        scene.origin.forget();
        assert_eq!(scene.target(b"/public/x", &format!("Host: {host}\r\n")).status, 200, "{host}");
        scene.origin.only();
    }
}

/// CVE-2026-27588: beyond some number of hosts another way of finding them, by which case mattered.
#[test]
fn a_host_is_the_same_however_many_there_are() {
    let many: Vec<String> = (0..300).map(|number| format!("\"h{number}.admin.test\"")).collect();
    let scene = scene(|it| {
        it.route(&format!(
            "name = \"many\"\nhosts = [{}, \"*.wide.test\", \"[::1]\"]\npath = \"/{{*rest}}\"\nupstream = \"app\"\n\
             require = {{ roles = [\"admin\"] }}",
            many.join(", ")
        ))
    });
    for host in [
        "h0.admin.test",
        "H299.Admin.TEST",
        "h7.admin.test.:443",
        "A.Wide.Test",
        "x.y.WIDE.test.",
        "[0:0::1]",
    ] {
        let response = scene.target(b"/public/x", &format!("Host: {host}\r\n"));
        assert_eq!(response.status, 403, "{host}: {response:?}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn a_host_that_is_missing_double_or_malformed_is_refused() {
    let scene = scene(|it| it);
    for (hosts, why) in [
        ("", "RFC 9112 3.2: HTTP/1.1 needs one"),
        ("Host: a.test\r\nHost: admin.test\r\n", "CVE-2026-100724: two"),
        ("Host: a.test\r\nHost: a.test\r\n", "RFC 9112 3.2: two, even the same"),
        ("Host: a.test\r\nhOST: a.test\r\n", "RFC 9112 3.2: in any case"),
        ("Host: a.test, admin.test\r\n", "a list"),
        ("Host: a.test/../x\r\n", "a path"),
        ("Host: user@a.test\r\n", "userinfo"),
        ("Host: a.test:port\r\n", "no port"),
        ("Host: a.test:99999\r\n", "no port"),
        ("Host: a test\r\n", "a space"),
        ("Host: a.test\\admin.test\r\n", "a backslash"),
        ("Host: \x7f\r\n", "a control byte"),
        ("Host: admin.test..\r\n", "two dots at the end: one is forgiven, and another name is left"),
        ("Host: [1]\r\n", "no address"),
        ("Host:\r\n", "empty with an origin-form target: no host can be routed"),
    ] {
        let response = scene.target(b"/public/x", hosts);
        assert_eq!(response.status, 400, "{why}: {response:?}");
        scene.origin.saw_nothing();
    }
}

#[test]
fn an_absolute_target_must_agree_with_host() {
    let scene = scene(|it| it);
    // CVE-2026-100664: the router reads one, the service the other.
    for (target, host) in [
        ("http://a.test/public/x", "admin.test"),
        ("http://admin.test/x", "a.test"),
        ("http://a.test:81/public/x", "a.test:82"),
        ("HTTP://a.test/public/../admin/x", "a.test"),
    ] {
        let response = scene.target(target.as_bytes(), &format!("Host: {host}\r\n"));
        assert_eq!(response.status, 400, "{target} with {host}: {response:?}");
        scene.origin.saw_nothing();
    }
    let response = scene.target(b"http://a.test/public/x?q", "Host: a.test\r\n");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(scene.origin.only().target(), "/public/x?q");
}

#[test]
fn a_route_for_one_segment_and_one_for_the_rest_stand_beside_each_other() {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::ES256));
    let route = |name: &str, path: &str, auth: &str| {
        format!("name = \"{name}\"\npath = \"{path}\"\nupstream = \"app\"\nauth = \"{auth}\"")
    };
    let setup = Setup::new().issuer(&issuer).upstream("app", &origin);
    let gateway = setup
        .route(&route("one", "/admin/{id}", "required"))
        .route(&route("rest", "/admin/{*rest}", "required"))
        .route(&route("pages", "/{*rest}", "public"))
        .start();
    for path in ["/admin/", "/admin/7", "/admin/7/", "/admin/7/keys", "/admin/a/b/c"] {
        assert_eq!(gateway.get(path, None).status, 401, "{path}");
    }
    origin.saw_nothing();
    assert_eq!(gateway.get("/index.html", None).status, 200);
}
