//! Reads the written tree in one pass: collects every problem, every key that exists, and what is in effect.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::{Files, Seen};
use super::node::{Entry, Item, Node, Text};
use super::problem::Span;

/// Where variables are looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is gathered while reading.
pub struct Reader<'a> {
    /// The directory of the file: relative paths start here.
    pub base: &'a Path,
    pub environment: Environment<'a>,
    /// The files that are read.
    pub files: Seen,
    problems: RefCell<Vec<(Span, String)>>,
    warnings: RefCell<Vec<(Span, String)>>,
    known: RefCell<BTreeSet<String>>,
}

/// What was gathered.
pub struct Gathered {
    pub problems: Vec<(Span, String)>,
    pub warnings: Vec<(Span, String)>,
    /// Every key that was asked for, as a dotted path; documentation is held to it.
    pub known: BTreeSet<String>,
    pub files: Files,
}

impl<'a> Reader<'a> {
    pub fn new(base: &'a Path, environment: Environment<'a>) -> Self {
        Self {
            base,
            environment,
            files: Seen::default(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            known: RefCell::default(),
        }
    }

    pub fn gathered(self) -> Gathered {
        Gathered {
            problems: self.problems.into_inner(),
            warnings: self.warnings.into_inner(),
            known: self.known.into_inner(),
            files: self.files.all(),
        }
    }

    /// Tells a problem and goes on. The message never quotes a value: it may come from a variable.
    pub fn problem(&self, at: &Span, message: impl Into<String>) {
        self.problems.borrow_mut().push((at.clone(), message.into()));
    }

    pub fn warn(&self, at: &Span, message: impl Into<String>) {
        self.warnings.borrow_mut().push((at.clone(), message.into()));
    }

    /// The parsed document with variables filled in.
    pub fn entries(&self, table: &DeTable<'_>) -> Vec<Entry> {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                at: key.span(),
                value: self.node(value),
            })
            .collect();
        entries.sort_by_key(|entry| entry.at.start);
        entries
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let at = value.span();
        let item = match value.get_ref() {
            DeValue::String(text) => match super::variables::fill(text, self.environment) {
                Ok(filled) => Item::Text(Text { value: filled, written: text.to_string() }),
                Err(message) => self.broken(&at, message),
            },
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Item::Integer(number),
                Err(_) => self.broken(&at, "this number is too large".into()),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => Item::Float(number),
                _ => self.broken(&at, "this is not a finite number".into()),
            },
            DeValue::Boolean(truth) => Item::Boolean(*truth),
            DeValue::Datetime(_) => Item::Date,
            DeValue::Array(list) => Item::List(list.iter().map(|value| self.node(value)).collect()),
            DeValue::Table(table) => Item::Table(self.entries(table)),
        };
        Node { at, item }
    }

    fn broken(&self, at: &Span, message: String) -> Item {
        self.problem(at, message);
        Item::Broken
    }
}

/// A table being read. What is left in it at the end is an unknown key.
pub struct Table<'r> {
    pub reader: &'r Reader<'r>,
    /// `[heading]`, or the value of an inline table.
    pub at: Span,
    path: String,
    entries: &'r [Entry],
    asked: Vec<&'static str>,
    effective: toml::Table,
}

/// A value and its place.
#[derive(Clone)]
pub struct Placed<T> {
    pub at: Span,
    pub value: T,
}

impl<'r> Table<'r> {
    /// Reads a whole table: `read` asks for its keys, the rest is unknown. Returns what is in effect, too.
    pub fn read<T>(
        reader: &'r Reader<'r>,
        path: String,
        at: Span,
        entries: &'r [Entry],
        read: impl FnOnce(&mut Self) -> T,
    ) -> (T, toml::Table) {
        let mut table = Self { reader, at, path, entries, asked: Vec::new(), effective: toml::Table::new() };
        let value = read(&mut table);
        for entry in entries.iter().filter(|entry| !table.asked.contains(&entry.key.as_str())) {
            let place = if table.path.is_empty() { String::new() } else { format!(" in `{}`", table.path) };
            let hint = did_you_mean(&entry.key, table.asked.iter().copied());
            reader.problem(&entry.at, format!("unknown key `{}`{place}{hint}", entry.key.escape_debug()));
        }
        (value, table.effective)
    }

    fn find(&self, key: &str) -> Option<&'r Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Whether the key is written.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The place of a key, or of the table where it is not written.
    pub fn place(&self, key: &str) -> Span {
        self.find(key).map_or_else(|| self.at.clone(), |entry| entry.at.clone())
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'r Node> {
        self.asked.push(key);
        self.reader.known.borrow_mut().insert(self.path_of(key));
        self.find(key).map(|entry| &entry.value)
    }

