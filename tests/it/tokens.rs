//! Tokens, from where a client stands: who is let in, who is not, and what each refusal says.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{ALGORITHMS, Issuer, JwksServer, name};
use crate::support::origin::{Answer, Origin};
use crate::support::raw::Response;
use crate::support::{eventually, now};

const WHO: &str = "[identity]\nheaders = { x-user-id = \"{user}\" }\n";

struct Scene {
    gateway: Gateway,
    origin: Origin,
    issuer: Issuer,
}

fn scene(change: impl FnOnce(Setup) -> Setup) -> Scene {
    let (origin, issuer) = (Origin::start(), Issuer::new(Algorithm::RS256));
    let gateway = change(Gateway::guarding(&issuer, &origin).section(WHO)).start();
    Scene { gateway, origin, issuer }
}

impl Scene {
    /// Refused for this reason, and the origin has not heard of it.
    fn refused(&self, token: &str, reason: &str, why: &str) {
        let response = self.gateway.get("/x", Some(token));
        assert_eq!((response.status, response.reason().as_str()), (401, reason), "{why}: {response:?}");
        self.origin.saw_nothing();
    }

    fn header(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut header = json!({ "alg": name(self.issuer.algorithm), "typ": "JWT", "kid": self.issuer.kid });
        change(&mut header);
        header
    }

    /// Rightly signed, with another header.
    fn signed(&self, change: impl FnOnce(&mut Value)) -> String {
        self.issuer.sign(&self.header(change), &self.issuer.claims("alice"))
    }

    /// Rightly signed, with other claims.
    fn claiming(&self, change: impl FnOnce(&mut Value)) -> String {
        self.issuer.token("alice", change)
    }
}

fn remove(claim: &str) -> impl FnOnce(&mut Value) + '_ {
    move |claims| drop(claims.as_object_mut().unwrap().remove(claim))
}

fn set(claim: &str, value: Value) -> impl FnOnce(&mut Value) + '_ {
    move |claims| claims[claim] = value
}

#[test]
fn tokens_of_every_algorithm_pass_and_name_their_user_and_are_refused_when_altered() {
    let origin = Origin::start();
    let issuers: Vec<Issuer> = ALGORITHMS.into_iter().map(Issuer::new).collect();
    let mut setup = Setup::new().upstream("app", &origin).section(WHO);
    for (index, issuer) in issuers.iter().enumerate() {
        let keys = format!("realm = \"r{index}\"\n");
        // Every other issuer by its key set, which for HMAC holds the secret.
        setup = setup.section(&match index % 2 {
            0 => issuer.config_toml() + &keys,
            _ => issuer.config_with(&format!("jwks_file = \"{}\"\n{keys}", issuer.jwks_file().display())),
        });
    }
    let gateway = setup.route("path = \"/{*rest}\"\nupstream = \"app\"").start();
    for (index, issuer) in issuers.iter().enumerate() {
        let algorithm = issuer.algorithm;
        let token = issuer.good("alice");
        for _ in 0..2 {
            assert_eq!(gateway.get("/x", Some(&token)).status, 200, "{algorithm:?}");
        }
        let seen = origin.requests();
        assert!(seen.iter().all(|it| it.values("x-user-id") == [format!("r{index}/alice")]), "{algorithm:?}");
        origin.forget();

        let (message, signature) = token.rsplit_once('.').unwrap();
        let changed: String = signature.chars().map(|c| if c == 'A' { 'B' } else { 'A' }).take(2).collect();
        let altered = format!("{message}.{changed}{}", &signature[2..]);
        assert_eq!(gateway.get("/x", Some(&altered)).reason(), "token_signature", "{algorithm:?}");
        let other = &issuers[(index + 1) % issuers.len()];
        let forged =
            other.sign(&json!({ "alg": name(other.algorithm), "kid": other.kid }), &issuer.claims("alice"));
        assert_eq!(gateway.get("/x", Some(&forged)).reason(), "token_algorithm", "{algorithm:?}");
        let mislabelled =
            other.sign(&json!({ "alg": name(algorithm), "kid": issuer.kid }), &issuer.claims("alice"));
        assert_eq!(gateway.get("/x", Some(&mislabelled)).reason(), "token_signature", "{algorithm:?}");
        origin.saw_nothing();
    }
}

