//! Placeholders: what they are called, and what a token says for them.

use std::borrow::Cow;
use std::fmt;

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
    /// `{alias}`: the subject as the token has it, where `{sub}` is the id that it was found to mean.
    Alias,
    /// `{user}`: `sub`, or `realm/sub` outside the empty realm.
    User,
    /// `{claims.NAME}`: a claim by name or JSON pointer.
    Claim(Box<str>),
    /// `{roles}`: identity headers only.
    Roles,
    /// `{scopes}`: identity headers only.
    Scopes,
    /// `{profile.NAME}`: identity headers only.
    Profile(Box<str>),
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

const NAMES: [&str; 10] =
    ["token", "token_sha256", "jti", "sid", "sub", "realm", "alias", "user", "roles", "scopes"];

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
            "alias" => Self::Alias,
            "user" => Self::User,
            "roles" => Self::Roles,
            "scopes" => Self::Scopes,
            _ => match (name.strip_prefix("claims."), name.strip_prefix("profile.")) {
                (Some(""), _) => return Err("`{claims.}` names no claim: write `{claims.NAME}`".to_owned()),
                (Some(claim), _) => Self::Claim(claim.into()),
                (None, Some("")) => {
                    return Err("`{profile.}` names nothing: write `{profile.NAME}`".to_owned());
                }
                (None, Some(name)) => Self::Profile(name.into()),
                (None, None) => return Err(unknown(name)),
            },
        })
    }

    /// What a token says for this placeholder, as a scalar: text, an integer or a boolean, spelled as in JSON.
    ///
    /// For values that are *bound* (SQL); a key is built by [`super::Template::render`], which refuses more.
    pub fn value<'a>(&self, claims: &'a Claims, token: &Token<'a>) -> Result<Cow<'a, str>, RenderError> {
        match self {
            Self::Token => Ok(token.compact().into()),
            Self::TokenSha256 => Ok(token.sha256_hex().into()),
            _ => self.of_claims(claims),
        }
    }

    /// The same for what the claims say without the token's own text, which is [`RenderError::Unsafe`] here.
    pub fn of_claims<'a>(&self, claims: &'a Claims) -> Result<Cow<'a, str>, RenderError> {
        let missing = || RenderError::Missing(self.clone());
        let found: Cow<'a, str> = match self {
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
            Self::Alias => claims.subject().into(),
            Self::Token | Self::TokenSha256 | Self::Roles | Self::Scopes | Self::Profile(_) => {
                return Err(RenderError::Unsafe(self.clone()));
            }
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

    /// Whether it can stand in an identity header and nowhere else.
    pub fn is_for_headers(&self) -> bool {
        matches!(self, Self::Roles | Self::Scopes | Self::Profile(_))
    }

    /// Whether it is made of the token's own text: its characters are known beforehand (base64url and dots, hex), so it
    /// cannot be made to look like another key.
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
            Self::Alias => "alias",
            Self::User => "user",
            Self::Claim(name) => return write!(f, "claims.{name}"),
            Self::Roles => "roles",
            Self::Scopes => "scopes",
            Self::Profile(name) => return write!(f, "profile.{name}"),
        })
    }
}

fn unknown(name: &str) -> String {
    let near = NAMES.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    match near {
        Some((distance, known)) if distance <= 2 => {
            format!("unknown placeholder `{{{name}}}`: did you mean `{{{known}}}`?")
        }
        _ => format!("unknown placeholder `{{{name}}}`: a claim of your own is `{{claims.NAME}}`"),
    }
}
