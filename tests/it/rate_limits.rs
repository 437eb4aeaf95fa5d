//! Rate limits: who is counted with whom, when, what is said of it, and what it costs to have many who come.

use jsonwebtoken::Algorithm;

use crate::http2::Scene;
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::origin::{Answer, Origin};
use crate::support::raw::{self, Response};
use crate::support::reloads::reload;

struct World {
    issuer: Issuer,
    origin: Origin,
}

impl World {
    fn new() -> Self {
        Self { issuer: Issuer::new(Algorithm::ES256), origin: Origin::start() }
    }

    /// `/a` and what is below it, guarded, with these lines; everything else guarded without.
    fn setup(&self, lines: &str) -> Setup {
        Gateway::guarding(&self.issuer, &self.origin)
            .route(&format!("name = \"a\"\npath = \"/a/{{*rest}}\"\nupstream = \"app\"\n{lines}"))
    }

    fn start(&self, lines: &str) -> Gateway {
        self.setup(lines).start()
    }
}

/// Nothing comes back while a test runs.
fn limit(by: &str, requests: u64) -> String {
    format!("rate_limit = {{ by = \"{by}\", requests = {requests}, per = \"1h\" }}")
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.get(path, Some(token)).status
}

fn statuses(gateway: &Gateway, path: &str, token: &str, times: usize) -> Vec<u16> {
    (0..times).map(|_| status(gateway, path, token)).collect()
}

/// As a proxy in front would say it.
fn from(gateway: &Gateway, address: &str, token: &str) -> Response {
    let fields = [format!("X-Forwarded-For: {address}"), format!("Authorization: Bearer {token}")];
    gateway.request("GET", "/a/x", &fields.each_ref().map(String::as_str), b"")
}

const BEHIND_A_PROXY: &str = "trusted_proxies = [\"127.0.0.1\"]";

#[test]
fn each_user_has_an_allowance_and_hears_what_is_left_of_it() {
    let world = World::new();
    let gateway = world.start(&limit("subject", 3));
    let (alice, other, bob) =
        (world.issuer.good("alice"), world.issuer.good("alice"), world.issuer.good("bob"));
    for (left, token) in [(2, &alice), (1, &other), (0, &alice)] {
        let passed = gateway.get("/a/x", Some(token));
        assert_eq!((passed.status, passed.text()), (200, "ok".to_owned()));
        assert_eq!(passed.header("ratelimit-policy"), Some("\"default\";q=3;w=3600"));
        let standing = passed.header("ratelimit").unwrap();
        assert!(standing.starts_with(&format!("\"default\";r={left};t=")), "{standing}");
    }
    let refused = gateway.get("/a/x", Some(&other));
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited".to_owned()));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&wait), "one comes back every 20 minutes: {wait}");
    assert!(refused.header("ratelimit").unwrap().starts_with("\"default\";r=0;t=3"), "{refused:?}");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"default\";q=3;w=3600"));
    assert_eq!(refused.header("www-authenticate"), None);
    assert_eq!(world.origin.requests().len(), 3, "what is refused is not forwarded");

    assert_eq!(status(&gateway, "/a/x", &bob), 200, "nobody else pays for it");
    let free = gateway.get("/x", Some(&alice));
    assert_eq!((free.status, free.header("ratelimit")), (200, None), "nor does another route");
    let counted = "portcullis_verdicts_total{reason=\"rate_limited\",route=\"a\",verdict=\"deny\"}";
    assert_eq!(gateway.metric(counted), Some(1.0));
    let line = eventually("the refusal is logged", || {
        let lines = gateway.log_lines();
        lines.into_iter().find(|line| line["reason"] == "rate_limited").ok_or("no line")
    });
    assert_eq!((&line["status"], &line["sub"]), (&429.into(), &"alice".into()));
    assert_eq!(line["detail"], "limit `default`");
}

