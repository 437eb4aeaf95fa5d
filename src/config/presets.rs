//! `[ledger.preset.NAME]`: the parameters of presets.

use super::kinds::{DAY, SECOND, duration, list, parsed, word};
use super::reader::Table;
use crate::identity::IdentitySettings;
use crate::ledger::preset::{
    ActiveFlagCache, AliasKind, InvalidUsers, InvalidUsersColumns, InvalidUsersLayout, Native, Preset,
    RefreshTokens, SessionColumns, SessionStore, SqlName, TokenBlacklist, TokenBlacklistColumns, UnknownUser,
    UserCache, UserColumns, UserPrefixes,
};
use crate::ledger::profile::is_secret;
use crate::ledger::rule::Spelling;
use crate::template::Field;

/// The presets of this version.
pub const NAMES: [&str; 6] =
    ["native", "token-blacklist", "invalid-users", "active-flag-cache", "user-cache", "session-store"];

/// Reads the parameters of the presets in use, in the order in which they were named.
pub fn presets(table: &mut Table<'_>, used: &[&'static str]) -> Option<Vec<Preset>> {
    for name in NAMES {
        if table.has(name) && !used.contains(&name) {
            let message = format!("`{name}` is not in `ledger.presets`: its parameters would do nothing");
            table.reader.problem(&table.place(name), message);
        }
    }
    let read = |name: &&'static str| match *name {
        "native" => table.table("native", native).map(Preset::Native),
        "token-blacklist" => table.table("token-blacklist", token_blacklist).map(Preset::TokenBlacklist),
        "active-flag-cache" => {
            table.table("active-flag-cache", active_flag_cache).map(Preset::ActiveFlagCache)
        }
        "user-cache" => table.table("user-cache", user_cache).map(Preset::UserCache),
        "session-store" => table.table("session-store", session_store).map(Preset::SessionStore),
        _ => table.table("invalid-users", invalid_users).map(Preset::InvalidUsers),
    };
    let presets: Vec<_> = used.iter().map(read).collect();
    // Unused ones are keys that exist, all the same.
    NAMES.into_iter().filter(|name| !used.contains(name)).for_each(|name| table.exists(name));
    presets.into_iter().collect()
}

fn native(table: &mut Table<'_>) -> Option<Native> {
    Some(Native { prefix: table.or("prefix", parsed(key), "pc:")? })
}

fn token_blacklist(table: &mut Table<'_>) -> Option<TokenBlacklist> {
    let prefix = table.or("prefix", parsed(key), "blacklist:");
    let name = table.or("table", parsed(sql_name), "blacklisted_tokens");
    let columns = table.table("columns", |columns| {
        let token = columns.or("token", parsed(column), "token");
        let user_id = columns.or("user_id", parsed(column), "user_id");
        let expires_at = columns.or("expires_at", parsed(column), "expires_at");
        let blacklisted_at = columns.or("blacklisted_at", parsed(column), "blacklisted_at");
        Some(TokenBlacklistColumns {
            token: token?,
            user_id: user_id?,
            expires_at: expires_at?,
            blacklisted_at: blacklisted_at?,
        })
    });
    let refresh = table.table("refresh", refresh_tokens);
    Some(TokenBlacklist { prefix: prefix?, table: name?, columns: columns?, refresh: refresh? })
}

fn refresh_tokens(table: &mut Table<'_>) -> Option<RefreshTokens> {
    let prefix = table.or("prefix", parsed(key), "refresh_token:");
    let name = table.or("table", parsed(sql_name), "refresh_tokens");
    let [token, user_id, expires_at, is_revoked] =
        columns(table, ["token", "user_id", "expires_at", "is_revoked"])?;
    Some(RefreshTokens { prefix: prefix?, table: name?, token, user_id, expires_at, is_revoked })
}

/// `columns = { … }`: each is called what it is called, unless told otherwise.
fn columns<const N: usize>(table: &mut Table<'_>, names: [&'static str; N]) -> Option<[SqlName; N]> {
    let found = table.table("columns", |columns| {
        names.map(|name| columns.or(name, parsed(column), name)).into_iter().collect::<Option<Vec<_>>>()
    });
    found?.try_into().ok()
}

