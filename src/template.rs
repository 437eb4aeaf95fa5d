//! Templates such as `blacklist:{token}`: Redis keys, identity headers and SQL placeholders are written with them.
//!
//! A key is built from what a client's token says, so it must be impossible to choose a claim that names somebody
//! else's key: [`Template::render`] refuses what could, and the ledger compares what is left with its other keys.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde_json::Value;

use crate::claims::{Claims, User};
use crate::token::Token;

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `{token}`: the compact token.
    Token,
    /// `{token_sha256}`: lower-case hex of the SHA-256 of the compact token.
    TokenSha256,
    /// `{jti}`
    TokenId,
    /// `{sid}`
    Session,
    /// `{sub}`
    Subject,
    /// `{realm}`
    Realm,
    /// `{user}`: `sub`, or `realm/sub` outside the empty realm.
    User,
    /// `{claims.NAME}`: a claim by name or JSON pointer.
    Claim(Box<str>),
    /// `{roles}`: identity headers only.
    Roles,
    /// `{scopes}`: identity headers only.
    Scopes,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Literal(Box<str>),
    Field(Field),
}

/// What is wrong with a template, and at which byte of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct TemplateError {
    pub at: usize,
    pub what: String,
}

/// Why a token gives no value for a placeholder. Names the placeholder, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The token does not say it.
    #[error("`{0}` is missing")]
    Missing(Field),
    /// The token says something that is no plain word: an object, a fraction, a text that could name another key.
    #[error("`{0}` cannot be used here")]
    Unsafe(Field),
}

impl RenderError {
    /// The placeholder in question.
    pub fn field(&self) -> &Field {
        match self {
            Self::Missing(field) | Self::Unsafe(field) => field,
        }
    }
}

/// Longer claims name no key; only the token itself is longer.
const LONGEST_VALUE: usize = 1024;

const NAMES: [&str; 9] = ["token", "token_sha256", "jti", "sid", "sub", "realm", "user", "roles", "scopes"];

impl Field {
    /// Reads a placeholder's name, without the braces. The error says what was probably meant.
    pub fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "token" => Self::Token,
            "token_sha256" => Self::TokenSha256,
            "jti" => Self::TokenId,
            "sid" => Self::Session,
            "sub" => Self::Subject,
            "realm" => Self::Realm,
            "user" => Self::User,
            "roles" => Self::Roles,
            "scopes" => Self::Scopes,
            _ => match name.strip_prefix("claims.") {
                Some("") => return Err("`{claims.}` names no claim: write `{claims.NAME}`".to_owned()),
                Some(claim) => Self::Claim(claim.into()),
                None => return Err(unknown(name)),
            },
        })
    }

    /// What a token says for this placeholder, as a scalar: text, an integer or a boolean, spelled as in JSON.
    ///
    /// For values that are *bound* (SQL); a key is built by [`Template::render`], which refuses more.
    pub fn value<'a>(&self, claims: &'a Claims, token: &Token<'a>) -> Result<Cow<'a, str>, RenderError> {
        let missing = || RenderError::Missing(self.clone());
        let found: Cow<'a, str> = match self {
            Self::Token => token.compact().into(),
            Self::TokenSha256 => hex(&token.sha256()).into(),
            Self::TokenId => claims.token_id().ok_or_else(missing)?.into(),
            Self::Session => claims.session().ok_or_else(missing)?.into(),
            Self::Subject | Self::Realm | Self::User => return self.of_user(claims.user()),
            Self::Claim(name) => match claims.claim(name).ok_or_else(missing)? {
                Value::String(text) => text.as_str().into(),
                Value::Bool(flag) => flag.to_string().into(),
                Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string().into(),
                Value::Null => return Err(missing()),
                // 9.0 and 9 must not be two spellings of one user.
                Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(RenderError::Unsafe(self.clone()));
                }
            },
            Self::Roles | Self::Scopes => return Err(RenderError::Unsafe(self.clone())),
        };
        if found.is_empty() { Err(missing()) } else { Ok(found) }
    }

    /// What a user is for `{sub}`, `{realm}` and `{user}`; [`RenderError::Missing`] for every other placeholder.
    ///
    /// In the empty realm a subject `acme/7` would be the `{user}` 7 of the realm `acme`. It is refused always, not only
    /// where that realm exists: otherwise adding an issuer would silently merge two users.
    pub fn of_user<'a>(&self, user: &'a User) -> Result<Cow<'a, str>, RenderError> {
        match self {
            Self::Subject if !user.subject.is_empty() => return Ok(Cow::Borrowed(&user.subject)),
            // The default realm's name is empty, and that is its value: not a missing one.
            Self::Realm => return Ok(Cow::Borrowed(&user.realm)),
            Self::User => {}
            _ => return Err(RenderError::Missing(self.clone())),
        }
        if user.subject.is_empty() {
            return Err(RenderError::Missing(self.clone()));
        }
        let ambiguous = match &*user.realm {
            "" => user.subject.contains('/'),
            realm => realm.contains('/'),
        };
        match (ambiguous, user.realm.is_empty()) {
            (true, _) => return Err(RenderError::Unsafe(self.clone())),
            (false, false) => return Ok(user.to_string().into()),
            (false, true) => {}
        }
        Ok(Cow::Borrowed(&*user.subject))
    }

    /// Its characters are known beforehand (base64url and dots, hex), so that it cannot be made to look like another key.
    /// Whether it is made of the token's own text.
    pub fn is_token(&self) -> bool {
        matches!(self, Self::Token | Self::TokenSha256)
    }
}

