//! What the configuration accepts and what it says to the rest.

mod files;
mod forward_auth;
mod handling;
mod mistakes;
mod sessions;
mod shipped;
mod upstreams;
mod tls;

use std::time::Duration;

use super::*;
use crate::ledger::rule::{Condition, IfAbsent};
use crate::ledger::settings::{HostPort, RedisAddress, RedisServers};
use crate::route::Access;
use crate::verify::KeySource;

const UPSTREAM: &str = "[[upstreams]]\nname = \"app\"\nservers = [\"127.0.0.1:3000\"]\n";
const ROUTE: &str = "[[routes]]\npath = \"/\"\nupstream = \"app\"\nauth = \"public\"\n";
const ISSUER: &str = "[[issuers]]\nissuer = \"a\"\naudience = [\"x\"]\nalgorithms = [\"HS256\"]\n\
                      keys = [{ alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" }]\n";

fn environment(name: &str) -> Option<String> {
    match name {
        "THREADS" => Some("3".into()),
        "PASSWORD" => Some("hunter2hunter2".into()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Checked, Problems> {
    Config::parse(text, "gateway.toml", Path::new("."), &environment)
}

/// A working file with `extra` before the upstream and the route.
fn with(extra: &str) -> Result<Checked, Problems> {
    parse(&format!("{extra}\n{UPSTREAM}{ROUTE}"))
}

fn good(text: &str) -> Config {
    match with(text) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// `line:column: message` of every problem.
fn told(result: Result<Checked, Problems>) -> Vec<String> {
    let problems = result.err().expect("problems");
    problems.list.iter().map(|p| format!("{}:{}: {}", p.line, p.column, p.message)).collect()
}

/// The one problem of a working file with `extra` in it; it holds `message`.
#[track_caller]
fn refused(extra: &str, message: &str) {
    let told = told(with(extra));
    assert!(told.len() == 1 && told[0].contains(message), "{extra}\n{told:#?}");
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = good("");
    assert_eq!(config.server.listen, ["0.0.0.0:8080".parse().expect("address")]);
    assert!(config.server.threads >= 1);
    assert_eq!(config.server.limits.body_bytes, 10 << 20);
    assert_eq!(config.server.drain, Duration::from_secs(30));
    assert_eq!(config.admin.listen, "127.0.0.1:9900".parse().expect("address"));
    assert_eq!(config.identity.headers.len(), 3);
    assert_eq!(config.ledger.database.url, "sqlite://portcullis.db");
    assert_eq!(config.ledger.refresh_lifetime, Duration::from_secs(7 * 24 * 3600));
    assert_eq!((config.tokens, config.ledger.answers), (100_000, 1_000_000));
    assert_eq!(config.routes[0].access, Access::Open);
    assert_eq!(&*config.routes[0].name, "root");
}

#[test]
fn every_problem_is_told_at_once_each_with_its_place() {
    let text = "[server]\nlisten = [\"nowhere\"]\nthread = 2\ndrain = 5\n\n[log]\nformat = \"jason\"\n\n\
                [[upstreams]]\nname = \"app\"\nservers = [\"http://x:1\", { address = \"a:1\", weight = 0 }]\n\n\
                [[routes]]\npath = \"/\"\nupstream = \"ap\"\nauth = \"public\"\n";
    assert_eq!(
        told(parse(text)),
        [
            "2:11: expected an address and a port, such as \"127.0.0.1:8080\"",
            "3:1: unknown key `thread` in `server`; did you mean `threads`?",
            "4:9: expected a duration with its unit, such as \"5s\", found an integer",
            "7:10: expected one of `json`, `text`; did you mean `json`?",
            "11:12: expected a host and a port, such as \"10.0.0.5:3000\", without a scheme",
            "11:54: must lie between 1 and 1000",
            "15:12: there is no such upstream; did you mean `app`?",
        ]
    );
}

#[test]
fn a_problem_is_shown_with_its_line() {
    let problems = with("[server]\nthread = 2").err().expect("problems");
    let shown = problems.to_string();
    let mut lines = shown.lines();
    assert_eq!(
        lines.next(),
        Some("gateway.toml:2:1: unknown key `thread` in `server`; did you mean `threads`?")
    );
    assert!(shown.contains("2 | thread = 2") && shown.contains("| ^^^^^^"), "{shown}");
}

#[test]
fn syntax_errors_and_duplicate_keys_have_their_place() {
    assert!(told(parse("[server]\nlisten = [\n"))[0].starts_with("2:"));
    assert!(told(parse("[server]\nthreads = 1\nthreads = 2\n"))[0].starts_with("3:1: "));
}

#[test]
fn variables_are_filled_in_and_never_shown() {
    let config =
        good("[server]\nthreads = \"${THREADS}\"\n[redis]\nurl = \"redis://:${PASSWORD}@${HOST:-h}/0\"");
    assert_eq!(config.server.threads, 3);
    let redis = config.ledger.redis.expect("Redis");
    assert_eq!(redis.login.password.as_deref(), Some("hunter2hunter2"));
    let address = RedisAddress::Tcp(HostPort { host: "h".into(), port: 6379 });
    assert!(redis.servers == RedisServers::Single(address));
    refused("[redis]\nurl = \"${REDIS_URL}\"", "environment variable `REDIS_URL` is not set");
    for section in [
        "[redis]\nurl",
        "[database]\nurl",
        "[log]\nformat",
        "[log]\nlevel",
        "[server]\ndrain",
        "[identity]\nx",
    ] {
        let problems = with(&format!("{section} = \"{{${{PASSWORD}}\"")).err().expect("problems");
        assert!(!format!("{problems}{problems:?}").contains("hunter2"), "{problems}");
    }
}

#[test]
fn secrets_appear_in_no_message_and_not_in_what_is_in_effect() {
    let bad = format!(
        "[admin]\ntoken = \"hunter2 hunter2\"\n[redis]\nurl = \"redis://u:hunter2@h/x\"\n[database]\nurl = \"my://u:hunter2@h\"\n\
         [[issuers]]\nissuer = \"a\"\nkeys = [{{ alg = \"HS1\", secert = \"hunter2\", secret_base64 = \"hunter2!\" }}]\n{UPSTREAM}{ROUTE}"
    );
    let problems = parse(&bad).err().expect("problems");
    assert!(problems.list.len() > 5 && !format!("{problems}{problems:?}").contains("hunter2"), "{problems}");
    let open = parse("[admin]\ntoken = \"hunter2\n").err().expect("problems");
    assert!(!open.to_string().contains("hunter2"), "{open}");

    let fine = format!(
        "[admin]\ntoken = \"hunter2hunter2hunter2\"\n[redis]\nurl = \"redis://u:hunter2@h/1\"\n\
         [database]\nurl = \"postgres://u:hunter2@h/db\"\n{ISSUER}"
    );
    let effective = toml::to_string(&with(&fine).unwrap_or_else(|problems| panic!("{problems}")).effective)
        .expect("TOML");
    assert!(!effective.contains("hunter2") && !effective.contains("0123456789abcdef"), "{effective}");
    assert!(effective.contains("<secret>") && effective.contains("redis://h/1"), "{effective}");
}

#[test]
fn what_is_in_effect_is_a_configuration_again() {
    let checked = with("[ledger]\npresets = [\"native\", \"invalid-users\"]")
        .unwrap_or_else(|problems| panic!("{problems}"));
    let again = parse(&toml::to_string(&checked.effective).expect("TOML"));
    let again = again.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(again.config == checked.config && again.effective == checked.effective);
}

#[test]
fn the_control_listener_is_not_opened_to_others_without_a_token() {
    refused("[admin]\nlisten = \"0.0.0.0:9900\"", "needs `token`");
    refused("[admin]\ntoken_file = \"/dev/null\"", "not a regular file");
    refused("[admin]\nlisten = \"127.0.0.1:8080\"", "the server listens on this address already");
    assert_eq!(good("[admin]\nlisten = \"127.0.0.1:0\"").admin.listen.port(), 0);
}

#[test]
fn secret_files_lose_their_newline_and_are_found_beside_the_configuration() {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("t"), "0123456789abcdef\n").expect("file");
    let text = format!("[admin]\ntoken_file = \"t\"\n{UPSTREAM}{ROUTE}");
    let checked = Config::parse(&text, "gateway.toml", directory.path(), &environment)
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.config.admin.token.as_deref(), Some("0123456789abcdef"));
    assert!(checked.warnings.to_string().contains("everyone on this machine can read"));

    let text = text.replace("token_file", "token = \"0123456789abcdef\"\ntoken_file");
    let both = Config::parse(&text, "gateway.toml", directory.path(), &environment);
    assert_eq!(told(both), ["3:1: `token` and `token_file` are both given; one is enough"]);
    refused("[admin]\ntoken_file = \"no such file\"", "cannot be read");
}

#[test]
fn issuers_say_clearly_whom_they_believe() {
    good(ISSUER);
    let changed = |from: &str, to: &str| ISSUER.replace(from, to);
    refused(&changed("[\"HS256\"]", "[\"HS256\", \"RS256\"]"), "must not be mixed");
    refused(&changed("audience = [\"x\"]\n", ""), "`audience` must name");
    good(&changed("audience = [\"x\"]", "required = [\"exp\"]"));
    refused(&changed("keys", "jwks_file = \"Cargo.toml\"\nkeys"), "keys come from one place");
    refused(
        &changed("keys = [{ alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" }]", ""),
        "no keys",
    );
    refused(&changed("secret", "pem"), "takes a `secret` key");
    refused(&changed("secret =", "secret_base64 = \"AAAA\", secret ="), "exactly one of");
    refused(&changed("alg = \"HS256\"", "alg = \"HS512\""), "not in the issuer's `algorithms`");
    refused(&format!("{ISSUER}jwks = {{ refresh = \"1m\" }}"), "about key sets that are fetched");
    refused(&format!("{ISSUER}refresh_lifetime = \"1m\""), "shorter than `token_lifetime`");
    refused(&format!("{ISSUER}realm = \"a/b\""), "a realm is of letters");
    refused(
        "[[issuers]]\nissuer = \"a\"\naudience = [\"x\"]\nalgorithms = [\"HS256\"]\njwks_url = \"https://h/\"",
        "not published",
    );
}

#[test]
fn keys_are_fetched_over_https_unless_told_otherwise() {
    let remote = |issuer: &str, source: &str| {
        format!("[[issuers]]\nissuer = \"{issuer}\"\naudience = [\"x\"]\nalgorithms = [\"RS256\"]\n{source}")
    };
    refused(&remote("a", "jwks_url = \"http://h/jwks\""), "plain HTTP");
    refused(&remote("http://h", "discovery = true"), "plain HTTP");
    refused(&remote("https://h", "discovery = false"), "names no keys");
    for source in ["jwks_url = \"http://127.0.0.1:1/\"", "jwks_url = \"http://h/\"\njwks.allow_http = true"] {
        let config = good(&remote("a", source));
        assert!(matches!(config.issuers[0].keys, KeySource::Url { .. }));
    }
}

#[test]
fn several_issuers_each_name_a_realm_of_their_own() {
    let issuer = |name: &str, realm: &str| {
        format!("{}{realm}\n", ISSUER.replace("issuer = \"a\"", &format!("issuer = \"{name}\"")))
    };
    let two = |a: &str, b: &str| format!("{}{}", issuer("a", a), issuer("b", b));
    good(&two("realm = \"a\"", "realm = \"b\""));
    good(&two("realm = \"\"", "realm = \"\""));
    refused(&two("realm = \"a\"", ""), "each names its `realm`");
    refused(&two("realm = \"a\"", "realm = \"\""), "cannot stand beside named ones");
    refused(&format!("{}{}", issuer("a", "realm = \"a\""), issuer("a", "realm = \"b\"")), "configured twice");
}

#[test]
fn a_rule_that_nobody_can_answer_is_refused() {
    let rule = |rest: &str| format!("[[ledger.rules]]\nname = \"r\"\nguards = \"user\"\n{rest}");
    let redis = |rest: &str| format!("[redis]\nurl = \"redis://h\"\n{}", rule(rest));
    let sql = "sql = { query = \"SELECT 1 FROM t WHERE id = {sub:int}\", deny_if = \"exists\" }";
    refused(&rule(""), "asks nobody");
    refused(&rule("key = \"k:{sub}\"\ndeny_if = \"exists\""), "no `[redis]`");
    refused(&redis("key = \"k:{sub}\""), "`deny_if` is missing");
    refused(&redis("key = \"k:{sub}\"\ndeny_if = \"missing\""), "needs `sql`");
    refused(&redis("key = \"k:{sub}\"\ndeny_if = { lacks = \"{token}\" }"), "needs `sql`");
    refused(&redis("key = \"k:{sub}\"\ndeny_if = \"exists\"\nif_absent = \"ask_database\""), "needs `sql`");
    refused(&redis("key = \"k:{sub}\"\ndeny_if = \"exists\"\nttl = \"5m\""), "does not ask it");
    refused(
        &redis(&format!("key = \"k\"\ndeny_if = \"missing\"\nif_absent = \"allow\"\n{sql}")),
        "contradicts",
    );
    refused(&rule(&format!("ttl = \"5m\"\n{sql}")), "has no `key`");
    refused(&rule(&format!("reason = \"Bad\"\n{sql}")), "small letters");
    refused(&rule(&format!("status = 302\n{sql}")), "between 400 and 599");
    refused(&redis("key = \"k:{roles}\"\ndeny_if = \"exists\""), "identity headers only");

    let config = good(&redis(&format!("key = \"k:{{sub}}\"\ndeny_if = {{ equals = \"0\" }}\n{sql}")));
    let rule = &config.ledger.rules[0];
    let question = rule.redis.as_ref().expect("key");
    assert_eq!(question.deny_if, Condition::Equals(vec!["0".into()]));
    assert_eq!((question.if_absent, rule.status, &*rule.reason), (IfAbsent::AskDatabase, 403, "r"));
}

#[test]
fn statements_read_and_their_placeholders_exist() {
    let rule = |query: &str, deny_if: &str| {
        format!(
            "[[ledger.rules]]\nname = \"r\"\nguards = \"user\"\nsql = {{ query = \"{query}\", deny_if = {deny_if} }}"
        )
    };
    let exists = "\"exists\"";
    good(&rule("SELECT a FROM t WHERE b = {claims.x:uuid} AND c = 'it''s'", exists));
    refused(&rule("DELETE FROM t", exists), "a rule reads");
    refused(&rule("SELECT 1; DROP TABLE t", exists), "one statement only");
    refused(&rule("SELECT {who}", exists), "no such placeholder");
    refused(&rule("SELECT {sub:date}", exists), "a placeholder's type");
    refused(&rule("SELECT '{sub}'", exists), "without quotes");
    refused(&rule("SELECT {sub", exists), "`{` without `}`");
    refused(&rule("SELECT 1", "{ contains = \"{sub}\" }"), "sets in Redis");
    refused(&rule("SELECT 1", "{ json = \"/a\" }"), "expected \"exists\"");
    refused(&rule("SELECT 1", "\"exist\""), "expected \"exists\"");
}

#[test]
fn presets_take_parameters_only_where_they_are_used() {
    refused("[ledger.preset.invalid-users]\nlayout = \"set\"", "not in `ledger.presets`");
    refused("[ledger]\npresets = [\"nativ\"]", "did you mean `native`?");
    refused("[ledger]\npresets = [\"native\", \"native\"]", "listed twice");
    let users = |rest: &str| {
        format!("[ledger]\npresets = [\"invalid-users\"]\n[ledger.preset.invalid-users]\n{rest}")
    };
    good(&users("layout = \"sorted_set\"\nkey = \"bad\""));
    refused(&users("key = \"bad\""), "`key` does nothing in this layout");
    refused(&users("layout = \"set\"\nprefix = \"bad\""), "`prefix` does nothing in this layout");
    refused(&users("prefix = \"a{b}\""), "visible ASCII");
    refused(&users("table = \"users; --\""), "plain name");
    refused(&users("columns = { status = \"a.b\" }"), "without its table");
}

#[test]
fn an_empty_configuration_serves_nothing_and_says_so() {
    let told = told(parse(""));
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("`[[upstreams]]`") && told[1].contains("`[[routes]]`"), "{told:?}");
}

