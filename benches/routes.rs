//! Ten thousand routes: how long one request takes to find its own, beside ten of them; how long they take to load, and
//! what they cost in memory.
//!
//! `cargo bench --bench routes`; `ROUTES=100000` for more. Needs no network and no store.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and fails loudly")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use portcullis::config::Config;
use portcullis::rate::Limits;
use portcullis::route::{Route, RouteTable};

/// What a request asks for.
struct Ask {
    host: String,
    path: String,
    method: Method,
}

fn main() {
    let many: usize = std::env::var("ROUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let shapes: [(&str, Shape); 3] =
        [("siblings", siblings), ("a tree of parameters", tree), ("a host each", hosts)];
    for (name, shape) in shapes {
        let few = measure(10, shape);
        let all = measure(many, shape);
        println!(
            "{name}: {:.0} ns to find one of {many} ({:.0} ns of 10, {:.1} times as long); \
             {:.0} ms to load, {:.1} KiB each",
            all.find,
            few.find,
            all.find / few.find,
            all.load.as_secs_f64() * 1e3,
            all.bytes / 1024.0
        );
    }
}

/// Makes the route of a number.
type Shape = fn(usize) -> Written;

/// One route as written, and a request for it.
struct Written {
    toml: String,
    ask: Ask,
}

fn siblings(at: usize) -> Written {
    let path = format!("/service-{at}");
    written(
        &format!("path = \"{path}/{{*rest}}\""),
        "api.example.com",
        &format!("{path}/things/7"),
        Method::GET,
    )
}

/// Most of them share their beginning, and every other segment is anybody's.
fn tree(at: usize) -> Written {
    let (a, b, c) = (at % 10, at / 10 % 10, at / 100);
    let method = if at.is_multiple_of(2) { Method::GET } else { Method::PUT };
    let lines = format!("path = \"/v{a}/{{tenant}}/users-{b}/{{id}}/posts-{c}\"\nmethods = [\"{method}\"]");
    written(&lines, "api.example.com", &format!("/v{a}/acme/users-{b}/4711/posts-{c}"), method)
}

fn hosts(at: usize) -> Written {
    let host = format!("customer-{at}.example.com");
    written(&format!("hosts = [\"{host}\"]\npath = \"/api/{{*rest}}\""), &host, "/api/things/7", Method::GET)
}

fn written(lines: &str, host: &str, path: &str, method: Method) -> Written {
    let toml = format!("[[routes]]\n{lines}\nupstream = \"app\"\nauth = \"public\"\n");
    Written { toml, ask: Ask { host: host.to_owned(), path: path.to_owned(), method } }
}

struct Figures {
    /// Nanoseconds.
    find: f64,
    load: Duration,
    /// Of memory, for each route.
    bytes: f64,
}

fn measure(count: usize, shape: Shape) -> Figures {
    let mut toml = "[[upstreams]]\nname = \"app\"\nservers = [\"127.0.0.1:3000\"]\n".to_owned();
    let mut asks = Vec::with_capacity(count);
    for at in 0..count {
        let Written { toml: lines, ask } = shape(at);
        writeln!(toml, "{lines}").unwrap();
        asks.push(ask);
    }
    let began = Instant::now();
    let checked = Config::parse(&toml, "gateway.toml", Path::new("."), &|_| None);
    let config = checked.map_err(|problems| problems.to_string()).unwrap().config;
    let parsed = began.elapsed();
    let began = Instant::now();
    let table = table(&config);
    let load = parsed + began.elapsed();
    // What reading has left free is filled up first; then every copy costs what one does.
    let _filling: Vec<_> = (0..COPIES / 2).map(|_| self::table(&config)).collect();
    let before = resident();
    let _copies: Vec<_> = (0..COPIES).map(|_| self::table(&config)).collect();
    let bytes = resident().saturating_sub(before) as f64 / (count * COPIES) as f64;
    Figures { find: find(&table, &asks), load, bytes }
}

const COPIES: usize = 10;

/// As the gateway makes it, but for the servers behind.
fn table(config: &Config) -> RouteTable {
    let route = |(index, settings)| {
        Arc::new(Route { settings, index, upstream: None, limits: Limits::new(&"".into(), &[]) })
    };
    let routes: Vec<_> = config.routes.iter().cloned().enumerate().map(route).collect();
    RouteTable::new(&routes)
}

/// Nanoseconds for one look-up, the best of some rounds; every route is asked for in an order that no cache foresees.
fn find(table: &RouteTable, asks: &[Ask]) -> f64 {
    let rounds = (2_000_000 / asks.len()).clamp(5, 20_000);
    let stride = 7919 % asks.len().max(2);
    let order: Vec<&Ask> =
        (0..asks.len()).filter_map(|at| asks.get(at * stride.max(1) % asks.len())).collect();
    let round = || {
        let began = Instant::now();
        for Ask { host, path, method } in &order {
            assert!(black_box(table.find(black_box(host), black_box(path), method)).is_some());
        }
        began.elapsed().as_nanos() as f64 / order.len() as f64
    };
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Memory that the process holds, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<usize>().ok());
    kib.unwrap_or_default() * 1024
}