#[test]
fn who_is_refused_keeps_the_connection() {
    let world = World::new();
    let gateway = world.start(&limit("subject", 1));
    let token = world.issuer.good("alice");
    let mut raw = gateway.raw();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
    let post = format!(
        "POST /a/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nContent-Length: 4\r\n\r\nbody"
    );
    assert_eq!(raw.send(get("/a/x")).response().status, 200);
    assert_eq!(raw.send(get("/a/x")).response().status, 429);
    assert_eq!(raw.send(&post).response().status, 429);
    assert_eq!(raw.send(get("/free")).response().status, 200);
    // One that waits to be told to go on never sends what it has announced.
    let expecting = post.replace("\r\n\r\nbody", "\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(raw.send(expecting).response().status, 429);
    raw.assert_closed();
}

#[test]
fn it_comes_back_with_time_as_much_as_it_says() {
    let world = World::new();
    let gateway = world.start("rate_limit = { by = \"subject\", requests = 2, per = \"8s\", burst = 1 }");
    let token = world.issuer.good("alice");
    let first = gateway.get("/a/x", Some(&token));
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, Some("\"default\";q=2;w=8;burst=1")));
    let refused = gateway.get("/a/x", Some(&token));
    // One comes back every four seconds, some of which a busy machine has taken by now.
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(refused.status == 429 && (2..=4).contains(&wait), "{refused:?}");
    eventually("it may come again", || match status(&gateway, "/a/x", &token) {
        200 => Ok(()),
        other => Err(other),
    });
}

/// Guessing tokens costs a signature each: a limit by address is asked first.
#[test]
fn an_address_is_counted_before_its_token_is_looked_at() {
    let world = World::new();
    let gateway = world.start(&limit("ip", 5));
    let forged = |n: usize| format!("{}x{n}", world.issuer.good("alice"));
    let seen: Vec<_> = (0..8).map(|n| status(&gateway, "/a/x", &forged(n))).collect();
    assert_eq!(seen, [401, 401, 401, 401, 401, 429, 429, 429]);
    let refused = gateway.get("/a/x", None);
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited".to_owned()));
    assert_eq!(status(&gateway, "/a/x", &world.issuer.good("alice")), 429);
    world.origin.saw_nothing();
    let verified = gateway.metric("portcullis_signature_verifications_total{outcome=\"invalid\"}");
    assert_eq!(verified, Some(5.0));
}

#[test]
fn a_routes_allowance_is_not_used_up_by_who_may_not_come_in() {
    let world = World::new();
    let gateway = world.start(&limit("route", 2));
    assert!((0..5).all(|_| gateway.get("/a/x", None).status == 401));
    assert_eq!(status(&gateway, "/a/x", &world.issuer.good("alice")), 200);
    assert_eq!(status(&gateway, "/a/y", &world.issuer.good("bob")), 200);
    assert_eq!(status(&gateway, "/a/z", &world.issuer.good("carol")), 429);
}

#[test]
fn who_is_nobody_is_counted_by_address() {
    let world = World::new();
    let lines = format!("auth = \"optional\"\n{}", limit("subject", 2));
    let gateway = world.setup(&lines).server(BEHIND_A_PROXY).start();
    let anonymous =
        |address: &str| gateway.request("GET", "/a/x", &[&format!("X-Forwarded-For: {address}")], b"").status;
    assert_eq!([(); 3].map(|()| anonymous("192.0.2.1")), [200, 200, 429]);
    assert_eq!(anonymous("192.0.2.2"), 200);
    assert_eq!(from(&gateway, "192.0.2.1", &world.issuer.good("alice")).status, 200, "alice is somebody");
}

#[test]
fn addresses_are_whom_trusted_proxies_name_and_an_ipv6_network_is_one() {
    let world = World::new();
    let token = world.issuer.good("alice");
    let gateway = world.setup(&limit("ip", 1)).server(BEHIND_A_PROXY).start();
    for (address, expected) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("::ffff:192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 200),
    ] {
        assert_eq!(from(&gateway, address, &token).status, expected, "{address}");
    }
    let wider = world.setup(&limit("ip", 1));
    let wider = wider.server(BEHIND_A_PROXY).server("limits = { ipv6_prefix = 48 }").start();
    assert_eq!(from(&wider, "2001:db8:0:1::1", &token).status, 200);
    assert_eq!(from(&wider, "2001:db8:0:2::1", &token).status, 429);
    assert_eq!(from(&wider, "2001:db8:1:2::1", &token).status, 200);
    // Whoever is trusted by nobody names nobody.
    let direct = world.start(&limit("ip", 1));
    assert_eq!(from(&direct, "192.0.2.1", &token).status, 200);
    assert_eq!(from(&direct, "192.0.2.2", &token).status, 429);
}

