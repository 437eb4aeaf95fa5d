//! How long after Redis has acknowledged a ban a request of the banned user still passes: three gateways over one Redis,
//! each under load from that very user. Prints percentiles of the time between the acknowledgement and the beginning of
//! the last request that passed; nothing is asserted but that the ban is enforced at all.
//!
//! `cargo bench --bench enforcement`; `ROUNDS=2000` for more bans.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and fails loudly")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "as the tests whose support it shares"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use support::gateway::Gateway;
use support::issuer::Issuer;
use support::origin::{Answer, Origin};
use support::raw::Raw;
use support::redis::Redis;

const RULES: &str = r#"
[ledger]
presets = []

[[ledger.rules]]
name = "banned_user"
guards = "user"
key = "banned:{sub}"
deny_if = "exists"
reason = "user_banned"
status = 403
"#;

fn main() {
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let (issuer, redis, origin) = (Issuer::new(Algorithm::ES256), Redis::start(), Origin::start());
    origin.answer(|_| Answer::new(200, ""));
    let setup = Gateway::guarding(&issuer, &origin).section(&redis.config_toml()).section(RULES);
    let setup = setup.log("level = \"info\"");
    let gateways = [setup.start(), setup.start(), setup.start()];
    let mut delays = Vec::with_capacity(rounds * gateways.len());
    for round in 0..rounds {
        let user = format!("user-{round}");
        let token = issuer.good(&user);
        let (warm, is_warm) = mpsc::channel();
        std::thread::scope(|scope| {
            let askers: Vec<_> = gateways
                .iter()
                .map(|gateway| {
                    let (address, token, warm) = (gateway.addr(), token.as_str(), warm.clone());
                    scope.spawn(move || last_pass(address, token, &warm))
                })
                .collect();
            for _ in &gateways {
                is_warm.recv().expect("an asker");
            }
            redis.cmd(&["SET", &format!("banned:{user}"), "1"]);
            let acknowledged = Instant::now();
            for asker in askers {
                delays.push(asker.join().expect("an asker").saturating_duration_since(acknowledged));
            }
        });
        origin.forget();
    }
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!(
        "{rounds} bans, {} gateways; Redis has acknowledged → the last request that passed began:",
        gateways.len()
    );
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        println!("  {name:>5} {:>9.3} ms", at(share).as_secs_f64() * 1e3);
    }
}

/// Asks without a pause until it is refused; when the last request that passed was begun.
fn last_pass(address: SocketAddr, token: &str, warm: &mpsc::Sender<()>) -> Instant {
    let request = format!("GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut connection = Raw::connect(address);
    let begin = Instant::now();
    let (mut passed, mut count) = (begin, 0);
    loop {
        let asked = Instant::now();
        match connection.send(&request).response().status {
            200 => passed = asked,
            403 => return passed,
            other => panic!("{other}"),
        }
        count += 1;
        if count == 20 {
            warm.send(()).unwrap_or_default();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the ban is not enforced");
    }
}