/// RFC 9457 and RFC 6750, and that the log tells the same story.
fn told(gateway: &Gateway, response: &Response, status: u16, reason: &str, challenge: Option<&str>) {
    assert_eq!((response.status, response.reason().as_str()), (status, reason), "{response:?}");
    let problem = response.json();
    assert_eq!(problem["status"], status, "{problem}");
    for member in ["type", "title", "detail", "request_id"] {
        assert!(problem[member].as_str().is_some_and(|it| !it.is_empty()), "{member}: {problem}");
    }
    let id = problem["request_id"].as_str().unwrap();
    assert_eq!(response.header("x-request-id"), Some(id));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let said = response.header("www-authenticate");
    match challenge {
        None => assert_eq!(said, None, "{reason}"),
        Some("") => assert_eq!(said, Some("Bearer"), "no error code where no token was sent"),
        Some(error) => {
            let start = format!("Bearer error=\"{error}\", error_description=\"");
            assert!(said.is_some_and(|it| it.starts_with(&start) && it.is_ascii()), "{reason}: {said:?}");
        }
    }
    let line = eventually("the access line", || {
        gateway.log_lines().into_iter().find(|line| line["request_id"] == id).ok_or(())
    });
    assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some(reason), Some(status.into())));
    assert_eq!(line["verdict"], "deny");
    let route = line["route"].as_str().unwrap_or("(none)");
    let counter =
        format!("portcullis_verdicts_total{{reason=\"{reason}\",route=\"{route}\",verdict=\"deny\"}}");
    eventually(&counter, || gateway.metric(&counter).filter(|count| *count >= 1.0).ok_or(()));
}

#[test]
fn every_reason_about_a_token_has_its_status_and_its_challenge() {
    let scene = scene(|it| {
        it.route(
            "name = \"s\"\npath = \"/s\"\nupstream = \"app\"\nrequire = { scopes = [\"read\", \"write\"] }",
        )
        .route("name = \"r\"\npath = \"/r\"\nupstream = \"app\"\nrequire = { roles = [\"admin\"] }")
        .route("name = \"c\"\npath = \"/c\"\nupstream = \"app\"\nrequire = { claims = { tenant = \"a\" } }")
    });
    let Scene { gateway, issuer, .. } = &scene;
    let told = |path: &str, token: &str, status, reason: &str, challenge: &str| {
        told(gateway, &gateway.get(path, Some(token)), status, reason, Some(challenge));
    };
    self::told(gateway, &gateway.get("/x", None), 401, "token_missing", Some(""));
    let stranger = Issuer::new(Algorithm::RS256);
    for (token, reason) in [
        ("not-a-token".to_owned(), "token_malformed"),
        (Issuer::raw(&scene.header(|_| {}), &issuer.claims("alice"), &[7; 256]), "token_signature"),
        (issuer.expired("alice"), "token_expired"),
        (scene.claiming(set("nbf", json!(now() + 60))), "token_not_yet_valid"),
        (stranger.good("alice"), "token_issuer"),
        (scene.claiming(set("aud", json!("another"))), "token_audience"),
        (scene.signed(set("alg", json!("RS384"))), "token_algorithm"),
        (scene.claiming(remove("sub")), "token_claims"),
    ] {
        told("/x", &token, 401, reason, "invalid_token");
    }
    let token = issuer.good("carol");
    for (path, reason) in
        [("/s", "insufficient_scope"), ("/r", "insufficient_role"), ("/c", "claim_mismatch")]
    {
        told(path, &token, 403, reason, "insufficient_scope");
    }
    let challenge = gateway.get("/s", Some(&token));
    assert!(challenge.header("www-authenticate").unwrap().ends_with("scope=\"read write\""));

    gateway.revoke_token(&token);
    told("/x", &token, 401, "token_revoked", "invalid_token");
    let token = issuer.token("carol", set("sid", json!("s-1")));
    assert_eq!(gateway.control("POST", "/v1/sessions/s-1/revoke", &Value::Null).status, 200);
    told("/x", &token, 401, "session_revoked", "invalid_token");
    gateway.logout("dave");
    told("/x", &issuer.good("dave"), 401, "issued_before_cutoff", "invalid_token");
    for (status, code, reason) in [
        ("banned", 403, "user_banned"),
        ("deactivated", 403, "user_deactivated"),
        ("deleted", 403, "user_deleted"),
        ("security_action", 401, "user_security_action"),
    ] {
        gateway.set_status(reason, status);
        told("/x", &issuer.good(reason), code, reason, "invalid_token");
    }
    scene.origin.saw_nothing();
}

