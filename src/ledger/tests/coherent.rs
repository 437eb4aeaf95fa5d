//! Memory that follows a real Redis: it answers without asking, and never what Redis says no more.

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::ledger::redis::RedisWrite;

const LEASE: Duration = Duration::from_millis(500);

async fn coherent(server: &Server) -> (Arc<Ledger>, CancellationToken) {
    let (ledger, shutdown) = ledger(Some(server), as_services_do()).await;
    becomes(&ledger, Mode::Coherent).await;
    (ledger, shutdown)
}

async fn becomes(ledger: &Ledger, mode: Mode) {
    eventually(mode.word(), async || ledger.mode() == mode).await;
}

/// Waits until every push is heard that Redis has sent by now, or memory is not believed in any case.
pub(super) async fn all_pushes_are_heard(ledger: &Ledger) {
    let Some(coherent) = &ledger.coherent else { return };
    let since = coherent.coherence.now();
    while ledger.is_coherent() && coherent.coherence.last_fence() < since {
        coherent.link.ear.alarm.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How often Redis has run a command.
async fn calls(server: &Server, command: &str) -> u64 {
    let ::redis::Value::BulkString(info) = server.cli(&["INFO", "commandstats"]).await else { panic!("no text") };
    let info = String::from_utf8(info).expect("text");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().expect("a number").parse().expect("a number"))
}

#[tokio::test]
async fn a_credential_that_was_good_a_moment_ago_costs_no_command() {
    let server = Server::start().await;
    let (ledger, _shutdown) = coherent(&server).await;
    let claims = claims("7");
    let questions = ledger.questions(&claims, &Token::new(TOKEN)).expect("askable");
    let find = async || ledger.find(&questions, &claims, Timestamp::from_seconds(200)).await;
    assert_eq!(find().await, Lookup::Live);
    let asked = calls(&server, "sismember").await;
    assert!(asked > 0);
    for _ in 0..1000 {
        assert_eq!(find().await, Lookup::Live);
    }
    assert_eq!(super::find(&ledger, "7").await, Lookup::Live, "another token of the same user");
    assert_eq!(calls(&server, "sismember").await, asked);
    assert!(ledger.metrics.memory_hit.get() > 6000);
    assert_eq!(super::find(&ledger, "8").await, Lookup::Live);
    assert!(calls(&server, "sismember").await > asked, "another user is another question");
}