fn unknown_user(table: &mut Table<'_>) -> Option<UnknownUser> {
    let unknown = [("deny", UnknownUser::Deny), ("allow", UnknownUser::Allow)];
    table.or("unknown_user", word(&unknown), "deny")
}

fn active_flag_cache(table: &mut Table<'_>) -> Option<ActiveFlagCache> {
    let encodings = [
        ("plain", Spelling::Plain),
        ("quoted", Spelling::Quoted),
        ("numeric", Spelling::Numeric),
        ("json", Spelling::Json),
    ];
    let prefix = table.or("prefix", parsed(key), "user:");
    let suffix = table.or("suffix", parsed(key), ":active");
    let ttl = table.or("ttl", duration(SECOND..=366 * DAY), "5m");
    let encoding = table.or("encoding", word(&encodings), "plain");
    let name = table.or("table", parsed(sql_name), "users");
    let columns = columns(table, ["user_id", "is_active"]);
    let unknown_user = unknown_user(table);
    let [user_id, is_active] = columns?;
    Some(ActiveFlagCache {
        prefix: prefix?,
        suffix: suffix?,
        ttl: ttl?,
        encoding: encoding?,
        table: name?,
        user_id,
        is_active,
        unknown_user: unknown_user?,
    })
}

fn user_cache(table: &mut Table<'_>) -> Option<UserCache> {
    let prefixes = table.table("prefixes", |prefixes| {
        let id = prefixes.or("id", parsed(key), "user:id:");
        let email = prefixes.or("email", parsed(key), "user:email:");
        let username = prefixes.or("username", parsed(key), "user:username:");
        let phone = prefixes.or("phone", parsed(key), "user:phone:");
        Some(UserPrefixes { id: id?, email: email?, username: username?, phone: phone? })
    });
    let kinds = [("email", AliasKind::Email), ("username", AliasKind::Username), ("phone", AliasKind::Phone)];
    let ttl = table.or("ttl", duration(SECOND..=366 * DAY), "5m");
    let aliases = table.or("aliases", list(word(&kinds)), ["email", "username", "phone"]);
    let profile = table.maybe("profile", list(parsed(profile_column)));
    let written = table.has("profile");
    let name = table.or("table", parsed(sql_name), "users");
    let columns = columns(table, ["id", "email", "username", "phone_number", "is_active"]);
    let unknown_user = unknown_user(table);
    let [id, email, username, phone_number, is_active] = columns?;
    Some(UserCache {
        prefixes: prefixes?,
        ttl: ttl?,
        aliases: aliases?,
        profile: if written { Some(profile?) } else { None },
        table: name?,
        columns: UserColumns { id, email, username, phone_number, is_active },
        unknown_user: unknown_user?,
    })
}

fn profile_column(text: &str) -> Result<SqlName, String> {
    match is_secret(text) {
        true => Err("this sounds like a secret, and secrets are never cached".into()),
        false => column(text),
    }
}

fn session_store(table: &mut Table<'_>) -> Option<SessionStore> {
    let prefixes = table.table("prefixes", |prefixes| {
        let tokens = prefixes.or("tokens", parsed(key), "user:tokens:");
        let session = prefixes.or("session", parsed(key), "session:");
        let blacklist = prefixes.or("blacklist", parsed(key), "blacklist:");
        let profile = prefixes.or("profile", parsed(key), "user:profile:");
        Some((tokens?, session?, blacklist?, profile?))
    });
    let ttl = table.or("ttl", duration(SECOND..=366 * DAY), "24h");
    let name = table.or("table", parsed(sql_name), "sessions");
    let columns = columns(table, ["token", "user_id", "expires_at", "is_active"]);
    let (tokens, session, blacklist, profile) = prefixes?;
    let [token, user_id, expires_at, is_active] = columns?;
    Some(SessionStore {
        tokens,
        session,
        blacklist,
        profile,
        ttl: ttl?,
        table: name?,
        columns: SessionColumns { token, user_id, expires_at, is_active },
    })
}