#[test]
fn routes_say_who_may_pass_and_lean_on_what_exists() {
    let route = |rest: &str| format!("[[routes]]\npath = \"/x\"\nupstream = \"app\"\n{rest}\n");
    refused(&route(""), "no `[[issuers]]`");
    good(&format!("{ISSUER}{}", route("auth = \"optional\"\nrequire = { claims = { tenant = \"acme\" } }")));
    assert_eq!(good(&route("auth = \"none\"")).routes[0].access, Access::Open);
    let public = |rest: &str| route(&format!("auth = \"public\"\n{rest}"));
    refused(&public("require = { scopes = [\"a\"] }"), "`require` does nothing");
    refused(&public("on_outage = \"allow\""), "`on_outage` does nothing");
    refused(&public("hosts = [\"a.b:80\"]"), "a host without port");
    refused(&public("hosts = [\"*.*.b\"]"), "a host without port");
    refused(&public("methods = [\"TRACE\"]"), "refused on every route");
    refused(&public("methods = [\"get\"]"), "capital letters");
    refused(&format!("{ISSUER}{}", route("redirect = \"//evil\"")), "a local path");
    refused(&public("auht = \"x\""), "did you mean `auth`?");
}

#[test]
fn two_routes_that_match_the_same_requests_are_told_at_both_places() {
    let route = |path: &str, rest: &str| {
        format!("[[routes]]\npath = \"{path}\"\nupstream = \"app\"\nauth = \"public\"\n{rest}\n")
    };
    let both = format!(
        "{}{}",
        route("/a/{x}", "methods = [\"GET\", \"PUT\"]"),
        route("/a/{y}", "methods = [\"PUT\"]")
    );
    let told = told(with(&both));
    assert_eq!(
        told,
        [
            "2:1: this route matches the same requests as route `a-y`, and no order decides",
            "7:1: this route matches the same requests as route `a-x`, and no order decides",
        ]
    );
    good(&format!("{}{}", route("/a", "hosts = [\"x.y\"]"), route("/a", "hosts = [\"*.y\"]")));
    good(&format!("{}{}", route("/a", ""), route("/a", "methods = [\"PUT\"]")));
    refused(
        &format!("{}{}", route("/a", "name = \"n\""), route("/b", "name = \"n\"")),
        "two routes have this name",
    );
}