#[test]
fn a_token_is_found_in_header_cookie_and_query_and_only_one_may_be_sent() {
    let scene = scene(|it| it);
    let (one, two) = (scene.issuer.good("alice"), scene.issuer.good("bob"));
    let send = |path: &str, headers: &[String]| {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        scene.gateway.request("GET", path, &headers, b"")
    };
    let bearer = |token: &str| format!("Authorization: bEARER {token}");
    let cookie = |token: &str| format!("Cookie: theme=dark; access_token={token}");
    let query = |token: &str| format!("/x?page=2&access_token={token}");
    for (path, headers) in [
        ("/x".to_owned(), vec![bearer(&one)]),
        ("/x".to_owned(), vec![cookie(&one)]),
        (query(&one), vec![]),
        (query(&one), vec![bearer(&one), cookie(&one)]),
    ] {
        let response = send(&path, &headers);
        assert_eq!(response.status, 200, "{headers:?}: {response:?}");
        assert_eq!(scene.origin.only().values("x-user-id"), ["alice"]);
        scene.origin.forget();
    }
    for (path, headers) in [
        (query(&two), vec![bearer(&one)]),
        (query(&two), vec![cookie(&one)]),
        ("/x".to_owned(), vec![bearer(&one), cookie(&two)]),
        ("/x".to_owned(), vec![bearer(&one), bearer(&one)]),
        ("/x".to_owned(), vec![cookie(&one), cookie(&two)]),
        (format!("{}&access_token={two}", query(&one)), vec![]),
    ] {
        let response = send(&path, &headers);
        assert_eq!((response.status, response.reason().as_str()), (400, "request_ambiguous"));
        scene.origin.saw_nothing();
    }
}

