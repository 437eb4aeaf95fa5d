//! `[[ledger.rules]]`: more questions of the operator's own.

use super::kinds::{DAY, SECOND, duration, integer, json, parsed, placed, template, word};
use super::node::{Item, Node};
use super::problem::Span;
use super::reader::{Placed, Reader, Table};
use crate::ledger::rule::{Condition, IfAbsent, RedisQuestion, SqlQuestion};
use crate::ledger::{Guards, Rule};
use crate::template::{Field, Template};

/// One `[[ledger.rules]]`, as written.
struct Written {
    name: Option<String>,
    guards: Option<Guards>,
    key: Option<Template>,
    deny_if: Option<Placed<Condition>>,
    if_absent: Option<IfAbsent>,
    sql: Option<SqlQuestion>,
    reason: Option<String>,
    status: Option<u16>,
    ttl: Option<std::time::Duration>,
}

pub fn rule(table: &mut Table<'_>, redis: bool) -> Option<Rule> {
    let guards = Guards::ALL.map(|guards| (guards.word(), guards));
    let absent = [("allow", IfAbsent::Allow), ("ask_database", IfAbsent::AskDatabase)];
    let written = Written {
        name: table.need("name", parsed(word_of_ours)),
        guards: table.need("guards", word(&guards)),
        key: table.maybe("key", template),
        deny_if: table.maybe("deny_if", placed(condition)),
        if_absent: table.maybe("if_absent", word(&absent)),
        sql: question(table),
        reason: table.maybe("reason", parsed(word_of_ours)),
        status: table.maybe("status", integer(400..=599)),
        ttl: table.maybe("ttl", duration(SECOND..=366 * DAY)),
    };
    answerable(table, redis);
    let silence = silence(table, &written);
    let Written { name, guards, key, deny_if, if_absent: _, sql, reason, status, ttl } = written;
    let (name, guards) = (name?, guards?);
    let question = match (table.has("key"), key, deny_if) {
        (false, ..) => None,
        (true, Some(key), Some(deny_if)) => {
            Some(RedisQuestion { key, deny_if: deny_if.value, if_absent: silence })
        }
        (true, ..) => return None,
    };
    let reason = reason.unwrap_or_else(|| name.clone());
    let status = status.unwrap_or(if guards == Guards::User { 403 } else { 401 });
    table.in_effect("reason", reason.as_str());
    table.in_effect("status", i64::from(status));
    if question.is_some() {
        table.in_effect("if_absent", if silence == IfAbsent::Allow { "allow" } else { "ask_database" });
    }
    Some(Rule {
        name: name.into(),
        guards,
        redis: question,
        sql,
        reason: reason.into(),
        status,
        ttl: ttl.unwrap_or(300 * SECOND),
    })
}

/// A rule that no store could ever answer would deny nothing, or everything.
fn answerable(table: &Table<'_>, redis: bool) {
    let tell = |key: &str, message: &str| table.reader.problem(&table.place(key), message);
    match (table.has("key"), table.has("sql")) {
        (false, false) => tell("name", "this rule asks nobody: give it `key`, `sql` or both"),
        (true, false) if !redis => {
            tell("key", "there is no `[redis]` to answer this: add it, or give the rule `sql`")
        }
        _ => {}
    }
    if table.has("key") && !table.has("deny_if") {
        tell("key", "`deny_if` is missing: which value of this key denies?");
    }
    for key in ["deny_if", "if_absent", "ttl"] {
        if table.has(key) && !table.has("key") {
            tell(key, "this is about Redis, and the rule has no `key`");
        }
    }
}

/// What silence in Redis means. Absence alone never denies: it asks the database.
fn silence(table: &Table<'_>, written: &Written) -> IfAbsent {
    let tell = |at: &Span, message: &str| table.reader.problem(at, message);
    let has_sql = table.has("sql");
    let presence_allows = match &written.deny_if {
        Some(Placed { at, value: Condition::Missing | Condition::Lacks(_) }) => {
            if !has_sql {
                tell(at, "absence alone is never believed: such a rule needs `sql` to ask");
            }
            if written.if_absent == Some(IfAbsent::Allow) {
                tell(&table.place("if_absent"), "`allow` on absence contradicts `deny_if`");
            }
            true
        }
        _ => false,
    };
    if written.if_absent == Some(IfAbsent::AskDatabase) && !has_sql {
        tell(&table.place("if_absent"), "`ask_database` needs `sql`");
    }
    let silence = written.if_absent.unwrap_or(match presence_allows || has_sql {
        true => IfAbsent::AskDatabase,
        false => IfAbsent::Allow,
    });
    if table.has("ttl") && silence == IfAbsent::Allow && table.has("key") {
        tell(
            &table.place("ttl"),
            "`ttl` keeps answers of the database, and this rule does not ask it on absence",
        );
    }
    silence
}

fn question(table: &mut Table<'_>) -> Option<SqlQuestion> {
    table.exists("sql");
    if table.has("sql") { table.table("sql", sql) } else { None }
}