#[test]
fn keys_of_redis_stand_only_where_they_mean_something() {
    let redis = |lines: &str| format!("[redis]\n{lines}");
    let one = |rest: &str| redis(&format!("url = \"redis://h\"\n{rest}"));
    refused(&redis(""), "`url` is missing");
    refused(&one("urls = [\"redis://h\"]"), "both given");
    refused(&redis("urls = [\"redis://a\", \"redis://b\"]"), "say `cluster = true`");
    refused(&one("ca = \"rustfmt.toml\"").replace("redis:", "rediss:"), "this file holds no certificates");
    let two = told(with(&one("key = \"rustfmt.toml\"").replace("redis:", "rediss:")));
    assert!(two[0].contains("`key` needs its `cert`") && two[1].contains("no private key"), "{two:?}");
    refused(&one("sentinel_password = \"x\""), "does nothing without sentinels");
    refused(
        &redis("url = \"redis+sentinel://a/b\"\nsentinel_username = \"x\""),
        "without `sentinel_password`",
    );
    let cluster = |urls: &str| redis(&format!("cluster = true\nurls = [{urls}]"));
    refused(&cluster("\"redis://a\", \"rediss://b\""), "one scheme");
    refused(&cluster("\"redis://a\", \"redis://:x@b\""), "one user");
    refused(&cluster("\"redis://a/1\""), "database 0");
    refused(&cluster("\"redis+sentinel://a/b\""), "named by `redis://`");
    let seeds = good(&cluster("\"redis://a\", \"redis://b:7\"")).ledger.redis.expect("Redis").servers;
    assert!(matches!(seeds, RedisServers::Cluster { seeds } if seeds.len() == 2));
    assert!(good(&one("cluster = true")).ledger.redis.is_some());
}