#[test]
fn of_several_limits_each_counts_and_each_is_told() {
    let world = World::new();
    let gateway = world.start(
        "rate_limit = [{ name = \"address\", by = \"ip\", requests = 3, per = \"1h\" }, \
         { by = \"subject\", requests = 2, per = \"1h\" }, { by = \"route\", requests = 100, per = \"1h\" }]",
    );
    let alice = world.issuer.good("alice");
    let passed = gateway.get("/a/x", Some(&alice));
    let policies = "\"address\";q=3;w=3600, \"default\";q=2;w=3600, \"default-2\";q=100;w=3600";
    assert_eq!(passed.header("ratelimit-policy"), Some(policies));
    assert_eq!(statuses(&gateway, "/a/x", &alice, 2), [200, 429]);
    // The address has been counted three times by now.
    let bob = gateway.get("/a/x", Some(&world.issuer.good("bob")));
    assert_eq!((bob.status, bob.header("ratelimit-policy")), (429, Some("\"address\";q=3;w=3600")));
}

#[test]
fn a_limit_of_the_whole_server_holds_for_whatever_comes() {
    let world = World::new();
    let setup = world.setup("").server("rate_limit = { by = \"ip\", requests = 4, per = \"1h\" }");
    let gateway = setup.route("name = \"b\"\nhosts = [\"b.test\"]\npath = \"/\"\nupstream = \"app\"").start();
    assert_eq!(gateway.get("/x", None).status, 401);
    assert_eq!(status(&gateway, "/a/x", &world.issuer.good("alice")), 200);
    assert_eq!(gateway.get("/x", Some("nonsense")).status, 401);
    let nowhere = raw::request(gateway.addr(), "BREW", "/../x", &[], b"");
    assert_eq!(nowhere.status, 400);
    assert_eq!(gateway.get("/x", None).status, 429);
    let counted = "portcullis_verdicts_total{reason=\"rate_limited\",route=\"(none)\",verdict=\"deny\"}";
    assert_eq!(gateway.metric(counted), Some(1.0));
    // What two servers could read differently is refused as such, and the connection with it.
    let mut raw = gateway.raw();
    raw.send(
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    assert_eq!(raw.response().status, 400);
    raw.assert_closed();
}

#[test]
fn a_token_in_a_body_is_not_read_for_an_address_that_comes_too_often() {
    let world = World::new();
    let lines = "auth = \"refresh\"\ntoken_from = \"body:t\"\nmethods = [\"POST\"]\n";
    let gateway = world.start(&format!("{lines}{}", limit("ip", 1)));
    let json = ["Content-Type: application/json"];
    assert_eq!(gateway.request("POST", "/a/x", &json, b"{\"t\":\"x\"}").status, 401);
    let mut raw = gateway.raw();
    // Refused with the body still to come.
    raw.send("POST /a/x HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(raw.response().status, 429);
}

#[test]
fn http2_is_counted_too() {
    let scene = Scene::new();
    let gateway = scene
        .setup()
        .route(&format!("name = \"a\"\npath = \"/a\"\nupstream = \"app\"\n{}", limit("subject", 1)))
        .start();
    let (mut client, bearer) = (scene.connect(&gateway), scene.bearer("alice"));
    let fields = [("authorization", &*bearer)];
    let passed = client.get("a.test", "/a", &fields).unwrap();
    assert_eq!((passed.status, passed.header("ratelimit-policy")), (200, Some("\"default\";q=1;w=3600")));
    let refused = client.get("a.test", "/a", &fields).unwrap();
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true));
    assert_eq!(client.get("a.test", "/x", &fields).unwrap().status, 200);
}

