//! The ledger: its rules, its presets, and the stores it asks.

use super::*;

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