#[test]
fn databases_are_named_by_url_and_other_names_become_the_known_ones() {
    for url in ["sqlite://", "oracle://h", "mysql:///db", "h"] {
        assert_eq!(told(with(&format!("[database]\nurl = \"{url}\""))).len(), 1, "{url}");
    }
    for (written, run) in [("postgresql://h/d", "postgres://h/d"), ("mariadb://h/d", "mysql://h/d")] {
        assert_eq!(good(&format!("[database]\nurl = \"{written}\"")).ledger.database.url, run);
    }
}

#[test]
fn zero_and_the_absurd_are_out_of_bounds() {
    refused("[server.limits]\nheader_timeout = \"0s\"", "must lie between");
    refused("[server.limits]\nheaders = 0", "must lie between");
    refused("[server.limits]\nbody_bytes = \"9EiB\"", "must lie between");
    refused("[redis]\nurl = \"redis://h\"\ntimeout = \"1h\"", "must lie between");
    refused("[log]\nsample = 2.5", "must lie between");
    refused("[log]\nlevel = \"inof\"", "expected one of");
    refused("[log]\naccess = \"off\"\nsample = 0.5", "only `access");
    refused("[token]\nfrom = [\"header:a b\"]", "letters, digits");
    refused("[token]\nfrom = []", "must not be empty");
    refused("[identity]\nheaders = { x-a = \"{sub}\", X_A = \"{sid}\" }", "two spellings");
    refused("[identity]\nheaders = { host = \"{sub}\" }", "a meaning of its own");
}