/// How users are kept in Redis.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Keys,
    Set,
    SortedSet,
}

fn invalid_users(table: &mut Table<'_>) -> Option<InvalidUsers> {
    let shapes = [("key", Shape::Keys), ("set", Shape::Set), ("sorted_set", Shape::SortedSet)];
    let shape = table.or("layout", word(&shapes), "key");
    let layout = shape.and_then(|shape| layout(table, shape));
    let ttl = table.maybe("ttl", duration(SECOND..=366 * DAY));
    let name = table.or("table", parsed(sql_name), "users");
    let columns = table.table("columns", |columns| {
        let user_id = columns.or("user_id", parsed(column), "user_id");
        let status = columns.or("status", parsed(column), "status");
        let status_updated_at = columns.or("status_updated_at", parsed(column), "status_updated_at");
        let last_security_action = columns.or("last_security_action", parsed(column), "last_security_action");
        Some(InvalidUsersColumns {
            user_id: user_id?,
            status: status?,
            status_updated_at: status_updated_at?,
            last_security_action: last_security_action?,
        })
    });
    let unknown_user = unknown_user(table);
    Some(InvalidUsers { layout: layout?, ttl, table: name?, columns: columns?, unknown_user: unknown_user? })
}

/// `prefix` names one key per user, `key` the one key of all.
fn layout(table: &mut Table<'_>, shape: Shape) -> Option<InvalidUsersLayout> {
    let (mine, other, default) = match shape {
        Shape::Keys => ("prefix", "key", "invalid_user:"),
        Shape::Set | Shape::SortedSet => ("key", "prefix", "invalid_users"),
    };
    let name = table.or(mine, parsed(key), default);
    table.exists(other);
    if table.has(other) {
        let message = format!("`{other}` does nothing in this layout; `{mine}` does");
        table.reader.problem(&table.place(other), message);
    }
    let name = name?;
    Some(match shape {
        Shape::Keys => InvalidUsersLayout::Keys { prefix: name },
        Shape::Set => InvalidUsersLayout::Set { key: name },
        Shape::SortedSet => InvalidUsersLayout::SortedSet { key: name },
    })
}

/// A key or the beginning of one: nothing that a pattern, a template or a cluster slot would read as its own.
fn key(text: &str) -> Result<Box<str>, String> {
    if text.is_empty()
        || text.len() > 128
        || !text.bytes().all(|b| b.is_ascii_graphic() && !b"{}*?[]\\\"'".contains(&b))
    {
        return Err(
            "expected visible ASCII characters without quotes, braces, brackets, `*`, `?` and `\\`".into()
        );
    }
    Ok(text.into())
}

fn sql_name(text: &str) -> Result<SqlName, String> {
    SqlName::parse(text).ok_or_else(|| {
        "expected a plain name: letters, digits and `_`, a table perhaps with its schema before a dot".into()
    })
}

fn column(text: &str) -> Result<SqlName, String> {
    sql_name(text).and_then(|name| match text.contains('.') {
        true => Err("a column is named without its table".into()),
        false => Ok(name),
    })
}

/// The names of profiles that headers tell of; each must be one that somebody knows and everybody may.
pub fn told(table: &Table<'_>, identity: &IdentitySettings, presets: &[Preset]) -> Box<[Box<str>]> {
    let mut names: Vec<Box<str>> = Vec::new();
    let fields = identity.headers.iter().flat_map(|(_, template)| template.fields());
    for field in fields {
        let Field::Profile(name) = field else { continue };
        let knows = |preset: &Preset| matches!(preset, Preset::UserCache(_) | Preset::SessionStore(_));
        if is_secret(name) {
            let message = format!("`{{{field}}}` sounds like a secret, and secrets are never told");
            table.reader.problem(&table.place("identity"), message);
        } else if !presets.iter().any(knows) {
            // No mistake that lets anybody in: the header is never there, and clients' own copies are removed.
            let message =
                format!("nothing knows `{{{field}}}`: it needs the preset `user-cache` or `session-store`");
            table.reader.warn(&table.place("identity"), message);
            continue;
        }
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names.into()
}