/// As in a template, without the braces.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::TokenSha256 => "token_sha256",
            Self::TokenId => "jti",
            Self::Session => "sid",
            Self::Subject => "sub",
            Self::Realm => "realm",
            Self::User => "user",
            Self::Claim(name) => return write!(f, "claims.{name}"),
            Self::Roles => "roles",
            Self::Scopes => "scopes",
        })
    }
}

impl Template {
    /// Parses a template; `{{` and `}}` stand for braces.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
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
                    let field = Field::parse(&name).map_err(|what| TemplateError { at, what })?;
                    parts.push(Part::Field(field));
                }
                _ => literal.push(char),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// Whether this can be a Redis key (or the member of a set): the error says why not.
    pub fn check_key(&self) -> Result<(), String> {
        if self.parts.is_empty() {
            return Err("an empty key names nothing".to_owned());
        }
        if let Some(field) = self.fields().find(|field| matches!(field, Field::Roles | Field::Scopes)) {
            return Err(format!("`{{{field}}}` is a list: it can be an identity header, not a key"));
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
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(field @ Field::Roles) => join(field, claims.roles(), &mut text)?,
                Part::Field(field @ Field::Scopes) => join(field, claims.scopes(), &mut text)?,
                Part::Field(field) => {
                    let value = field.value(claims, token)?;
                    if value.chars().any(char::is_control) {
                        return Err(RenderError::Unsafe(field.clone()));
                    }
                    text.push_str(&value);
                }
            }
        }
        Ok(text)
    }

    /// Whether some token could make this template render to `key`. A placeholder stands for any text, but a token
    /// only for what has the form of one.
    pub fn could_produce(&self, key: &str) -> bool {
        matches(&self.parts, key)
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

fn unknown(name: &str) -> String {
    if name.starts_with("profile.") {
        return format!("`{{{name}}}` comes with the preset `user-cache`, which this version does not have");
    }
    let near = NAMES.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    match near {
        Some((distance, known)) if distance <= 2 => {
            format!("unknown placeholder `{{{name}}}`: did you mean `{{{known}}}`?")
        }
        _ => format!("unknown placeholder `{{{name}}}`: a claim of your own is `{{claims.NAME}}`"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
