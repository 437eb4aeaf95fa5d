//! Templates such as `blacklist:{token}`: Redis keys, identity headers and SQL placeholders are written with them.
//!
//! A key is built from what a client's token says, so it must be impossible to choose a claim that names somebody
//! else's key: [`Template::render`] refuses what could, and the ledger compares what is left with its other keys.

mod field;

use std::borrow::Cow;
use std::fmt;

use crate::claims::Claims;
use crate::token::Token;

pub use field::{Field, RenderError};

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Box<[Part]>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part<F = Field> {
    /// Text as it stands.
    Literal(Box<str>),
    /// `{…}`
    Field(F),
}

/// What is wrong with a template, and at which byte of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct TemplateError {
    pub at: usize,
    pub what: String,
}

/// Longer claims name no key; only the token itself is longer.
const LONGEST_VALUE: usize = 1024;

impl Template {
    /// Parses a template; `{{` and `}}` stand for braces.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        parts(text, Field::parse).map(|parts| Self { parts })
    }

    /// Whether it tells of the user's profile.
    pub fn tells_profile(&self) -> bool {
        self.fields().any(|field| matches!(field, Field::Profile(_)))
    }

    /// Whether this can be a Redis key (or the member of a set): the error says why not.
    pub fn check_key(&self) -> Result<(), String> {
        if self.parts.is_empty() {
            return Err("an empty key names nothing".to_owned());
        }
        if let Some(field) = self.fields().find(|field| field.is_for_headers()) {
            return Err(format!("`{{{field}}}` can be an identity header, not a key"));
        }
        let mut last: Option<&Field> = None;
        let mut between = "";
        for part in &self.parts {
            match (part, last) {
                (Part::Literal(literal), _) => between = literal,
                // `{a}{b}` is the same key for ("a", "bc") and ("ab", "c"); a letter between them is no better.
                (Part::Field(field), Some(last)) if !between.contains(is_separator) => {
                    return Err(format!(
                        "`{{{last}}}` and `{{{field}}}` need a separator such as `:` between them"
                    ));
                }
                (Part::Field(field), _) => (last, between) = (Some(field), ""),
            }
        }
        Ok(())
    }

    /// The placeholders, in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Literal(_) => None,
        })
    }

    /// The text between the placeholders.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(literal) => Some(&**literal),
            Part::Field(_) => None,
        })
    }

    /// What all its keys begin with; empty where a placeholder comes first.
    pub fn head(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            Some(Part::Field(_)) | None => "",
        }
    }

    /// The key for a token. Two different lists of values never give the same key.
    pub fn render(&self, claims: &Claims, token: &Token<'_>) -> Result<String, RenderError> {
        self.fill(|field| field.value(claims, token))
    }

    /// The key for values from elsewhere, such as a control call: the same key as [`Template::render`] makes for a
    /// token that says the same, refused for the same reasons.
    pub fn fill<'a>(
        &self,
        value_of: impl Fn(&Field) -> Result<Cow<'a, str>, RenderError>,
    ) -> Result<String, RenderError> {
        let several = self.fields().nth(1).is_some();
        let mut key = String::new();
        for part in &self.parts {
            let field = match part {
                Part::Literal(literal) => {
                    key.push_str(literal);
                    continue;
                }
                Part::Field(field) => field,
            };
            let value = value_of(field)?;
            if !self.takes(field, &value, several) {
                return Err(RenderError::Unsafe(field.clone()));
            }
            key.push_str(&value);
        }
        Ok(key)
    }

    /// Whether `value` may stand for `field` in a key.
    fn takes(&self, field: &Field, value: &str, several: bool) -> bool {
        let separates = |char: char| {
            char == ':' || (is_separator(char) && self.literals().any(|literal| literal.contains(char)))
        };
        let plain = |char: char| {
            !(char.is_control()
                || char.is_whitespace()
                || matches!(char, '*' | '?' | '[' | ']' | '{' | '}' | '"' | '\'' | '`' | '\\'))
        };
        value.chars().all(|char| plain(char) && !(several && separates(char)))
            && (value.len() <= LONGEST_VALUE || field.is_token())
    }

    /// The value of an identity header: lists joined by a comma. Either error means: no header.
    ///
    /// A role that itself contains a comma gives none at all: upstreams would read it as two roles.
    pub fn render_header(&self, claims: &Claims, token: &Token<'_>) -> Result<String, RenderError> {
        self.render_header_with(claims, token, |_| None)
    }

    /// As [`Template::render_header`], with what `profile` tells of the user.
    pub fn render_header_with<'p>(
        &self,
        claims: &Claims,
        token: &Token<'_>,
        profile: impl Fn(&str) -> Option<&'p str>,
    ) -> Result<String, RenderError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(field @ Field::Profile(name)) => match profile(name) {
                    Some(value) if !value.is_empty() => visibly(field, value, &mut text)?,
                    _ => return Err(RenderError::Missing(field.clone())),
                },
                Part::Field(field @ (Field::Token | Field::TokenSha256)) => {
                    visibly(field, &field.value(claims, token)?, &mut text)?;
                }
                Part::Field(field) => in_header(field, claims, &mut text)?,
            }
        }
        Ok(text)
    }

    /// Whether some token could make this template render to `key`. A placeholder stands for any text, but a token
    /// only for what has the form of one.
    pub fn could_produce(&self, key: &str) -> bool {
        matches(&self.parts, key)
    }

    /// The template backwards, where it has one placeholder: what stands for it in `key`.
    pub fn sole<'a>(&self, key: &'a str) -> Option<(&Field, &'a str)> {
        let place = self.parts.iter().position(|part| matches!(part, Part::Field(_)))?;
        let (before, rest) = self.parts.split_at_checked(place)?;
        let (Part::Field(field), after) = rest.split_first()? else { return None };
        let literal = |parts: &[Part]| match parts {
            [] => Some(Box::default()),
            [Part::Literal(literal)] => Some(literal.clone()),
            _ => None,
        };
        let value = key.strip_prefix(&*literal(before)?)?.strip_suffix(&*literal(after)?)?;
        (!value.is_empty() && could_be(field, value)).then_some((field, value))
    }

    /// Whether two templates differ only in what their placeholders are called: then the operator wrote one key space
    /// on purpose, and no value can lead from one to the other.
    pub fn same_shape(&self, other: &Self) -> bool {
        let same = |(a, b): (&Part, &Part)| match (a, b) {
            (Part::Literal(a), Part::Literal(b)) => a == b,
            (Part::Field(a), Part::Field(b)) => a.is_token() == b.is_token(),
            _ => false,
        };
        self.parts.len() == other.parts.len() && self.parts.iter().zip(&other.parts).all(same)
    }
}