#[test]
fn what_the_service_says_of_limits_of_its_own_is_passed_on() {
    let world = World::new();
    world.origin.answer(|_| Answer::ok().header("RateLimit", "\"inner\";r=7;t=1"));
    let gateway = world.start(&limit("subject", 5));
    let answer = gateway.get("/a/x", Some(&world.issuer.good("alice")));
    let said = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ratelimit"));
    let said: Vec<_> = said.map(|(_, value)| value.split(';').next().unwrap()).collect();
    assert_eq!(said, ["\"inner\"", "\"default\""]);
}

#[test]
fn a_reload_gives_nobody_a_new_allowance() {
    let world = World::new();
    let setup = world.setup(&limit("subject", 2));
    let gateway = setup.start();
    let token = world.issuer.good("alice");
    assert_eq!(statuses(&gateway, "/a/x", &token, 3), [200, 200, 429]);
    let more = setup.route("name = \"b\"\npath = \"/b\"\nupstream = \"app\"\nauth = \"public\"");
    reload(&gateway, &more.toml());
    assert_eq!(gateway.get("/b", None).status, 200, "the new route is there");
    assert_eq!(status(&gateway, "/a/x", &token), 429);
}

/// As many addresses as an attacker can think of: what is remembered of them has a fixed size, and the one that comes too
/// often is not forgotten for their sake.
#[test]
fn a_flood_of_addresses_neither_grows_memory_nor_frees_anybody() {
    let world = World::new();
    let lines = format!("auth = \"public\"\n{}", limit("ip", 20));
    let setup = world.setup(&lines).log("level = \"info\"");
    let gateway = setup.server(BEHIND_A_PROXY).server("limits = { rate_keys = 1000 }").start();
    let mut raw = gateway.raw();
    let mut ask = |address: String| {
        raw.send(format!("GET /a/x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {address}\r\n\r\n"));
        raw.response().status
    };
    for _ in 0..20 {
        assert_eq!(ask("192.0.2.1".to_owned()), 200);
    }
    assert_eq!(ask("192.0.2.1".to_owned()), 429);
    for n in 0..6000_u32 {
        let (high, low) = (n >> 8, n & 255);
        assert_eq!(ask(format!("2001:db8:{high:x}:{low:x}::1")), 200, "who is new is let in");
    }
    assert_eq!(ask("192.0.2.1".to_owned()), 429, "it was forgotten");
    let evicted = gateway.metric("portcullis_rate_limit_evictions_total").unwrap();
    assert!((4000.0..6000.0).contains(&evicted), "{evicted}");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let world = World::new();
    for (lines, message) in [
        ("rate_limit = { requests = 1 }", "`by` is missing"),
        ("rate_limit = { by = \"subject\", requests = 0 }", "must lie between"),
        ("rate_limit = { by = \"subject\", requests = 1, burst = 0 }", "must lie between"),
        ("rate_limit = { by = \"user\", requests = 1 }", "expected one of"),
        ("rate_limit = { by = \"ip\", requests = 1, shared = true }", "there is no `[redis]`"),
        ("rate_limit = { by = \"ip\", requests = 10000000, per = \"1s\" }", "more than a million"),
        ("rate_limit = { by = \"ip\", requests = 1, per = \"10d\", burst = 1000 }", "more than a year"),
        (
            "rate_limit = [{ name = \"x\", by = \"ip\", requests = 1 }, { name = \"x\", by = \"route\", requests = 1 }]",
            "two limits",
        ),
        ("rate_limit = { name = \"a b\", by = \"ip\", requests = 1 }", "a name is of letters"),
    ] {
        let output = Gateway::fails(&world.setup(lines).toml());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(message) && said.contains("gateway.toml:"), "{lines}: {said}");
    }
    let server = world.setup("").server("rate_limit = { by = \"route\", requests = 1 }");
    let output = Gateway::fails(&server.toml());
    assert!(String::from_utf8_lossy(&output.stderr).contains("only `by = \"ip\"` is possible"));
}
