//! Conversations that are held twice, with nginx before a service and with Portcullis: what the client heard and what the
//! service saw is written down line by line, and compared.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::Algorithm;

use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::origin::Seen;
use crate::support::raw::{Raw, Response};
use crate::support::scripted::{Scripted, Talk};

pub struct Scene {
    pub service: Scripted,
    nginx: Nginx,
    pub gateway: Gateway,
    token: String,
    /// What differed so far: one run tells of all of it.
    differed: Mutex<Vec<String>>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let differed = self.differed.lock().unwrap();
        assert!(differed.is_empty() || std::thread::panicking(), "{}", differed.join("\n"));
    }
}

/// What a client does.
pub enum Step<'a> {
    Send(&'a [u8]),
    /// Hears one answer, interim ones included.
    Hear,
    HearOfHead,
    /// Hears everything up to the close.
    HearAll,
    /// Ends its own side.
    Finish,
    /// Asks for something else on the same connection.
    Again,
    /// Waits until the service has been asked.
    Served,
    /// Lets a service go on that waits for this.
    Let(&'a AtomicBool),
}
use Step::{Again, Finish, Hear, HearAll, HearOfHead, Let, Send, Served};

/// A line that may stand on one side only.
pub type Difference = (&'static str, &'static str);

impl Scene {
    pub fn new() -> Self {
        let issuer = Issuer::new(Algorithm::ES256);
        let service = Scripted::start(|_, _| false);
        let nginx = Nginx::before(service.addr(), None);
        let gateway = Setup::new()
            .issuer(&issuer)
            .section(&service.config_toml("app", ""))
            .route("path = \"/{*rest}\"\nupstream = \"app\"")
            .start();
        Self { service, nginx, gateway, token: issuer.good("alice"), differed: Mutex::default() }
    }

    /// A request of this client.
    pub fn request(&self, line: &str, fields: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {}\r\n{fields}\r\n",
            self.token
        );
        [head.as_bytes(), body].concat()
    }

    /// Holds the conversation with both, and compares.
    pub fn compare(
        &self,
        name: &str,
        part: impl Fn(&mut Talk, &Seen) -> bool + std::marker::Send + Sync + Clone + 'static,
        steps: &[Step<'_>],
        differences: &[Difference],
    ) {
        let hold = |address| {
            let part = part.clone();
            // What is asked on the same connection again is answered, whatever the service's part is.
            self.service.play(move |talk, seen| match seen.target().as_str() {
                "/again" => talk.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"),
                _ => part(talk, seen),
            });
            self.service.take_seen();
            let heard = self.converse(&mut Raw::connect(address), steps);
            let mut lines = heard;
            lines.extend(self.service.take_seen().iter().flat_map(described));
            lines
        };
        let [theirs, ours] = [hold(self.nginx.addr()), hold(self.gateway.addr())];
        let mut unseen: Vec<_> = differences.iter().collect();
        let (left, right): (BTreeSet<_>, BTreeSet<_>) = (theirs.iter().collect(), ours.iter().collect());
        let mut strange = Vec::new();
        for line in left.symmetric_difference(&right) {
            match differences.iter().find(|(start, _)| line.starts_with(start)) {
                Some(known) => unseen.retain(|it| *it != known),
                None => strange.push(line),
            }
        }
        // The same lines in another order, or one more often.
        let shuffled = differences.is_empty() && strange.is_empty() && theirs != ours;
        if !strange.is_empty() || !unseen.is_empty() || shuffled {
            let text = format!(
                "{name}: {strange:#?}; no longer different: {unseen:?}\n nginx: {theirs:#?}\n Portcullis: {ours:#?}"
            );
            self.differed.lock().unwrap().push(text);
        }
    }

    fn converse(&self, raw: &mut Raw, steps: &[Step<'_>]) -> Vec<String> {
        let mut lines = Vec::new();
        for step in steps {
            match step {
                Send(bytes) => drop(raw.send(bytes)),
                Hear => lines.extend(heard(raw.try_response())),
                HearOfHead => lines.extend(heard(Ok(raw.response_to_head()))),
                HearAll => lines.push(format!("client: rest {:?}", without_own(&raw.rest_until_closed()))),
                Finish => raw.finish(),
                Served => eventually("the service has been asked", || match self.service.asked() {
                    0 => Err(()),
                    _ => Ok(()),
                }),
                Let(go) => go.store(true, Ordering::SeqCst),
                Again => {
                    raw.send(self.request("GET /again", "", b""));
                    let kept = raw.try_response().is_ok_and(|it| it.text() == "again");
                    lines.push(format!("client: connection {}", if kept { "kept" } else { "ended" }));
                }
            }
        }
        lines
    }
}

/// What the client heard, names as sent, values of one name in their order.
fn heard(response: std::io::Result<Response>) -> Vec<String> {
    let Ok(response) = response else { return vec!["client: nothing".to_owned()] };
    let mut fields: Vec<_> =
        response.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
    fields.sort_by_key(|(name, _)| name.to_lowercase());
    let mut lines = vec![format!("client: {}", response.status)];
    lines.extend(fields.iter().map(|(name, value)| format!("client: {name}: {value}")));
    lines.push(format!("client: body {:?}", String::from_utf8_lossy(&response.body)));
    lines
}

/// A rest without the lines that every server writes of itself.
fn without_own(rest: &[u8]) -> String {
    let text = String::from_utf8_lossy(rest).into_owned();
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !["Date:", "Connection:"].iter().any(|own| line.starts_with(own))).collect()
}

/// What the service saw, less what a proxy adds of its own.
fn described(seen: &Seen) -> Vec<String> {
    const OWN: [&str; 5] = ["authorization", "x-forwarded-", "x-request-id", "x-user-", "x-session-id"];
    let text = seen.text();
    let mut fields: Vec<&str> = text.trim_end().split("\r\n").skip(1).collect();
    fields.retain(|field| !OWN.iter().any(|own| field.to_lowercase().starts_with(own)));
    fields.sort_by_key(|field| field.split(':').next().unwrap_or_default().to_lowercase());
    let mut lines = vec![format!("service: {}", seen.line())];
    lines.extend(fields.iter().map(|field| format!("service: {field}")));
    lines.push(format!("service: body {:?}", String::from_utf8_lossy(&seen.body)));
    lines
}

/// Reads the request to its end, and says this.
pub fn answers(
    bytes: impl AsRef<[u8]>,
) -> impl Fn(&mut Talk, &Seen) -> bool + std::marker::Send + Sync + Clone + 'static {
    let bytes = bytes.as_ref().to_vec();
    move |talk, seen| talk.body(seen).is_some() && talk.say(&bytes)
}

/// As [`answers`], and closes.
pub fn last(
    bytes: &'static str,
) -> impl Fn(&mut Talk, &Seen) -> bool + std::marker::Send + Sync + Clone + 'static {
    move |talk, seen| talk.body(seen).is_some() && talk.say_last(bytes)
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: mine\r\n\r\nok";

pub const CHUNKS: [Difference; 2] = [
    ("service: Content-Length", "nginx sends a body that has already come with its length"),
    ("service: Transfer-Encoding", "and Portcullis as it came"),
];
