//! A rule's query, parsed once: every placeholder becomes a bound, typed value.

use super::{Argument, Dialect, StoreError, Value};
use crate::template::{Field, TemplateError};

/// As what a placeholder is bound. PostgreSQL refuses text where it expects a number; MySQL would compare `'7 or so'`
/// with 7 and find them equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    Text,
    /// `{sub:int}`: a canonical decimal of 64 bits.
    Int,
    /// `{sub:uuid}`: with hyphens, in either case.
    Uuid,
}

impl Cast {
    /// The value to bind; `None` when the text is not of this type.
    pub fn value(self, text: &str) -> Option<Value> {
        match self {
            Self::Text => Some(Value::Text(text.into())),
            Self::Int => {
                // "09" and "9" must not be two spellings of one user.
                let number: i64 = text.parse().ok()?;
                (number.to_string() == text).then_some(Value::Int(number))
            }
            Self::Uuid => {
                let uuid = uuid::Uuid::try_parse(text).ok()?;
                uuid.to_string().eq_ignore_ascii_case(text).then_some(Value::Uuid(uuid))
            }
        }
    }
}

/// A query with its placeholders taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    sql: Box<str>,
    placeholders: Box<[(Field, Cast)]>,
}

impl Statement {
    /// Parses a query. `{{` and `}}` stand for braces; quoted text and comments stay as they are.
    pub fn parse(query: &str, dialect: Dialect) -> Result<Self, TemplateError> {
        let mut parser = Parser { query, at: 0, dialect, sql: String::new(), placeholders: Vec::new() };
        while parser.at < query.len() {
            parser.step()?;
        }
        Ok(Self { sql: parser.sql.trim_end().into(), placeholders: parser.placeholders.into() })
    }

    /// The placeholders in order, repeated ones as often as they are written: one argument each.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.placeholders.iter().map(|(field, _)| field)
    }

    /// The text sent to the database.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The arguments, typed. An argument that is not of its type is malformed: it could not be asked about.
    pub(super) fn values(&self, arguments: &[Argument]) -> Result<Vec<Value>, StoreError> {
        if arguments.len() != self.placeholders.len() {
            return Err(StoreError::Malformed("the query has another number of placeholders".to_owned()));
        }
        let typed = |((field, cast), argument): (&(Field, Cast), &Argument)| {
            let what =
                || StoreError::Malformed(format!("`{{{field}}}` is not of the type the query gives it"));
            cast.value(argument).ok_or_else(what)
        };
        self.placeholders.iter().zip(arguments).map(typed).collect()
    }
}

struct Parser<'a> {
    query: &'a str,
    at: usize,
    dialect: Dialect,
    sql: String,
    placeholders: Vec<(Field, Cast)>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.query.get(self.at..).unwrap_or_default()
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError { at: self.at, what: what.into() })
    }

    fn copy(&mut self, length: usize) {
        let text = self.rest().get(..length).unwrap_or_default();
        self.sql.push_str(text);
        self.at += text.len().max(1);
    }

    fn step(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some(char) = rest.chars().next() else { return Ok(()) };
        match char {
            '\'' | '"' | '`' => self.quoted(char),
            '-' if rest.starts_with("--") => {
                self.copy(rest.find('\n').unwrap_or(rest.len()));
                Ok(())
            }
            '/' if rest.starts_with("/*") => match rest.find("*/") {
                Some(end) => {
                    self.copy(end + 2);
                    Ok(())
                }
                None => self.error("the comment is never closed"),
            },
            '{' | '}' if rest.starts_with("{{") || rest.starts_with("}}") => {
                self.sql.push(char);
                self.at += 2;
                Ok(())
            }
            '{' => self.placeholder(),
            '}' => self.error("`}` closes nothing: write `}}` for a brace"),
            // A placeholder of the database's own would stay without a value, or take another's.
            '?' if self.dialect != Dialect::Postgres => self.error("write `{sub}` and the like, not `?`"),
            '$' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => {
                self.error("write `{sub}` and the like, not `$1`")
            }
            // SQLite would run both statements.
            ';' if rest[1..].trim().is_empty() => {
                self.at = self.query.len();
                Ok(())
            }
            ';' => self.error("one statement only"),
            _ => {
                self.copy(char.len_utf8());
                Ok(())
            }
        }
    }

    /// A doubled quote inside is a quote: it reads as two quoted texts in a row, which comes to the same.
    fn quoted(&mut self, quote: char) -> Result<(), TemplateError> {
        let rest = self.rest();
        let Some(end) = rest[1..].find(quote).map(|end| end + 2) else {
            return self.error("the quotation is never closed");
        };
        let inside = rest.get(..end).unwrap_or_default();
        // MySQL reads `\'` as a quote inside: the two readings must not differ on where the text ends.
        if self.dialect == Dialect::MySql && inside.contains('\\') {
            return self.error("write a quotation without backslashes");
        }
        let names_field = |part: &str| part.split_once('}').is_some_and(|(name, _)| field(name).is_ok());
        if inside.split('{').skip(1).any(names_field) {
            return self.error("a placeholder is bound, not pasted: take the quotes away");
        }
        self.copy(end);
        Ok(())
    }

    fn placeholder(&mut self) -> Result<(), TemplateError> {
        let Some(end) = self.rest().find('}') else {
            return self.error("`{` is never closed: write `{{` for a brace");
        };
        let name = self.rest().get(1..end).unwrap_or_default();
        let placeholder = match field(name) {
            Ok(placeholder) => placeholder,
            Err(what) => return self.error(what),
        };
        self.placeholders.push(placeholder);
        match self.dialect {
            Dialect::Postgres => self.sql.push_str(&format!("${}", self.placeholders.len())),
            Dialect::Sqlite | Dialect::MySql => self.sql.push('?'),
        }
        self.at += end + 1;
        Ok(())
    }
}

fn field(text: &str) -> Result<(Field, Cast), String> {
    let (name, cast) = match text.rsplit_once(':') {
        None => (text, Cast::Text),
        Some((name, "text")) => (name, Cast::Text),
        Some((name, "int")) => (name, Cast::Int),
        Some((name, "uuid")) => (name, Cast::Uuid),
        Some((_, other)) => return Err(format!("unknown type `{other}`: int, uuid or text")),
    };
    match Field::parse(name)? {
        field if field.is_for_headers() => Err(format!("`{{{field}}}` is for headers and cannot be bound")),
        field => Ok((field, cast)),
    }
}