/// Divides a text with placeholders, which `field` understands; `{{` and `}}` stand for braces. The one grammar of them all.
pub fn parts<F>(
    text: &str,
    field: impl Fn(&str) -> Result<F, String>,
) -> Result<Box<[Part<F>]>, TemplateError> {
    let error = |at: usize, what: &str| TemplateError { at, what: what.to_owned() };
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '{' | '}' if chars.next_if(|&(_, next)| next == char).is_some() => literal.push(char),
            '}' => return Err(error(at, "`}` closes nothing: write `}}` for a brace")),
            '{' => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        Some((_, '}')) => break,
                        Some((_, char)) if char != '{' => name.push(char),
                        _ => {
                            return Err(error(at, "`{` is never closed: write `{{` for a brace"));
                        }
                    }
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                let field = field(&name).map_err(|what| TemplateError { at, what })?;
                parts.push(Part::Field(field));
            }
            _ => literal.push(char),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts.into())
}

/// As written: braces doubled again.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Literal(literal) => f.write_str(&literal.replace('{', "{{").replace('}', "}}")),
            Part::Field(field) => write!(f, "{{{field}}}"),
        })
    }
}

/// What can divide a key: all but letters and digits.
pub fn is_separator(char: char) -> bool {
    !char.is_alphanumeric()
}

fn matches(parts: &[Part], key: &str) -> bool {
    match parts {
        [] => key.is_empty(),
        [Part::Literal(literal), rest @ ..] => {
            key.strip_prefix(&**literal).is_some_and(|after| matches(rest, after))
        }
        [Part::Field(field), rest @ ..] => key
            .char_indices()
            .map(|(at, char)| at + char.len_utf8())
            .filter_map(|end| key.split_at_checked(end))
            .any(|(value, after)| could_be(field, value) && matches(rest, after)),
    }
}

fn could_be(field: &Field, value: &str) -> bool {
    match field {
        Field::TokenSha256 => value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        Field::Token => {
            value.bytes().filter(|&byte| byte == b'.').count() == 2
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        }
        _ => true,
    }
}

/// Appends what claims say for one placeholder as a header has it: lists joined by a comma.
pub fn in_header(field: &Field, claims: &Claims, text: &mut String) -> Result<(), RenderError> {
    match field {
        Field::Roles => join(field, claims.roles(), text),
        Field::Scopes => join(field, claims.scopes(), text),
        _ => visibly(field, &field.of_claims(claims)?, text),
    }
}

fn visibly(field: &Field, value: &str, text: &mut String) -> Result<(), RenderError> {
    if value.chars().any(char::is_control) {
        return Err(RenderError::Unsafe(field.clone()));
    }
    text.push_str(value);
    Ok(())
}

fn join(field: &Field, words: &[Box<str>], text: &mut String) -> Result<(), RenderError> {
    if words.is_empty() {
        return Err(RenderError::Missing(field.clone()));
    }
    if words.iter().any(|word| word.contains(|char: char| char == ',' || char.is_control())) {
        return Err(RenderError::Unsafe(field.clone()));
    }
    text.push_str(&words.join(","));
    Ok(())
}

#[cfg(test)]
mod tests;
