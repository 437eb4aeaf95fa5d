//! The control door through real sockets, as far as it needs no ledger.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::{AdminClient, ClientError, UserAddress};
use super::*;
use crate::report::Metrics;

const TOKEN: &str = "a-token-of-the-tests";
const SHORT_TOKEN: &str = "fifteen-letters";

/// An admin listener on a port of its own; it ends with the test.
struct Door {
    address: SocketAddr,
    state: Arc<AdminState>,
    end: CancellationToken,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn open(token: Option<&str>) -> Door {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("registered");
    let handles = AdminHandles {
        ledger: Box::new(|| panic!("these tests have no ledger")),
        realms: Box::new(|| vec!["".into(), "acme".into()]),
        read_token: Box::new(|_| None),
        sessions: Box::new(|user| {
            let token = crate::token::Token::new(&user.subject);
            let fingerprint = Fingerprint::of(&token);
            let session = Some(format!("{user}").into());
            let (token_id, issued_at, expires_at, revoked) = (None, None, None, None);
            let seen = SeenSession { session, token_id, issued_at, expires_at, fingerprint, revoked };
            Box::pin(std::future::ready(Ok(vec![seen])))
        }),
        streams: Box::new(|_| Vec::new()),
        registry,
        audit: Arc::new(Audit::open(None, &metrics).expect("the log")),
        life: Arc::new(Life::default()),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let settings = AdminSettings { listen: address, token: token.map(Into::into) };
    let state = Arc::new(AdminState::new(&settings, handles));
    let end = CancellationToken::new();
    tokio::spawn(serve(listener, state.clone(), end.clone()));
    Door { address, state, end }
}

impl Door {
    /// Sends bytes as they are and reads until the gateway closes.
    async fn raw(&self, request: String) -> String {
        let address = self.address;
        let exchange = move || {
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            stream.write_all(request.as_bytes()).expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        };
        tokio::task::spawn_blocking(exchange).await.expect("no panic")
    }

    /// A call with the right token; `headers` end with CRLF each.
    async fn call(&self, line: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        self.raw(format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}",
            self.address
        ))
        .await
    }
}

