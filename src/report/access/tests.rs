//! What the access log writes, and what it must never write.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::ledger::Outage;
use crate::report::settings::{AccessLog, LogSettings};
use crate::report::{Metrics, Report};
use crate::verdict::{Denial, Verdict};

/// An output that hands over whatever is written.
struct Pipe(Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3In0.c2lnbmF0dXJl";

fn denied(reason: DenyReason) -> Verdict {
    Err(Denial { route: None, credential: None, reason })
}

fn finished<'a>(path: &'a str, verdict: &'a Verdict) -> Finished<'a> {
    Finished {
        method: &Method::GET,
        path,
        status: 401,
        verdict,
        upstream: None,
        total: Duration::from_micros(1500),
        upstream_time: None,
        judgment: Duration::from_micros(12),
        request_id: "r-1",
        client: IpAddr::from([192, 0, 2, 1]),
        bytes: 99,
        asked_by: None,
    }
}

fn lost() -> IntCounter {
    IntCounter::new("lost", "lost").expect("a counter")
}

fn written(format: Format, path: &str, reason: DenyReason) -> String {
    let (sender, receiver) = channel();
    let writer = AccessWriter::start_on(Pipe(sender), format, lost()).expect("a thread");
    writer.push(&finished(path, &denied(reason)));
    writer.close();
    all(&receiver)
}

fn all(receiver: &Receiver<Vec<u8>>) -> String {
    String::from_utf8(receiver.try_iter().flatten().collect()).expect("UTF-8")
}

#[test]
fn a_line_says_what_happened_in_json() {
    let line = written(Format::Json, "/api", DenyReason::TokenMissing);
    let line: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
    assert!(line["timestamp"].as_str().and_then(Timestamp::parse_rfc3339).is_some());
    assert_eq!((&line["path"], &line["status"]), (&"/api".into(), &401.into()));
    assert_eq!((&line["verdict"], &line["reason"]), (&"deny".into(), &"token_missing".into()));
    assert_eq!((&line["total_ms"], &line["judgment_us"]), (&1.5.into(), &12.0.into()));
    assert_eq!((&line["client"], &line["request_id"]), (&"192.0.2.1".into(), &"r-1".into()));
}

#[test]
fn the_query_and_tokens_never_appear() {
    for format in [Format::Json, Format::Text] {
        for path in [
            format!("/api?access_token={TOKEN}&secret=hunter2"),
            format!("/api/{TOKEN}/hunter"),
            format!("/api%3Faccess_token={TOKEN}"),
            format!("/api#{TOKEN}hunter2"),
        ] {
            let line = written(format, &path, DenyReason::RequestAmbiguous("an encoded slash"));
            assert!(!line.contains("eyJ") && !line.contains("hunter2"), "{path}: {line}");
            assert!(!line.contains("c2lnbmF0dXJl"), "{line}");
        }
    }
}

#[test]
fn a_path_cannot_forge_a_line_or_grow_one_without_bound() {
    for format in [Format::Json, Format::Text] {
        let line = written(format, "/a\r\n{\"forged\":1}\u{1b}[2J", DenyReason::NoRoute);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line:?}");
    }
    let long = "/é".repeat(50_000);
    assert!(written(Format::Json, &long, DenyReason::NoRoute).len() < 2 * MAX_PATH);
}

#[test]
fn an_output_that_fails_loses_lines_and_counts_them() {
    let (sender, receiver) = channel();
    drop(receiver);
    let lost = lost();
    let writer = AccessWriter::start_on(Pipe(sender), Format::Json, lost.clone()).expect("a thread");
    writer.push(&finished("/", &denied(DenyReason::NoRoute)));
    writer.push(&finished("/", &denied(DenyReason::NoRoute)));
    writer.close();
    assert_eq!(lost.get(), 2);
}

#[test]
fn access_off_writes_nothing_and_denied_writes_denials() {
    let metrics = Metrics::register(&prometheus::Registry::new()).expect("registered");
    let lines = |access: AccessLog| {
        let (sender, receiver) = channel();
        let writer = AccessWriter::start_on(Pipe(sender), Format::Json, lost()).expect("a thread");
        let settings =
            LogSettings { level: "info".into(), format: Format::Json, access, sample: 0.0, audit_file: None };
        let audit = std::sync::Arc::new(crate::report::Audit::open(None, &metrics).expect("the log"));
        let report = Report::new(&settings, &metrics, &writer, &audit, &[], &[]);
        let outage = Outage { rule: "r".into(), cause: "refused".into() };
        report.finished(&finished("/", &denied(DenyReason::LedgerUnavailable(outage))));
        writer.close();
        all(&receiver).lines().count()
    };
    assert_eq!((lines(AccessLog::All), lines(AccessLog::Denied), lines(AccessLog::Off)), (1, 1, 0));
}
