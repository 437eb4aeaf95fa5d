//! `portcullis demo`, as a newcomer meets it: the lines that it prints do what they say.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::support::gateway::BINARY;
use crate::support::raw::{self, Response};
use crate::support::server::send_signal;
use crate::support::{eventually, leaks, pause};

struct Demo {
    child: Child,
    /// Read no further than the tour, and kept open.
    _output: BufReader<ChildStdout>,
    steps: Vec<(String, String)>,
    directory: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(BINARY)
            .arg("demo")
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut steps, mut title) = (Vec::new(), None);
        loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended: {steps:?}");
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("# ") {
                title = Some(text.to_owned());
            } else if line.starts_with("curl ") {
                steps.push((title.take().unwrap(), line.to_owned()));
            } else if line.starts_with("Ctrl-C") {
                break;
            }
        }
        Self { child, _output: output, steps, directory }
    }

    /// What curl would do with the line of this step.
    fn run(&self, words: &str) -> Response {
        let found = self.steps.iter().find(|(title, _)| title.contains(words));
        let (title, line) = found.unwrap_or_else(|| panic!("no step {words:?}: {:?}", self.steps));
        let line = self.substituted(line);
        let response = curl(&line);
        assert!(response.status < 500, "{title}: {response:?}");
        response
    }

    /// `$(curl … | cut -d'"' -f4)`, as a shell would.
    fn substituted(&self, line: &str) -> String {
        let Some((before, rest)) = line.split_once("$(") else { return line.to_owned() };
        let (inner, after) = rest.split_once(')').unwrap();
        let (inner, cut) = inner.split_once(" | ").unwrap();
        assert_eq!(cut, "cut -d'\"' -f4");
        let answer = curl(inner).text();
        let token = answer.split('"').nth(3).unwrap_or_else(|| panic!("no token in {answer}"));
        leaks::token(token);
        format!("{before}{token}{after}")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// The words of a shell line: single and double quotes, nothing else.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut word) = (Vec::new(), None, String::new());
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn curl(line: &str) -> Response {
    let mut words = words(line.split(';').next().unwrap()).into_iter();
    assert_eq!(words.next().as_deref(), Some("curl"));
    let (mut method, mut url, mut headers, mut body) = ("GET".to_owned(), None, Vec::new(), String::new());
    while let Some(word) = words.next() {
        match word.as_str() {
            "-i" | "-s" => {}
            "-w" => drop(words.next()),
            "-X" => method = words.next().unwrap(),
            "-H" => headers.push(words.next().unwrap()),
            "-d" => body = words.next().unwrap(),
            other => url = Some(other.to_owned()),
        }
    }
    let url = url.unwrap();
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    raw::request(address, &method, &format!("/{path}"), &headers, body.as_bytes())
}

fn refused(response: &Response, status: u16, reason: &str) {
    assert_eq!((response.status, response.reason().as_str()), (status, reason));
}

#[test]
fn the_tour_does_what_it_says_and_leaves_nothing_behind() {
    let mut demo = Demo::start();
    let told = demo.run("1. Alice passes").json();
    assert_eq!((told["told"]["x-user-id"].as_str(), told["path"].as_str()), (Some("alice"), Some("/hello")));
    assert_eq!(demo.run("Ban her").status, 200);
    refused(&demo.run("refused: 403 user_banned"), 403, "user_banned");
    assert_eq!(demo.run("Activate her").status, 200);
    assert_eq!(demo.run("She passes again").status, 200);
    assert_eq!(demo.run("Log her out").status, 200);
    refused(&demo.run("401 issued_before_cutoff"), 401, "issued_before_cutoff");
    eventually("a new login works, a second later", || match demo.run("A new login works").status {
        200 => Ok(()),
        status => {
            pause(std::time::Duration::from_millis(50));
            Err(status)
        }
    });
    assert_eq!(demo.run("Bob passes").status, 200);
    assert_eq!(demo.run("Revoke this one").status, 200);
    refused(&demo.run("401 token_revoked"), 401, "token_revoked");
    let ready: Value = demo.run("How the gateway is").json();
    assert_eq!(ready["status"], "ready");
    let numbers: Vec<&str> = demo.steps.iter().map(|(title, _)| title.split('.').next().unwrap()).collect();
    assert_eq!(numbers, (1..=12).map(|it| it.to_string()).collect::<Vec<_>>());

    let left: Vec<_> = std::fs::read_dir(demo.directory.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(left.len(), 1, "its ledger is in a directory of its own");
    let mode = std::os::unix::fs::PermissionsExt::mode(&left[0].metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "with its keys, which are nobody else's");
    send_signal(demo.child.id(), "INT");
    let status = eventually("it ends", || demo.child.try_wait().unwrap().ok_or("running"));
    assert_eq!(status.code(), Some(0));
    assert_eq!(std::fs::read_dir(demo.directory.path()).unwrap().count(), 0, "it left something behind");
}