fn sql(table: &mut Table<'_>) -> Option<SqlQuestion> {
    let query = table.need("query", parsed(query));
    let deny_if = table.need("deny_if", placed(condition));
    let deny_if = deny_if?;
    if matches!(deny_if.value, Condition::Contains(_) | Condition::Lacks(_)) {
        table
            .reader
            .problem(&deny_if.at, "`contains` and `lacks` are about sets in Redis; a query has its WHERE");
        return None;
    }
    Some(SqlQuestion { query: query?, deny_if: deny_if.value })
}

/// The words of rules and reasons: they become labels of metrics and codes that clients read.
fn word_of_ours(text: &str) -> Result<String, String> {
    let fits = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    fits.then(|| text.to_owned()).ok_or_else(|| "expected small letters, digits and `_`, at most 64".into())
}

/// One statement that reads, with placeholders that exist. Quoted text is left alone, as the ledger leaves it.
fn query(text: &str) -> Result<String, String> {
    let verb = text.trim_start().get(..6).unwrap_or_default();
    if !verb.eq_ignore_ascii_case("select") && !verb.to_ascii_lowercase().starts_with("with") {
        return Err("a rule reads: expected a SELECT".into());
    }
    if text.trim_end().trim_end_matches(';').contains(';') {
        return Err("one statement only".into());
    }
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}', '\'']) {
        let found = rest.get(open..).unwrap_or_default();
        if let Some(quoted) = found.strip_prefix('\'') {
            let (inside, after) = quoted.split_once('\'').ok_or("a quote is not closed")?;
            if inside.contains('{') {
                return Err("a placeholder is a value of its own: write it without quotes around it".into());
            }
            rest = after;
            continue;
        }
        let inside = found.strip_prefix('{').ok_or("`}` without `{`")?;
        let (placeholder, after) = inside.split_once('}').ok_or("`{` without `}`")?;
        let name = match placeholder.rsplit_once(':') {
            Some((name, "int" | "uuid" | "text")) => name,
            Some(_) => {
                return Err("a placeholder's type is `int`, `uuid` or `text`, as in `{sub:int}`".into());
            }
            None => placeholder,
        };
        let template = Template::parse(&format!("{{{name}}}")).map_err(|_| "there is no such placeholder")?;
        if template.fields().any(Field::is_for_headers) {
            return Err("`{roles}`, `{scopes}` and `{profile.NAME}` stand in identity headers only".into());
        }
        rest = after;
    }
    Ok(text.to_owned())
}

/// `deny_if`: a word, or a table with one of a few forms.
fn condition(reader: &Reader<'_>, node: &Node) -> Option<Condition> {
    const FORMS: &str = "expected \"exists\", \"missing\", { equals = […] }, { json = \"/…\", equals = […] }, \
                         { field = \"…\", equals = […] }, { contains = \"…\" }, { lacks = \"…\" } or \
                         { issued_before = \"/…\" }";
    match &node.item {
        Item::Text(text) if text.value == "exists" => return Some(Condition::Exists),
        Item::Text(text) if text.value == "missing" => return Some(Condition::Missing),
        Item::Table(entries) => {
            let read = |table: &mut Table<'_>| condition_table(table);
            let (condition, _) = Table::read(reader, "deny_if".into(), node.at.clone(), entries, read);
            if let Some(condition) = condition {
                return condition;
            }
        }
        _ => {}
    }
    reader.problem(&node.at, FORMS);
    None
}

/// The outer `None`: not one of the forms.
fn condition_table(table: &mut Table<'_>) -> Option<Option<Condition>> {
    let equals = table.maybe("equals", values);
    let json = table.maybe("json", parsed(pointer));
    let field = table.maybe("field", super::kinds::name);
    let contains = table.maybe("contains", template);
    let lacks = table.maybe("lacks", template);
    let issued_before = table.maybe("issued_before", parsed(pointer));
    let all = ["equals", "json", "field", "contains", "lacks", "issued_before"];
    let given: Vec<_> = all.into_iter().filter(|key| table.has(key)).collect();
    match given.as_slice() {
        ["equals"] => Some(equals.map(Condition::Equals)),
        ["equals", "json"] => {
            Some(json.zip(equals).map(|(pointer, equals)| Condition::Json { pointer, equals }))
        }
        ["equals", "field"] => {
            Some(field.zip(equals).map(|(field, equals)| Condition::Field { field, equals }))
        }
        ["contains"] => Some(contains.map(Condition::Contains)),
        ["lacks"] => Some(lacks.map(Condition::Lacks)),
        ["issued_before"] => Some(issued_before.map(|pointer| Condition::IssuedBefore { pointer })),
        _ => None,
    }
}

/// A list of strings, numbers and booleans; one alone may stand without brackets.
fn values(reader: &Reader<'_>, node: &Node) -> Option<Vec<serde_json::Value>> {
    let single = |reader: &Reader<'_>, node: &Node| match json(reader, node)? {
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            reader.problem(&node.at, "expected strings, numbers or booleans");
            None
        }
        value => Some(value),
    };
    match node.item {
        Item::List(_) => super::kinds::some(single)(reader, node),
        _ => single(reader, node).map(|value| vec![value]),
    }
}

/// RFC 6901; empty for the whole value.
fn pointer(text: &str) -> Result<Box<str>, String> {
    match text.is_empty() || text.starts_with('/') {
        true => Ok(text.into()),
        false => Err("expected a JSON pointer, such as \"/is_active\"".into()),
    }
}
