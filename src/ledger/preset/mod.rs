//! The Redis and database layouts real services already use, as rules to read and as writes to make.
//!
//! A deny list in Redis is silent both when nobody is denied and when Redis has been wiped. The two are told apart by the
//! mark (`watermark`): where it stands, everything the database denies is in Redis, and silence is innocence; where it
//! does not, the database is asked until Redis has been filled from it again (`reconcile`). So a flush loses nothing,
//! Redis alone answers while the database is away, and no question costs the database anything while it is there.
//! For filling, each layout says which rows of the services' own tables deny ([`UserLayout::denied_rows`],
//! [`TokenLayout::revoked_rows`]).

mod active_flag_cache;
mod filling;
mod fitting;
mod flagged;
mod invalid_users;
mod layout;
mod native;
mod record;
mod refresh_tokens;
mod rows;
mod session_store;
mod theirs;
mod track;
pub(super) mod token_blacklist;
mod user_cache;

#[cfg(test)]
mod tests;

pub(in crate::ledger) use layout::{TokenLayout, UserLayout, Watched};
pub(super) use track::TrackedToken;

use std::collections::HashMap;
use std::time::Duration;

use super::change::Status;
use super::rule::{Condition, Guards, IfAbsent, RedisQuestion, Rule, SqlQuestion};
use super::schema::Table;
use super::sql::{Dialect, SqlStore, Value};
use super::store::StoreError;
use crate::claims::User;
use crate::template::Template;
use crate::time::Timestamp;

pub use active_flag_cache::ActiveFlagCache;
pub(in crate::ledger) use filling::{Listing, OwnedToken, TableRows, standing_of};
pub use record::Record;
pub(super) use record::complete;
pub use refresh_tokens::RefreshTokens;
pub use session_store::{SessionColumns, SessionStore};
use theirs::{blacklisted, json_id};
pub(super) use user_cache::AliasRules;
pub use user_cache::{AliasKind, UserCache, UserColumns, UserPrefixes};

/// How long Redis remembers that a user has a row. Where nothing tells of rows that are deleted, one is noticed after
/// that; and while the database is away, users who were seen since then pass.
pub const KNOWN_TTL: Duration = Duration::from_secs(300);

/// The least life of a key of ours: within an issuer's leeway the rest of a token's can be next to nothing.
const LEAST_TTL: Duration = Duration::from_secs(60);

/// A preset with its parameters (`[ledger.preset.NAME]`), resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Preset {
    Native(Native),
    TokenBlacklist(TokenBlacklist),
    InvalidUsers(InvalidUsers),
    ActiveFlagCache(ActiveFlagCache),
    UserCache(UserCache),
    SessionStore(SessionStore),
    /// Not to be named by anybody: it comes with presets that need it.
    Record(Record),
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
    /// `refresh_token:{token}` and the table `refresh_tokens`.
    pub refresh: RefreshTokens,
}

/// The columns of `blacklisted_tokens`.
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

/// Where Redis keeps the users who are denied.
#[derive(Clone, Debug, PartialEq)]
pub enum InvalidUsersLayout {
    /// One key per user; default prefix `invalid_user:`.
    Keys { prefix: Box<str> },
    /// One set of user ids; default `invalid_users`.
    Set { key: Box<str> },
    /// One sorted set of user ids, scored with the instant (unix ms) at which the entry may be forgotten: the ban's end, or the
    /// last moment of any token issued before it. Any member denies, whatever its score.
    SortedSet { key: Box<str> },
}

/// The columns of `users`.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidUsersColumns {
    pub user_id: SqlName,
    pub status: SqlName,
    pub status_updated_at: SqlName,
    pub last_security_action: SqlName,
}

/// What a user without a row is.
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

/// What presets must know of the world: the tables that exist, and how long tokens live.
#[derive(Clone, Debug, PartialEq)]
pub struct PresetContext {
    pub dialect: Dialect,
    /// Longest life of an access token and of a refresh token, over all issuers.
    pub token_lifetime: Duration,
    pub refresh_lifetime: Duration,
    /// How long past its `exp` some issuer's token is still accepted.
    pub leeway: Duration,
    /// What headers tell of a user's profile.
    pub profile: Box<[Box<str>]>,
    tables: HashMap<Box<str>, Table>,
}

impl PresetContext {
    /// Asks the database which of the presets' tables exist, and what they look like.
    pub async fn load(
        sql: &SqlStore,
        presets: &[Preset],
        token_lifetime: Duration,
        refresh_lifetime: Duration,
        leeway: Duration,
    ) -> Result<Self, StoreError> {
        let mut tables = HashMap::new();
        for (name, _) in presets.iter().flat_map(Preset::tables) {
            if let Some(table) = Table::find(sql, name.as_str()).await? {
                tables.insert(name.as_str().into(), table);
            }
        }
        let profile = Box::default();
        Ok(Self { dialect: sql.dialect(), token_lifetime, refresh_lifetime, leeway, profile, tables })
    }

