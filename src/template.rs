//! Templates such as `blacklist:{token}`: Redis keys, identity headers and SQL placeholders are written with them.

use crate::claims::Claims;
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

impl Template {
    /// Parses a template; `{{` and `}}` stand for braces.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        todo!()
    }

    /// The placeholders, in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Literal(_) => None,
        })
    }
}
