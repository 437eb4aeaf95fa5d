//! Key sets over real sockets: rotation, floods, outages and answers that must not be believed.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;

type Answers = Box<dyn Fn(&str) -> String + Send>;

/// An issuer on loopback that counts how often it is asked.
struct Server {
    url: String,
    asked: Arc<AtomicUsize>,
    answers: Arc<Mutex<Answers>>,
}

impl Server {
    async fn start(answers: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        let server = Self { url, asked: asked.clone(), answers: answers.clone() };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (asked, answers) = (asked.clone(), answers.clone());
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let read = socket.read(&mut head).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..read]).into_owned();
                    asked.fetch_add(1, Ordering::SeqCst);
                    let answer = answers.lock().unwrap()(head.split(' ').nth(1).unwrap_or_default());
                    // The client may have hung up on an answer that is too long.
                    let _ = socket.write_all(answer.as_bytes()).await;
                    let _ = socket.shutdown().await;
                });
            }
        });
        server
    }

    fn answer(&self, answers: impl Fn(&str) -> String + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answers);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn ok(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn failing() -> String {
    "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into()
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn jwks_settings() -> JwksSettings {
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    JwksSettings { refresh: hour, cooldown: Duration::ZERO, max_stale: day, allow_http: false }
}

fn from_url(server: &Server, jwks: JwksSettings) -> IssuerSettings {
    let keys = KeySource::Url { url: format!("{}/jwks", server.url).parse().unwrap(), jwks };
    IssuerSettings { algorithms: vec![Algorithm::ES256], keys, ..settings() }
}

fn named(pair: &Pair, kid: &str) -> Vec<u8> {
    jwks(&[pair.jwk_with(json!({ "kid": kid }))])
}

fn token(pair: &Pair, kid: &str) -> String {
    let now = Timestamp::now().seconds();
    let claims = payload(json!({"iat": now, "exp": now + 600}));
    issue::issue(claims.as_object().unwrap(), Algorithm::ES256, Some(kid), &pair.signs).unwrap()
}

async fn judge(verifiers: &Verifiers, token: &str) -> Result<(), Unverified> {
    verifiers.verify(&Token::new(token), Timestamp::now()).await.map(|_| ())
}

async fn eventually(fact: impl AsyncFn() -> bool) {
    // Only a test that fails waits for it: a machine may have other work.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fact().await {
        assert!(Instant::now() < deadline, "not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_unknown_kid_fetches_the_rotated_set_and_ends_what_the_old_key_signed() {
    let (a, b) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let first = named(&a, "a");
    let server = Server::start(move |_| ok(&first)).await;
    let verifiers = verifiers(&[from_url(&server, jwks_settings())]).await;
    let old = token(&a, "a");
    let now = Timestamp::now();
    let (claims, seal) = verifiers.verify(&Token::new(&old), now).await.unwrap();
    assert_eq!(verifiers.still_holds(&claims, &seal, now), Ok(()));
    let both = jwks(&[a.jwk_with(json!({"kid": "a"})), b.jwk_with(json!({"kid": "b"}))]);
    server.answer(move |_| ok(&both));
    assert_eq!(judge(&verifiers, &token(&b, "b")).await, Ok(()));
    assert_eq!(verifiers.still_holds(&claims, &seal, now), Ok(()), "the rotation kept the key");
    let second = named(&b, "b");
    server.answer(move |_| ok(&second));
    assert_eq!(judge(&verifiers, &token(&a, "c")).await, Err(Unverified::Signature));
    assert_eq!(verifiers.still_holds(&claims, &seal, now), Err(Unverified::Signature), "withdrawn");
    assert_eq!(judge(&verifiers, &old).await, Err(Unverified::Signature));
    assert_eq!(verifiers.status(now)[0].generation, 3);
}

#[tokio::test]
async fn a_flood_of_unknown_kids_causes_one_fetch_per_cool_down() {
    let pair = Pair::new(Algorithm::ES256);
    let set = named(&pair, "a");
    let server = Server::start(move |_| ok(&set)).await;
    let jwks = JwksSettings { cooldown: Duration::from_secs(3600), ..jwks_settings() };
    let patient = Arc::new(verifiers(&[from_url(&server, jwks)]).await);
    let eager = Arc::new(verifiers(&[from_url(&server, jwks_settings())]).await);
    assert_eq!(server.asked(), 2);
    for (verifiers, fetches) in [(patient, 0), (eager, 1)] {
        let before = server.asked();
        let kids: Vec<String> = (0..100).map(|n| token(&pair, &format!("unknown-{n}"))).collect();
        let mut judged = tokio::task::JoinSet::new();
        for token in kids {
            let verifiers = verifiers.clone();
            judged.spawn(async move { judge(&verifiers, &token).await });
        }
        assert!(judged.join_all().await.into_iter().all(|verified| verified == Err(Unverified::Signature)));
        let more = server.asked() - before;
        // Without a cool-down those that come after a fetch ended may cause another; never one each.
        assert!(more == fetches || fetches == 1 && more < 50, "{more} fetches");
    }
}

#[tokio::test]
async fn the_last_good_keys_serve_while_the_issuer_is_down_but_not_for_ever() {
    let pair = Pair::new(Algorithm::ES256);
    let set = named(&pair, "a");
    let server = Server::start(move |_| ok(&set)).await;
    let jwks = JwksSettings { refresh: Duration::from_millis(20), ..jwks_settings() };
    let verifiers = verifiers(&[from_url(&server, jwks)]).await;
    for bad in [failing(), ok(b"{\"keys\":[]}"), ok(b"<html>"), "garbage".into()] {
        server.answer(move |_| bad.clone());
        let before = server.asked();
        eventually(async || server.asked() >= before + 2).await;
        assert_eq!(judge(&verifiers, &token(&pair, "a")).await, Ok(()));
    }
    let now = Timestamp::now();
    let later = now.plus(Duration::from_secs(86_400 + 60));
    let exp = later.seconds() + 600;
    let claims = payload(json!({"iat": now.seconds(), "exp": exp}));
    let token = issue::issue(claims.as_object().unwrap(), Algorithm::ES256, Some("a"), &pair.signs).unwrap();
    let (claims, seal) = verifiers.verify(&Token::new(&token), now).await.unwrap();
    assert_eq!(verifiers.still_holds(&claims, &seal, later), Err(Unverified::KeysUnavailable));
    let verified = verifiers.verify(&Token::new(&token), later).await;
    assert_eq!(verified.err(), Some(Unverified::KeysUnavailable));
}

#[tokio::test]
async fn an_issuer_that_fails_stops_nobody_and_recovers() {
    let pair = Pair::new(Algorithm::ES256);
    let server = Server::start(|_| failing()).await;
    let registry = Registry::new();
    let metrics = VerifyMetrics::register(&registry).unwrap();
    let remote = from_url(&server, JwksSettings { refresh: Duration::from_millis(20), ..jwks_settings() });
    let local = IssuerSettings { issuer: "local".into(), ..settings() };
    let verifiers = Verifiers::start(&[remote, local], None, &metrics, &CancellationToken::new()).await;
    assert_eq!(judge(&verifiers, &token(&pair, "a")).await, Err(Unverified::KeysUnavailable));
    let fine = hs256(r#"{"alg":"HS256"}"#, &payload(json!({"iss": "local"})).to_string());
    assert!(verifiers.verify(&Token::new(&fine), NOW).await.is_ok());
    let set = named(&pair, "a");
    server.answer(move |_| ok(&set));
    eventually(async || judge(&verifiers, &token(&pair, "a")).await.is_ok()).await;
    let counted = format!("{:?}", registry.gather());
    assert!(counted.contains("portcullis_jwks_refreshes_total") && counted.contains(ISSUER));
}

/// Starts with `answers` and says how many keys were believed.
async fn believed(
    source: impl FnOnce(&Server) -> IssuerSettings,
    answers: impl Fn(&str) -> String + Send + 'static,
) -> usize {
    let server = Server::start(answers).await;
    verifiers(&[source(&server)]).await.status(Timestamp::now())[0].keys
}

#[tokio::test]
async fn a_redirect_is_followed_within_its_origin_only() {
    let set = named(&Pair::new(Algorithm::ES256), "a");
    let (here, there) = (set.clone(), set.clone());
    let other = Server::start(move |_| ok(&there)).await;
    let away = format!("{}/jwks", other.url);
    assert_eq!(believed(|server| from_url(server, jwks_settings()), move |_| redirect(&away)).await, 0);
    assert_eq!(other.asked(), 0, "another host is not even asked");
    let moved = move |path: &str| if path == "/moved" { ok(&here) } else { redirect("/moved") };
    assert_eq!(believed(|server| from_url(server, jwks_settings()), moved).await, 1);
    assert_eq!(believed(|server| from_url(server, jwks_settings()), |_| redirect("/jwks")).await, 0);
}

#[tokio::test]
async fn a_document_that_is_too_large_is_not_read() {
    let set = named(&Pair::new(Algorithm::ES256), "a");
    let padded = move |more: usize| [set.as_slice(), &b" ".repeat(more)].concat();
    let (small, large) = (padded(1000), padded(512 * 1024));
    assert_eq!(believed(|server| from_url(server, jwks_settings()), move |_| ok(&small)).await, 1);
    assert_eq!(believed(|server| from_url(server, jwks_settings()), move |_| ok(&large)).await, 0);
}

#[tokio::test]
async fn discovery_is_believed_only_of_the_configured_issuer() {
    let discovering = |issuer: &str| IssuerSettings {
        issuer: issuer.into(),
        algorithms: vec![Algorithm::ES256],
        keys: KeySource::Discovery { jwks: jwks_settings() },
        ..settings()
    };
    let base = Arc::new(Mutex::new(String::new()));
    let answers = |issuer: &'static str, jwks_uri: &'static str| {
        let (base, set) = (base.clone(), named(&Pair::new(Algorithm::ES256), "a"));
        move |path: &str| {
            let base = base.lock().unwrap().clone();
            let text = |text: &str| text.replace("BASE", &base);
            match path {
                "/.well-known/openid-configuration" => {
                    let document = json!({"issuer": text(issuer), "jwks_uri": text(jwks_uri)});
                    ok(document.to_string().as_bytes())
                }
                _ => ok(&set),
            }
        }
    };
    let source = |server: &Server| {
        *base.lock().unwrap() = server.url.clone();
        discovering(&server.url)
    };
    assert_eq!(believed(source, answers("BASE", "BASE/jwks")).await, 1);
    assert_eq!(believed(source, answers("BASE/", "BASE/jwks")).await, 0, "not byte for byte the issuer");
    assert_eq!(believed(source, answers("https://evil.example", "BASE/jwks")).await, 0);
    assert_eq!(
        believed(source, answers("BASE", "http://192.0.2.1/jwks")).await,
        0,
        "plain HTTP to elsewhere"
    );
    assert_eq!(believed(source, answers("BASE", "file:///etc/passwd")).await, 0);
}

#[tokio::test]
async fn secrets_in_a_fetched_set_are_ignored() {
    let set = jwks(&[Pair::new(Algorithm::HS256).jwk_with(json!({"kid": "a"}))]);
    let source = |server: &Server| IssuerSettings {
        algorithms: vec![Algorithm::HS256],
        ..from_url(server, jwks_settings())
    };
    assert_eq!(believed(source, move |_| ok(&set)).await, 0);
}

#[tokio::test]
async fn nothing_is_fetched_any_more_when_nobody_uses_the_issuer() {
    let set = named(&Pair::new(Algorithm::ES256), "a");
    let server = Server::start(move |_| ok(&set)).await;
    let jwks = JwksSettings { refresh: Duration::from_millis(5), ..jwks_settings() };
    let (metrics, shutdown) = (metrics(), CancellationToken::new());
    let settings = [from_url(&server, jwks)];
    let first = Verifiers::start(&settings, None, &metrics, &shutdown).await;
    let second = Verifiers::start(&settings, Some(&first), &metrics, &shutdown).await;
    let ring = Arc::downgrade(&second.issuers[0].ring);
    drop(first);
    let before = server.asked();
    eventually(async || server.asked() > before + 2).await;
    drop(second);
    eventually(async || ring.strong_count() == 0).await;
}

#[tokio::test]
async fn shutdown_ends_the_task_though_the_verifiers_live() {
    let set = named(&Pair::new(Algorithm::ES256), "a");
    let server = Server::start(move |_| ok(&set)).await;
    let shutdown = CancellationToken::new();
    let verifiers =
        Verifiers::start(&[from_url(&server, jwks_settings())], None, &metrics(), &shutdown).await;
    assert!(Arc::strong_count(&verifiers.issuers[0].ring) > 1, "the task holds it");
    shutdown.cancel();
    eventually(async || Arc::strong_count(&verifiers.issuers[0].ring) == 1).await;
}