    /// As the documentation describes the tables, for showing rules without a database.
    pub fn assumed(
        dialect: Dialect,
        presets: &[Preset],
        token_lifetime: Duration,
        refresh_lifetime: Duration,
        leeway: Duration,
    ) -> Self {
        let tables = presets
            .iter()
            .flat_map(Preset::tables)
            .map(|(name, columns)| (name.as_str().into(), Table::assumed(dialect, name.as_str(), &columns)));
        let tables = tables.collect();
        Self { dialect, token_lifetime, refresh_lifetime, leeway, profile: Box::default(), tables }
    }

    /// Of any token, leeway included.
    pub fn longest_life(&self) -> Duration {
        self.refresh_lifetime.max(self.token_lifetime) + self.leeway
    }

    fn table(&self, name: &SqlName) -> Option<&Table> {
        self.tables.get(name.as_str())
    }
}

/// A user's standing, as a change leaves it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    pub user: User,
    pub status: Status,
    pub reason: Option<String>,
    pub until: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub version: i64,
}

/// Why a user's standing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    Status,
    Logout,
    /// This status has ended by itself.
    Lift(Status),
}

/// A statement and what it is to match.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SqlWrite {
    pub sql: String,
    pub values: Vec<Value>,
    /// No row means that the database does not know the user, and that this is an error.
    pub must_match: bool,
}

/// What a layout keeps in Redis, one key each; for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    BlacklistedTokens,
    RefreshTokens,
    Sessions,
    Profiles,
}

/// A token on its way to a layout.
#[derive(Clone, Copy)]
pub(in crate::ledger) struct RevokedToken<'a> {
    pub compact: &'a str,
    /// In lower-case hex.
    pub sha256: &'a str,
    pub token_id: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub expires_at: Option<Timestamp>,
    pub at: Timestamp,
}

impl Preset {
    /// The preset as a layout of users, where it is one.
    pub(in crate::ledger) fn users(&self) -> Option<&dyn UserLayout> {
        match self {
            Self::Native(preset) => Some(preset),
            Self::InvalidUsers(preset) => Some(preset),
            Self::ActiveFlagCache(preset) => Some(preset),
            Self::UserCache(preset) => Some(preset),
            Self::SessionStore(preset) => Some(preset),
            Self::Record(preset) => Some(preset),
            Self::TokenBlacklist(_) => None,
        }
    }

    /// The preset as a layout of revoked tokens, where it is one.
    pub(in crate::ledger) fn tokens(&self) -> Option<&dyn TokenLayout> {
        match self {
            Self::Native(preset) => Some(preset),
            Self::TokenBlacklist(preset) => Some(preset),
            Self::SessionStore(preset) => Some(preset),
            Self::InvalidUsers(_) | Self::ActiveFlagCache(_) | Self::UserCache(_) | Self::Record(_) => None,
        }
    }

    /// How keys that are counted begin.
    pub fn counted(&self) -> Vec<(Counted, &str)> {
        match self {
            Self::TokenBlacklist(preset) => {
                vec![
                    (Counted::BlacklistedTokens, &preset.prefix),
                    (Counted::RefreshTokens, &preset.refresh.prefix),
                ]
            }
            Self::SessionStore(preset) => vec![
                (Counted::BlacklistedTokens, &preset.blacklist),
                (Counted::Sessions, &preset.session),
                (Counted::Profiles, &preset.profile),
            ],
            Self::UserCache(preset) => vec![(Counted::Profiles, &preset.prefixes.id)],
            Self::Native(_) | Self::InvalidUsers(_) | Self::ActiveFlagCache(_) | Self::Record(_) => {
                Vec::new()
            }
        }
    }

    /// What it asks, in the order it is asked.
    pub fn rules(&self, context: &PresetContext) -> Vec<Rule> {
        match self {
            Self::Native(preset) => preset.rules(),
            Self::TokenBlacklist(preset) => preset.rules(context),
            Self::InvalidUsers(preset) => preset.rules(context),
            Self::ActiveFlagCache(preset) => preset.rules(context),
            Self::UserCache(preset) => preset.rules(context),
            Self::SessionStore(preset) => preset.rules(context),
            Self::Record(preset) => preset.rules(context),
        }
    }
}

/// A rule of ours: what is not under its key is not denied.
fn listed(
    name: &str,
    guards: Guards,
    key: &str,
    redis: Condition,
    (query, sql): (String, Condition),
    (reason, status): (&str, u16),
) -> Option<Rule> {
    Some(Rule {
        name: name.into(),
        guards,
        redis: Some(RedisQuestion { key: template(key)?, deny_if: redis, if_absent: IfAbsent::Allow }),
        sql: Some(SqlQuestion { query, deny_if: sql }),
        reason: reason.into(),
        status,
        ttl: KNOWN_TTL,
    })
}

/// Prefixes are operators' text: a brace in one is a brace.
fn literal(prefix: &str) -> String {
    prefix.replace('{', "{{").replace('}', "}}")
}

fn template(text: &str) -> Option<Template> {
    Template::parse(text).ok()
}

/// What remains of a token's life, or `None` for a token that never ends.
fn remaining(expires_at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    expires_at.map(|end| now.until(end))
}