#[test]
fn a_websocket_with_a_cookie_for_a_credential_comes_from_a_page_of_the_same_host() {
    let scene = scene(|it| it);
    scene.origin.answer(|_| Answer::switch_to_websocket());
    let token = scene.issuer.good("alice");
    let open = |lines: &str| {
        let mut raw = scene.gateway.raw();
        raw.send(format!(
            "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        ));
        raw.response()
    };
    let cookie = format!("Cookie: access_token={token}\r\n");
    for origin in
        ["", "Origin: https://evil.test\r\n", "Origin: null\r\n", "Origin: https://app.test.evil.test\r\n"]
    {
        let response = open(&format!("{cookie}{origin}"));
        assert_eq!((response.status, response.reason().as_str()), (403, "origin_refused"), "{origin}");
        scene.origin.saw_nothing();
    }
    assert_eq!(open(&format!("{cookie}Origin: https://app.test\r\n")).status, 101);
    assert_eq!(open(&format!("Authorization: Bearer {token}\r\nOrigin: https://evil.test\r\n")).status, 101);
}

#[test]
fn what_the_header_of_a_token_asks_for_is_not_done() {
    let scene = scene(|it| it);
    let elsewhere = JwksServer::serving(&Issuer::new(Algorithm::RS256).jwks());
    let (claims, url) = (scene.issuer.claims("alice"), elsewhere.url());
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "rs256", "RS256\u{0}"] {
        let header = json!({ "alg": alg, "typ": "JWT" });
        scene.refused(&Issuer::raw(&header, &claims, b""), "token_algorithm", alg);
    }
    scene.refused(&Issuer::raw(&json!({ "typ": "JWT" }), &claims, b""), "token_algorithm", "no alg");
    scene.refused(&scene.issuer.confused("alice"), "token_algorithm", "HMAC with the public key");
    let empty = Issuer::raw(&scene.header(|_| {}), &claims, b"");
    scene.refused(&empty, "token_signature", "no signature");

    // Signed by a stranger, who says where his key is to be found.
    let stranger = Issuer::new(Algorithm::ES256);
    for (member, value) in
        [("jku", json!(url)), ("x5u", json!(url)), ("jwk", stranger.jwk()), ("x5c", json!(["MIIB"]))]
    {
        let header = scene.header(|it| it[member] = value);
        scene.refused(&stranger.sign(&header, &claims), "token_signature", member);
    }
    for (kid, reason) in [
        (json!("../../../dev/null"), "token_signature"),
        (json!("' OR 1=1 --"), "token_signature"),
        (json!("*"), "token_signature"),
        (json!(""), "token_signature"),
        (json!("k".repeat(300)), "token_malformed"),
        (json!(7), "token_malformed"),
        (json!([scene.issuer.kid]), "token_malformed"),
    ] {
        scene.refused(&scene.signed(set("kid", kid.clone())), reason, &kid.to_string());
    }
    for (member, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("cty", json!("JWT")),
        ("typ", json!("dpop+jwt")),
        ("typ", json!(7)),
    ] {
        scene.refused(&scene.signed(set(member, value)), "token_malformed", member);
    }
    assert_eq!(elsewhere.hits(), 0, "something was fetched because a token said so");
    for typ in ["jwt", "at+JWT", "application/at+jwt"] {
        assert_eq!(scene.gateway.get("/x", Some(&scene.signed(set("typ", json!(typ))))).status, 200, "{typ}");
    }
    assert_eq!(scene.gateway.get("/x", Some(&scene.signed(set("jku", json!(url))))).status, 200);
    assert_eq!(elsewhere.hits(), 0);
}

#[test]
fn only_the_one_canonical_form_of_a_token_is_a_token() {
    let scene = scene(|it| it);
    let good = scene.issuer.good("alice");
    let (head, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let long = scene.claiming(set("pad", json!("x".repeat(17 << 10))));
    for (token, why) in [
        (format!("{good}="), "padding"),
        (format!("{head}=.{payload}.{signature}"), "padding inside"),
        (format!("{good}.{payload}.{signature}"), "five parts: JWE"),
        (format!("{head}.{payload}"), "two parts"),
        (format!("{good}."), "a dot more"),
        (format!("{head}..{signature}"), "no payload"),
        (good.replacen('.', "\t.", 1), "white space"),
        (format!("{head}.{payload}.{}+/", &signature[2..]), "the other alphabet"),
        (long, "too long"),
        ("....................".to_owned(), "dots"),
    ] {
        scene.refused(&token, "token_malformed", why);
    }
    let header = scene.header(|_| {}).to_string();
    let claims = scene.issuer.claims("alice").to_string();
    let twice = claims.replacen('{', "{\"sub\":\"bob\",", 1);
    scene.refused(&scene.issuer.sign_text(&header, &twice), "token_malformed", "sub twice");
    let escaped = claims.replacen('{', "{\"\\u0073ub\":\"bob\",", 1);
    scene.refused(&scene.issuer.sign_text(&header, &escaped), "token_malformed", "sub twice, once escaped");
    let kids = header.replacen('{', "{\"kid\":\"other\",", 1);
    scene.refused(&scene.issuer.sign_text(&kids, &claims), "token_malformed", "kid twice");
    for payload in ["[]", "null", "\"text\"", "{", "", "{\"sub\":1e999}"] {
        scene.refused(&scene.issuer.sign_text(&header, payload), "token_malformed", payload);
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
    scene.refused(&scene.issuer.sign_text(&header, &deep), "token_malformed", "nested without end");
}

#[test]
fn claims_are_there_and_have_their_exact_types() {
    let scene = scene(|it| it);
    for claim in ["exp", "iat", "sub", "aud"] {
        scene.refused(&scene.claiming(remove(claim)), "token_claims", claim);
        scene.refused(&scene.claiming(set(claim, Value::Null)), "token_claims", claim);
    }
    scene.refused(&scene.claiming(remove("iss")), "token_issuer", "iss");
    for (claim, value) in [
        ("exp", json!((now() + 600).to_string())),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!((now() + 600) * 1000)),
        ("exp", json!([now() + 600])),
        ("iat", json!("now")),
        ("nbf", json!("0")),
        ("nbf", json!(true)),
        ("sub", json!(7)),
        ("sub", json!("")),
        ("sub", json!(["alice"])),
        ("sub", json!("a\nb")),
        ("iss", json!([scene.issuer.name])),
        ("aud", json!({ "api": true })),
        ("aud", json!(["api", 7])),
        ("jti", json!(7)),
        ("sid", json!({})),
    ] {
        scene.refused(
            &scene.claiming(set(claim, value.clone())),
            "token_claims",
            &format!("{claim}: {value}"),
        );
    }
    // Not one second of grace unless the operator grants it, and no future that steps over a cut-off.
    scene.refused(&scene.claiming(set("exp", json!(now()))), "token_expired", "exp now");
    scene.refused(&scene.claiming(set("iat", json!(now() + 3600))), "token_not_yet_valid", "iat ahead");
    scene.refused(&scene.claiming(set("aud", json!([]))), "token_audience", "aud of nobody");
    for (claim, value) in
        [("aud", json!("api")), ("nbf", json!(now() - 5)), ("exp", json!(now() as f64 + 60.5))]
    {
        assert_eq!(scene.gateway.get("/x", Some(&scene.claiming(set(claim, value)))).status, 200, "{claim}");
    }
}

#[test]
fn the_same_subject_of_two_issuers_is_two_users() {
    let origin = Origin::start();
    let (acme, umbrella) = (Issuer::new(Algorithm::ES256), Issuer::new(Algorithm::HS256));
    let gateway = Setup::new()
        .section(&(acme.config_toml() + "realm = \"acme\"\n"))
        .section(&(umbrella.config_toml() + "realm = \"umbrella\"\n"))
        .upstream("app", &origin)
        .route("path = \"/{*rest}\"\nupstream = \"app\"")
        .section(WHO)
        .start();
    let ban = json!({ "status": "banned" });
    assert_eq!(gateway.control("PUT", "/v1/users/alice/status?realm=acme", &ban).status, 200);
    assert_eq!(gateway.get("/x", Some(&acme.good("alice"))).reason(), "user_banned");
    assert_eq!(gateway.get("/x", Some(&umbrella.good("alice"))).status, 200);
    assert_eq!(origin.only().values("x-user-id"), ["umbrella/alice"]);
    let nobody = gateway.control("PUT", "/v1/users/alice/status", &ban);
    assert_eq!((nobody.status, nobody.json()["field"].as_str()), (422, Some("realm")));
    // A subject that spells another realm's user is still only itself.
    assert_eq!(gateway.get("/x", Some(&umbrella.good("acme/alice"))).status, 200);
}
