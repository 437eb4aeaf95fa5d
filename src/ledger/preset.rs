//! The Redis and database layouts real services already use, as rules to read and as writes to make.

use std::time::Duration;

/// A preset with its parameters (`[ledger.preset.NAME]`), resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Preset {
    Native(Native),
    TokenBlacklist(TokenBlacklist),
    InvalidUsers(InvalidUsers),
}

/// `pc:token:…`, `pc:jti:…`, `pc:session:…`, `pc:user:…` and the `portcullis_*` tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Native {
    /// Default `pc:`.
    pub prefix: Box<str>,
}

/// `blacklist:{token}` = JSON `userId, expiresAt, blacklistedAt`; table `blacklisted_tokens`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBlacklist {
    /// Default `blacklist:`.
    pub prefix: Box<str>,
    pub table: SqlName,
    pub columns: TokenBlacklistColumns,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenBlacklistColumns {
    pub token: SqlName,
    pub user_id: SqlName,
    pub expires_at: SqlName,
    pub blacklisted_at: SqlName,
}

/// A user who is in there is banned, deactivated, deleted or under security action.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidUsers {
    pub layout: InvalidUsersLayout,
    /// Default: the longest refresh token's life.
    pub ttl: Option<Duration>,
    pub table: SqlName,
    pub columns: InvalidUsersColumns,
    /// Whether a user without a row in the table is refused (`user_unknown`, the default) or passes.
    pub unknown_user: UnknownUser,
}

#[derive(Clone, Debug, PartialEq)]
pub enum InvalidUsersLayout {
    /// One key per user; default prefix `invalid_user:`.
    Keys { prefix: Box<str> },
    /// One set of user ids; default `invalid_users`.
    Set { key: Box<str> },
    /// One sorted set of user ids.
    SortedSet { key: Box<str> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct InvalidUsersColumns {
    pub user_id: SqlName,
    pub status: SqlName,
    pub status_updated_at: SqlName,
    pub last_security_action: SqlName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownUser {
    Deny,
    Allow,
}

/// A table or column name, checked: letters, digits and underscores, not starting with a digit; tables may carry a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlName(Box<str>);

impl SqlName {
    /// `None` when the name is not of the accepted form.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |part: &str| {
            part.len() <= 63
                && part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let parts = name.split('.');
        (parts.clone().count() <= 2 && parts.clone().all(plain)).then(|| Self(name.into()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