    /// A key without a default.
    pub fn maybe<T>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.ask(key)?;
        self.effective.insert(key.into(), node.shown());
        kind(self.reader, node)
    }

    /// A key with a default. `None` only after a problem was told.
    pub fn or<T>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
        default: impl Into<Node>,
    ) -> Option<T> {
        let default = default.into();
        let node = self.ask(key).unwrap_or(&default);
        self.effective.insert(key.into(), node.shown());
        kind(self.reader, node)
    }

    /// A key that must be there. `None` only after a problem was told.
    pub fn need<T>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.reader.problem(&self.at, format!("`{key}` is missing in `{}`", self.path));
        }
        self.maybe(key, kind)
    }

    /// A key whose value is never shown.
    pub fn secret<T>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.ask(key)?;
        self.effective.insert(key.into(), "<secret>".into());
        kind(self.reader, node)
    }

    /// Puts a default that only shows later (derived from other keys) into what is in effect.
    pub fn in_effect(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.effective.insert(key.into(), value.into());
    }

    /// A key that is known, but read elsewhere or under other circumstances only.
    pub fn exists(&mut self, key: &'static str) {
        self.ask(key);
    }

    /// Takes a key out of what is in effect again: its defaults mean nothing here.
    pub fn not_in_effect(&mut self, key: &str) {
        self.effective.remove(key);
    }

    /// The same for every table of a list.
    pub fn each_in_effect(&mut self, list: &str, key: &str, values: impl Iterator<Item = String>) {
        let tables = self.effective.get_mut(list).and_then(toml::Value::as_array_mut).into_iter().flatten();
        for (table, value) in tables.filter_map(toml::Value::as_table_mut).zip(values) {
            table.insert(key.into(), value.into());
        }
    }

    /// A table; where it is not written, it is read as an empty one.
    pub fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'r>) -> T) -> T {
        let path = self.path_of(key);
        let (at, entries): (_, &[Entry]) = match self.ask(key) {
            Some(Node { at, item: Item::Table(entries) }) => (at.clone(), entries),
            Some(Node { at, item }) => {
                self.reader.problem(at, format!("`{path}` is a table, not {}", item.kind()));
                (at.clone(), &[])
            }
            None => (self.at.clone(), &[]),
        };
        let (value, effective) = Table::read(self.reader, path, at, entries, read);
        self.effective.insert(key.into(), effective.into());
        value
    }

    /// A list of tables, or one that stands for a list of it alone.
    pub fn table_or_tables<T>(
        &mut self,
        key: &'static str,
        read: impl FnMut(&mut Table<'r>) -> Option<T>,
    ) -> Vec<Placed<Option<T>>> {
        match self.ask(key) {
            Some(node @ Node { item: Item::Table(_), .. }) => {
                self.tables_of(key, std::slice::from_ref(node), None, read)
            }
            _ => self.tables(key, None, read),
        }
    }

    /// A list of tables. Where `short` is given, a string stands for a table with that one key.
    pub fn tables<T>(
        &mut self,
        key: &'static str,
        short: Option<fn(&Reader<'_>, &Node) -> Option<T>>,
        read: impl FnMut(&mut Table<'r>) -> Option<T>,
    ) -> Vec<Placed<Option<T>>> {
        match self.ask(key) {
            Some(Node { item: Item::List(list), .. }) => self.tables_of(key, list, short, read),
            Some(Node { at, item }) => {
                let path = self.path_of(key);
                self.reader.problem(at, format!("`{path}` is a list, not {}", item.kind()));
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn tables_of<T>(
        &mut self,
        key: &'static str,
        list: &'r [Node],
        short: Option<fn(&Reader<'_>, &Node) -> Option<T>>,
        mut read: impl FnMut(&mut Table<'r>) -> Option<T>,
    ) -> Vec<Placed<Option<T>>> {
        let path = self.path_of(key);
        let mut effective = Vec::with_capacity(list.len());
        let values = list.iter().map(|node| {
            let value = match (&node.item, short) {
                (Item::Table(entries), _) => {
                    let (value, shown) =
                        Table::read(self.reader, path.clone(), node.at.clone(), entries, &mut read);
                    effective.push(shown.into());
                    value
                }
                (Item::Text(_), Some(short)) => {
                    effective.push(node.shown());
                    short(self.reader, node)
                }
                (item, _) => {
                    self.reader.problem(&node.at, format!("`{path}` holds tables, not {}", item.kind()));
                    None
                }
            };
            Placed { at: node.at.clone(), value }
        });
        let values = values.collect();
        self.effective.insert(key.into(), toml::Value::Array(effective));
        values
    }

    /// A table whose keys are the user's own.
    pub fn map<T>(
        &mut self,
        key: &'static str,
        kind: impl Fn(&Reader<'_>, &Node) -> Option<T>,
    ) -> Option<Vec<(Placed<&'r str>, T)>> {
        let node = self.ask(key)?;
        self.effective.insert(key.into(), node.shown());
        let Item::Table(entries) = &node.item else {
            self.reader.problem(&node.at, format!("`{key}` is a table, not {}", node.item.kind()));
            return None;
        };
        entries
            .iter()
            .map(|entry| {
                let name = Placed { at: entry.at.clone(), value: entry.key.as_str() };
                kind(self.reader, &entry.value).map(|value| (name, value))
            })
            .collect()
    }

    /// `NAME` or `NAME_file`, not both. The file's content loses its trailing newline.
    pub fn secret_or_file(&mut self, key: &'static str, file: &'static str) -> Option<Placed<Vec<u8>>> {
        let written = self.secret(key, super::kinds::placed(super::kinds::text));
        let read = self.maybe(file, super::kinds::placed(super::kinds::secret_file));
        if self.has(key) && self.has(file) {
            self.reader
                .problem(&self.place(file), format!("`{key}` and `{file}` are both given; one is enough"));
        }
        let written = written.map(|Placed { at, value }| Placed { at, value: value.into_bytes() });
        let secret = written.or(read)?;
        if secret.value.is_empty() {
            self.reader.problem(&secret.at, format!("`{key}` is empty"));
            return None;
        }
        Some(secret)
    }
}

/// `; did you mean …?`, where one of the known words is near enough.
pub fn did_you_mean<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> String {
    let near = known
        .map(|known| (strsim::jaro_winkler(word, known), known))
        .filter(|(nearness, _)| *nearness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    near.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default()
}
