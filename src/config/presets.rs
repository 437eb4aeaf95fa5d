//! `[ledger.preset.NAME]`: the parameters of presets.

use super::kinds::{DAY, SECOND, duration, parsed, word};
use super::reader::Table;
use crate::ledger::preset::{
    InvalidUsers, InvalidUsersColumns, InvalidUsersLayout, Native, Preset, SqlName, TokenBlacklist,
    TokenBlacklistColumns, UnknownUser,
};

/// The presets of this version.
pub const NAMES: [&str; 3] = ["native", "token-blacklist", "invalid-users"];

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
    Some(TokenBlacklist { prefix: prefix?, table: name?, columns: columns? })
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
    let unknown = [("deny", UnknownUser::Deny), ("allow", UnknownUser::Allow)];
    let unknown_user = table.or("unknown_user", word(&unknown), "deny");
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
