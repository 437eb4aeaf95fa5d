//! A real browser: Chromium without a window, driven through chromedriver (W3C WebDriver).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Directory, Launch, Server, program};
use super::{free_port, within};

/// Starting a browser takes its time on a busy machine, and so does a page.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Browser {
    address: SocketAddr,
    session: String,
    // Dropped in this order: first the server, then what it wrote.
    _server: Server,
    _directory: Directory,
}

impl Browser {
    /// One browser for all tests, lent to one at a time, with no page open and no cookies. It ends with this process.
    pub fn borrow() -> MutexGuard<'static, Self> {
        static BROWSER: OnceLock<Mutex<Browser>> = OnceLock::new();
        let browser = BROWSER.get_or_init(|| Mutex::new(Self::start()));
        let browser = browser.lock().unwrap_or_else(PoisonError::into_inner);
        // Open streams of the test before end with its page.
        browser.open("about:blank");
        browser
    }

    fn start() -> Self {
        // The port may be taken between finding and using it.
        for _ in 0..5 {
            let directory = Directory::for_user(None, "portcullis-browser-");
            let port = free_port();
            let server = Server::launch(&Launch {
                command: vec![
                    program(&["chromedriver"], "chromium-driver"),
                    format!("--port={port}"),
                    "--log-level=WARNING".to_owned(),
                ],
                user: None,
                log: directory.path().join("chromedriver.log"),
                signal: "TERM",
            });
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let ready =
                within(PATIENCE, "chromedriver is ready", || match exchange(address, "GET", "/status", "") {
                    Ok(status) if status["value"]["ready"] == true => Ok(true),
                    _ if server.alive().is_err() => Ok(false),
                    other => Err(format!("{other:?}")),
                });
            if ready {
                let session = new_session(address, &directory);
                return Self { address, session, _server: server, _directory: directory };
            }
        }
        panic!("chromedriver did not start on any of five ports")
    }

    /// Loads a page, to its end.
    pub fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Forgets the cookies of the page that is open.
    pub fn forget_cookies(&self) {
        let path = format!("/session/{}/cookie", self.session);
        exchange(self.address, "DELETE", &path, "").unwrap();
    }

    /// Runs a script in the page: the body of an asynchronous function whose arguments are `given`; what it returns, or
    /// what it throws, which fails the test.
    pub fn run(&self, script: &str, given: &Value) -> Value {
        let script = format!(
            "const [given, done] = arguments;
             (async () => {{ {script} }})().then(value => done({{ value }}), error => done({{ error: String(error) }}));"
        );
        let answer = self.command("/execute/async", &json!({ "script": script, "args": [given] }));
        assert!(answer.get("error").is_none(), "the page's script failed: {answer}");
        answer["value"].clone()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        let answer = exchange(self.address, "POST", &path, &body.to_string()).unwrap();
        let value = &answer["value"];
        assert!(value.get("stacktrace").is_none(), "{path}: {} {}", value["error"], value["message"]);
        value.clone()
    }
}

fn new_session(address: SocketAddr, directory: &Directory) -> String {
    let profile = format!("--user-data-dir={}", directory.path().join("profile").display());
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",
        // A page may run a script all the time that a test needs.
        "--disable-background-timer-throttling",
        &profile,
    ];
    let wanted = json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "acceptInsecureCerts": true,
        "timeouts": { "script": 45_000, "pageLoad": 45_000 },
        "goog:chromeOptions": { "args": arguments },
    } } });
    let answer = exchange(address, "POST", "/session", &wanted.to_string()).unwrap();
    answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned()
}

/// One command. Chromedriver answers with a length, and keeps the connection.
fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if length.is_some_and(|length| body.len() >= length) {
                return Ok(serde_json::from_str(body)?);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