fn is_problem(answer: &str, status: u16) -> serde_json::Value {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(problem["status"], status);
    problem
}

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_open_and_control_is_not() {
    let door = open(Some(TOKEN));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n");
    assert!(door.raw(get("/healthz")).await.starts_with("HTTP/1.1 200 "));
    let metrics = door.raw(get("/metrics")).await;
    assert!(
        metrics.contains("text/plain; version=0.0.4") && metrics.contains("portcullis_build_info"),
        "{metrics}"
    );
    let no_token = format!("GET /v1/stats HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", door.address);
    let refused = door.raw(no_token).await;
    is_problem(&refused, 401);
    assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
    assert!(door.call("GET /v1/openapi.json", "", "").await.contains("\"3.1.0\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configured_token_control_does_not_exist() {
    let door = open(None);
    is_problem(&door.call("GET /v1/openapi.json", "", "").await, 404);
    door.state.set_token(Some(TOKEN));
    assert!(door.call("GET /v1/openapi.json", "", "").await.starts_with("HTTP/1.1 200 "), "after a reload");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_origins_of_other_sites_are_refused() {
    let door = open(Some(TOKEN));
    let with = |host: &str, more: &str| {
        format!(
            "GET /v1/openapi.json HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n{more}Connection: close\r\n\r\n"
        )
    };
    for host in ["localhost", "LOCALHOST:9900", "127.0.0.1", "[::1]:9900", "192.0.2.7:1"] {
        let answer = door.raw(with(host, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", ""] {
        let answer = door.raw(with(host, "")).await;
        assert!(answer.starts_with("HTTP/1.1 4") && !answer.contains("3.1.0"), "{host}: {answer}");
    }
    is_problem(&door.raw(with("localhost", "Host: localhost\r\n")).await, 421);
    for more in ["Origin: https://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        is_problem(&door.raw(with("localhost", more)).await, 403);
    }
    let own = door.raw(with("localhost:9900", "Origin: http://localhost:9900\r\n")).await;
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_and_shuts_the_operator_out_only_where_a_guess_could_succeed() {
    let door = open(Some(TOKEN));
    let guess = |token: &str| {
        format!(
            "GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        )
    };
    for _ in 0..10 {
        is_problem(&door.raw(guess("wrong")).await, 401);
    }
    let blocked = door.raw(guess("wrong")).await;
    is_problem(&blocked, 429);
    assert!(blocked.contains("retry-after: "), "{blocked}");
    assert!(door.raw(guess(TOKEN)).await.starts_with("HTTP/1.1 200 "), "the operator was shut out");
    door.state.set_token(Some(SHORT_TOKEN));
    is_problem(&door.raw(guess(SHORT_TOKEN)).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_the_right_token_are_bounded_too() {
    let door = open(Some(TOKEN));
    let mut refused = 0;
    for _ in 0..200 {
        refused += usize::from(admit_once(&door.state));
    }
    assert!(refused > 100, "{refused} of 200 calls were refused");
}

/// Whether the limiter refuses one more call.
fn admit_once(state: &AdminState) -> bool {
    state.calls.check().is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_problems() {
    let door = open(Some(TOKEN));
    is_problem(&door.call("GET /nothing", "", "").await, 404);
    is_problem(&door.call("GET /v1/nothing", "", "").await, 404);
    let wrong = door.call("DELETE /v1/users/7/status", "", "").await;
    is_problem(&wrong, 405);
    assert!(wrong.to_lowercase().contains("allow: put"), "{wrong}");
    is_problem(&door.call("POST /healthz", "", "").await, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_by_field_and_nothing_is_done() {
    let door = open(Some(TOKEN));
    let long = format!("{{\"status\":\"banned\",\"reason\":\"{}\"}}", "x".repeat(70_000));
    let cases = [
        ("{\"status\":\"banned\"", 400, None),
        ("{\"status\":\"banned\"} x", 400, None),
        ("{\"status\":\"frozen\"}", 422, Some("status")),
        ("{\"status\":7}", 422, Some("status")),
        ("{\"reason\":\"x\"}", 422, Some("status")),
        ("", 422, Some("status")),
        ("{\"status\":\"banned\",\"untill\":\"x\"}", 422, Some("untill")),
        ("{\"status\":\"banned\",\"status\":\"active\"}", 422, Some("status")),
        ("{\"status\":\"banned\",\"until\":\"tomorrow\"}", 422, Some("until")),
        ("{\"status\":\"banned\",\"reason\":\"a\\u0000b\"}", 422, Some("reason")),
        (&long, 413, None),
    ];
    for (body, status, field) in cases {
        let problem = is_problem(&door.call("PUT /v1/users/7/status", JSON, body).await, status);
        assert_eq!(problem["field"].as_str(), field, "{body:.80}: {problem}");
    }
    is_problem(&door.call("PUT /v1/users/7/status", "", "{\"status\":\"banned\"}").await, 415);
    let revoke = "POST /v1/tokens/revoke";
    for body in ["{}", "{\"token\":\"a\",\"jti\":\"b\"}"] {
        assert_eq!(is_problem(&door.call(revoke, JSON, body).await, 422)["field"], "token");
    }
    let body = "{\"jti\":\"b\",\"exp\":-1}";
    assert_eq!(is_problem(&door.call(revoke, JSON, body).await, 422)["field"], "exp");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_addressed_by_decoded_ids_and_known_realms() {
    let door = open(Some(TOKEN));
    let found = door.call("GET /v1/users/a%2Fb%20c/sessions?realm=acme", "", "").await;
    assert!(found.contains("\"sid\":\"acme/a/b c\""), "{found}");
    is_problem(&door.call("GET /v1/users/a%00b/sessions", "", "").await, 422);
    is_problem(&door.call("GET /v1/users/%ff/sessions", "", "").await, 400);
    is_problem(&door.call(&format!("GET /v1/users/{}/sessions", "a".repeat(1025)), "", "").await, 422);
    assert_eq!(
        is_problem(&door.call("GET /v1/users/7/sessions?realm=acne", "", "").await, 422)["field"],
        "realm"
    );
    is_problem(&door.call("GET /v1/users/7/sessions?relam=acme", "", "").await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_addresses_users_as_the_server_reads_them() {
    let door = open(Some(TOKEN));
    let client = AdminClient::new(&format!("http://{}", door.address), Some(TOKEN)).expect("a client");
    for id in ["7", "a/b", "ä ö?#%2F", "a+b&c=d"] {
        let found = client.sessions(UserAddress { id, realm: "acme" }).await.expect("found");
        assert_eq!(found["sessions"][0]["sid"], format!("acme/{id}"));
    }
    let dots = client.sessions(UserAddress { id: "..", realm: "" }).await;
    assert!(matches!(dots, Err(ClientError::Unaddressable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_errors_are_one_clear_line_without_the_token() {
    let door = open(Some(TOKEN));
    let base = format!("http://{}", door.address);
    let wrong = AdminClient::new(&base, Some("wrong-token")).expect("a client");
    let right = AdminClient::new(&base, Some(TOKEN)).expect("a client");
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let nobody = AdminClient::new(&format!("http://{nobody}"), Some(TOKEN)).expect("a client");
    let errors = [
        (wrong.stats().await, "refuses the control token"),
        (right.logout(UserAddress { id: "7", realm: "acne" }).await, "answers 422: realm: No issuer has"),
        (nobody.stats().await, "no answer from"),
    ];
    for (result, says) in errors {
        let error = result.expect_err("an error").to_string();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains('\n') && !error.contains(TOKEN) && !error.contains("wrong-token"), "{error}");
    }
    for odd in ["", "127.0.0.1:9900", "ftp://localhost", "http://"] {
        assert!(matches!(AdminClient::new(odd, None), Err(ClientError::Address(_))), "{odd}");
    }
}

#[test]
fn the_openapi_document_names_exactly_the_endpoints_there_are() {
    let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let described = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.keys().map(move |method| format!("{method} {path}"))
    });
    let mut described: Vec<_> = described.collect();
    let mut served: Vec<_> =
        endpoints().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).into();
    described.sort();
    served.sort();
    assert_eq!(described, served);
    for endpoint in endpoints() {
        let open = paths[endpoint.path][endpoint.method].get("security").is_some();
        assert_eq!(open, !endpoint.is_control(), "{}", endpoint.path);
    }
}
