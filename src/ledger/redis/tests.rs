//! Against a real `redis-server`, on a socket in a directory of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use prometheus::IntGauge;

use super::*;
use crate::ledger::settings::{Login, RedisAddress, RedisServers};
use crate::ledger::watermark::Ground;

/// A Redis server that lives as long as this value.
pub(in crate::ledger) struct Server {
    directory: tempfile::TempDir,
    child: Child,
}

impl Server {
    pub(in crate::ledger) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(in crate::ledger) async fn start_with(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let child = Self::spawn(&directory.path().join("redis.sock"), more);
        let server = Self { directory, child };
        server.answers().await;
        server
    }

    fn spawn(socket: &std::path::Path, more: &[&str]) -> Child {
        // The same variable as for the integration tests.
        let program = std::env::var("PORTCULLIS_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
        Command::new(program)
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--enable-debug-command", "yes"])
            .arg("--unixsocket")
            .arg(socket)
            .args(more)
            .current_dir(socket.parent().expect("a directory"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed")
    }

    /// `STOP` makes it hang without a word, `CONT` goes on.
    pub(in crate::ledger) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    pub(in crate::ledger) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    pub(in crate::ledger) fn settings(&self) -> RedisSettings {
        Self::at(self.socket())
    }

    /// Settings for whatever listens on a socket.
    pub(in crate::ledger) fn at(socket: PathBuf) -> RedisSettings {
        RedisSettings {
            servers: RedisServers::Single(RedisAddress::Unix(socket)),
            login: Login::default(),
            database: 0,
            tls: None,
            timeout: Duration::from_millis(500),
        }
    }

    pub(in crate::ledger) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Speaks to the server as another service would.
    pub(in crate::ledger) async fn cli(&self, arguments: &[&str]) -> Value {
        self.try_cli(arguments).await.expect("a reply")
    }

    pub(in crate::ledger) async fn try_cli(&self, arguments: &[&str]) -> redis::RedisResult<Value> {
        let client = redis::Client::open(self.url())?;
        // Longer than redis-rs's half a second: what a test asks of a busy machine may take its time.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await?;
        let mut command = redis::Cmd::new();
        arguments.iter().for_each(|argument| {
            command.arg(*argument);
        });
        command.query_async(&mut connection).await
    }

    async fn answers(&self) {
        eventually("Redis answers", async || self.try_cli(&["PING"]).await.is_ok()).await;
    }

    pub(in crate::ledger) fn kill(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it has ended");
        let _ = std::fs::remove_file(self.socket());
    }

    pub(in crate::ledger) async fn restart(&mut self) {
        self.child = Self::spawn(&self.socket(), &[]);
        self.answers().await;
    }

    /// Comes back with what it had saved, so slowly that it can be met while it loads.
    pub(in crate::ledger) async fn restart_loading(&mut self) {
        self.cli(&["DEBUG", "POPULATE", "3000", "filler", "100"]).await;
        self.cli(&["SAVE"]).await;
        self.kill();
        let slowly = ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"];
        self.child = Self::spawn(&self.socket(), &slowly);
        eventually("Redis listens", async || tokio::net::UnixStream::connect(self.socket()).await.is_ok())
            .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls for a fact, for at most ten seconds.
pub(in crate::ledger) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    // Only a test that fails waits for it: a machine may have other work.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Without a ground, which is believed.
pub(in crate::ledger) fn authority(ground: Ground) -> Arc<Authority> {
    Arc::new(Authority::new(ground, 0, Arc::default()))
}

pub(in crate::ledger) async fn store(server: &Server) -> Arc<RedisStore> {
    let up = IntGauge::new("up", "up").expect("a gauge");
    let breaker = Breaker::new("redis", Duration::from_millis(500), up, Arc::default());
    RedisStore::open(&server.settings(), breaker, authority(Ground::None)).await.expect("a store")
}

fn set(value: &str, ttl: u64) -> RedisWrite {
    RedisWrite::Set { key: "k".into(), value: value.into(), ttl: Some(Duration::from_secs(ttl)) }
}

fn add(score: Option<i64>, ttl: u64) -> RedisWrite {
    RedisWrite::AddMember { key: "s".into(), member: "7".into(), score, ttl: Some(Duration::from_secs(ttl)) }
}

fn text(value: &str) -> Value {
    Value::BulkString(value.as_bytes().to_vec())
}

#[tokio::test]
async fn the_newest_change_stands_in_whatever_order_they_arrive() {
    let server = Server::start().await;
    let store = store(&server).await;
    store.write(&[set("banned", 60)], 5, true).await.expect("written");
    store.write(&[set("older", 1)], 4, true).await.expect("left out");
    assert_eq!(server.cli(&["GET", "k"]).await, text("banned"));
    store.write(&[RedisWrite::Delete { key: "k".into() }], 5, false).await.expect("left out");
    assert_eq!(server.cli(&["GET", "k"]).await, text("banned"), "at one version the ban stands");
    store.write(&[RedisWrite::Delete { key: "k".into() }], 6, false).await.expect("written");
    store.write(&[set("banned", 60)], 5, true).await.expect("left out");
    assert_eq!(server.cli(&["GET", "k"]).await, Value::Nil, "a late ban does not come back");
    let Value::Int(life) = server.cli(&["TTL", "pc:version:{k}"]).await else { panic!("no version") };
    assert!(life >= 24 * 60 * 60 - 5);
    store.write(&[set("new", 60)], i64::MAX, true).await.expect("written");
    store.write(&[set("late", 60)], i64::MAX - 1, true).await.expect("left out");
    assert_eq!(server.cli(&["GET", "k"]).await, text("new"), "no precision is lost beyond 2^53");
}

#[tokio::test]
async fn what_is_over_is_not_written_and_takes_what_is_older_with_it_and_a_life_is_kept() {
    let server = Server::start().await;
    let store = store(&server).await;
    store.write(&[set("older", 60)], 1, true).await.expect("written");
    store.write(&[set("over", 0)], 2, true).await.expect("removed");
    store.write(&[set("older", 60)], 1, true).await.expect("left out");
    assert_eq!(server.cli(&["EXISTS", "k"]).await, Value::Int(0));
    store.write(&[set("x", 60)], 2, true).await.expect("written");
    let Value::Int(life) = server.cli(&["TTL", "k"]).await else { panic!("no life") };
    assert!((55..=60).contains(&life));
    let forever = RedisWrite::Set { key: "k".into(), value: "x".into(), ttl: None };
    store.write(&[forever], 3, true).await.expect("written");
    assert_eq!(server.cli(&["TTL", "k"]).await, Value::Int(-1));
}

#[tokio::test]
async fn members_have_versions_of_their_own_and_never_shorten_the_set() {
    let server = Server::start().await;
    let store = store(&server).await;
    server.cli(&["SADD", "s", "1"]).await;
    store.write(&[add(None, 60)], 5, true).await.expect("written");
    assert_eq!(server.cli(&["TTL", "s"]).await, Value::Int(-1), "somebody's lasting set stays lasting");
    let remove = |sorted| RedisWrite::RemoveMember { key: "s".into(), member: "7".into(), sorted };
    store.write(&[remove(false)], 4, false).await.expect("left out");
    assert_eq!(server.cli(&["SISMEMBER", "s", "7"]).await, Value::Int(1));
    store.write(&[remove(false)], 6, false).await.expect("written");
    assert_eq!(server.cli(&["SMEMBERS", "s"]).await, Value::Array(vec![text("1")]));
    server.cli(&["FLUSHALL"]).await;
    store.write(&[add(Some(9), 60)], 1, true).await.expect("written");
    store.write(&[add(Some(9), 5)], 2, true).await.expect("written");
    assert_eq!(server.cli(&["ZSCORE", "s", "7"]).await, text("9"));
    let Value::Int(life) = server.cli(&["TTL", "s"]).await else { panic!("no life") };
    assert!(life > 50);
    store.write(&[remove(true)], 3, false).await.expect("written");
    assert_eq!(server.cli(&["EXISTS", "s"]).await, Value::Int(0));
}

#[tokio::test]
async fn a_write_to_a_key_of_another_type_is_refused_and_leaves_no_version() {
    let server = Server::start().await;
    let store = store(&server).await;
    server.cli(&["SET", "s", "text"]).await;
    let told = store.write(&[set("x", 60), add(None, 60)], 5, true).await.expect("told");
    assert_eq!(told.refused, [5]);
    assert_eq!(server.cli(&["EXISTS", "pc:version:{s}:7"]).await, Value::Int(0));
    assert_eq!(server.cli(&["GET", "k"]).await, text("x"), "the rest of it is written");
}

#[tokio::test]
async fn an_answer_from_before_a_change_is_not_kept_after_it() {
    let server = Server::start().await;
    let store = store(&server).await;
    let seen = store.version("k").await.expect("a version");
    store.write_back("k", "true", Duration::from_secs(60), &seen).await.expect("kept");
    assert_eq!(server.cli(&["GET", "k"]).await, text("true"));
    store.write_back("k", "false", Duration::from_secs(60), &seen).await.expect("left out");
    assert_eq!(server.cli(&["GET", "k"]).await, text("true"), "what is there is not overwritten");
    store.write(&[RedisWrite::Delete { key: "k".into() }], 1, true).await.expect("written");
    store.write_back("k", "true", Duration::from_secs(60), &seen).await.expect("left out");
    assert_eq!(server.cli(&["GET", "k"]).await, Value::Nil);
}

#[test]
fn a_version_key_lies_in_the_slot_of_its_key() {
    assert_eq!(version_key("user:7", ""), "pc:version:{user:7}");
    assert_eq!(version_key("set", "7"), "pc:version:{set}:7");
    assert_eq!(version_key("a{tag}b", ""), "pc:version:a{tag}b");
}

proptest::proptest! {
    /// A user may be called anything, and a script over keys of two slots is refused for ever.
    #[test]
    fn so_it_does_whatever_braces_the_key_has(key in "[a:{}]{1,8}", member in "[a{}]{0,3}") {
        let version = version_key(&key, &member);
        proptest::prop_assert_eq!(slots::slot_of(version.as_bytes()), slots::slot_of(key.as_bytes()), "{}", version);
    }
}

#[tokio::test]
async fn keys_are_counted_by_prefix_page_by_page_and_not_beyond_the_time_allowed() {
    let server = Server::start().await;
    let store = store(&server).await;
    server.cli(&["DEBUG", "POPULATE", "2000", "a[*]:", "1"]).await;
    server.cli(&["DEBUG", "POPULATE", "30", "a[*]:b", "1"]).await;
    server.cli(&["SET", "a", "1"]).await;
    let count = async |budget| store.census(&["a[*]:", "a[*]:b", "none"], budget).await.expect("a census");
    let all = count(Duration::from_secs(10)).await;
    assert!(all.complete);
    assert_eq!(all.counts, [2030, 30, 0]);
    let some = count(Duration::ZERO).await;
    assert!(!some.complete && some.counts[0] < 2030, "{some:?}");
}

#[tokio::test]
async fn members_that_are_over_leave_the_sets_that_begin_so_and_nothing_else() {
    let server = Server::start().await;
    let store = store(&server).await;
    for set in ["s[1]:7", "s[1]:8", "s1:7"] {
        server.cli(&["SADD", set, "old-1", "old-2", "new"]).await;
    }
    server.cli(&["SADD", "s[1]:9", "old"]).await;
    server.cli(&["SET", "s[1]:text", "old"]).await;
    let swept = store.sweep("s[1]:", |member| member.starts_with(b"old")).await.expect("swept");
    assert_eq!(swept, 5);
    assert_eq!(server.cli(&["SMEMBERS", "s[1]:8"]).await, Value::Array(vec![text("new")]));
    assert_eq!(server.cli(&["SCARD", "s1:7"]).await, Value::Int(3));
    assert_eq!(server.cli(&["EXISTS", "s[1]:9"]).await, Value::Int(0), "a set without members is none");
    assert!(store.claim("pc:swept", Duration::from_secs(60)).await.expect("asked"));
    assert!(!store.claim("pc:swept", Duration::from_secs(60)).await.expect("asked"), "once for all gateways");
}

#[tokio::test]
async fn a_server_tells_its_policy_and_what_it_has_evicted() {
    let server = Server::start().await;
    let store = store(&server).await;
    let [before] = store.eviction().await.expect("told").try_into().expect("one server");
    assert_eq!((before.policy.as_str(), before.evicted), ("noeviction", 0));
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]).await;
    server.cli(&["DEBUG", "POPULATE", "20000", "filler", "100"]).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "2mb"]).await;
    eventually("keys are evicted", async || {
        let _ = server.try_cli(&["SET", "k", "1"]).await;
        let [now] = store.eviction().await.expect("told").try_into().expect("one server");
        now.life == before.life && now.policy == "allkeys-random" && now.evicted > 0
    })
    .await;
}
