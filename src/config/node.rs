//! The file as written: a tree in which every key and value knows its place, with variables filled in.

use super::problem::Span;

/// A value and its place.
pub struct Node {
    pub at: Span,
    pub item: Item,
}

pub enum Item {
    Text(Text),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// TOML has dates; no key takes one.
    Date,
    /// Wrong already, and said so.
    Broken,
}

/// A string. Only what was written is ever shown: a variable may hold a secret.
pub struct Text {
    pub value: String,
    pub written: String,
}

/// One `key = value`.
pub struct Entry {
    pub key: String,
    pub at: Span,
    pub value: Node,
}

impl Item {
    /// For messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date => "a date",
            Self::Broken => "broken",
        }
    }
}

impl Node {
    /// As `check --print` shows it: variables stay unexpanded, and URLs lose what stands before their `@`.
    pub fn shown(&self) -> toml::Value {
        match &self.item {
            Item::Text(text) => toml::Value::String(without_userinfo(&text.written)),
            Item::Integer(number) => toml::Value::Integer(*number),
            Item::Float(number) => toml::Value::Float(*number),
            Item::Boolean(truth) => toml::Value::Boolean(*truth),
            Item::List(list) => toml::Value::Array(list.iter().map(Self::shown).collect()),
            Item::Table(entries) => toml::Value::Table(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.shown())).collect(),
            ),
            Item::Date | Item::Broken => toml::Value::String(String::new()),
        }
    }

    /// As JSON, for values that are compared with claims and answers.
    pub fn json(&self) -> serde_json::Value {
        match &self.item {
            Item::Text(text) => text.value.as_str().into(),
            Item::Integer(number) => (*number).into(),
            Item::Float(number) => (*number).into(),
            Item::Boolean(truth) => (*truth).into(),
            Item::List(list) => list.iter().map(Self::json).collect(),
            Item::Table(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect()
            }
            Item::Date | Item::Broken => serde_json::Value::Null,
        }
    }
}

fn without_userinfo(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(end)) if scheme + 3 <= end => {
            let (head, tail) = (url.get(..scheme + 3), url.get(end + 1..));
            without_password(&format!("{}{}", head.unwrap_or_default(), tail.unwrap_or_default()))
        }
        (Some(_), _) => without_password(url),
        _ => url.to_owned(),
    }
}

/// Databases take passwords in the query too.
fn without_password(url: &str) -> String {
    match url.find("password=") {
        Some(at) => format!("{}password=<secret>", url.get(..at).unwrap_or_default()),
        None => url.to_owned(),
    }
}

// Defaults are written like values, and read by the same readers.

impl From<Item> for Node {
    fn from(item: Item) -> Self {
        Self { at: 0..0, item }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Item::Text(Text { value: text.into(), written: text.into() }).into()
    }
}

impl From<i64> for Node {
    fn from(number: i64) -> Self {
        Item::Integer(number).into()
    }
}

impl From<f64> for Node {
    fn from(number: f64) -> Self {
        Item::Float(number).into()
    }
}

impl From<bool> for Node {
    fn from(truth: bool) -> Self {
        Item::Boolean(truth).into()
    }
}

impl<const N: usize> From<[&str; N]> for Node {
    fn from(list: [&str; N]) -> Self {
        Item::List(list.into_iter().map(Self::from).collect()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("redis://:pw@h:1/0", "redis://h:1/0"),
            ("postgres://u:p@w@h/db", "postgres://h/db"),
            ("postgres://h/db?user=u&password=pw", "postgres://h/db?user=u&password=<secret>"),
            ("sqlite://portcullis.db", "sqlite://portcullis.db"),
        ] {
            assert_eq!(without_userinfo(url), shown);
        }
    }
}
