//! `on_response`: what is learnt from the service's own answers.

use super::kinds::{parsed, size, word};
use super::node::{Item, Node};
use super::reader::{Reader, Table};
use crate::ledger::preset::Preset;
use crate::route::{Observer, Revoke, Statuses, Track};

/// Every entry, or `None` after a problem was told.
pub fn on_response(table: &mut Table<'_>, presets: &[Preset]) -> Option<Vec<Observer>> {
    let observers = table.tables("on_response", None, |entry| observer(entry, presets));
    observers.into_iter().map(|observer| observer.value).collect()
}

/// Whether any of them revokes what was presented.
pub fn revokes(observers: &[Observer]) -> bool {
    observers.iter().any(|observer| matches!(observer, Observer::Revoke(..)))
}

fn observer(table: &mut Table<'_>, presets: &[Preset]) -> Option<Observer> {
    let statuses = table.or("status", statuses, "2xx");
    let words = [("token", Revoke::Token), ("session", Revoke::Session), ("user", Revoke::User)];
    let revoke = table.maybe("revoke", word(&words));
    table.maybe("track", word(&[("session", ())]));
    let token_at = table.maybe("token_at", parsed(pointer));
    let refresh_at = table.maybe("refresh_at", parsed(pointer));
    let tell = |key: &str, message: &str| table.reader.problem(&table.place(key), message);
    match (table.has("revoke"), table.has("track")) {
        (false, false) => tell("status", "this does nothing: say `revoke` or `track`"),
        (true, true) => tell("track", "one entry does one thing: give `track` an entry of its own"),
        (true, false) => {
            for key in ["token_at", "refresh_at", "max_bytes"] {
                if table.has(key) {
                    tell(key, "this is about `track`: what is revoked is the token that was presented");
                }
            }
            if let Some(revoke) = revoke
                && !presets.iter().any(|preset| guards(preset, revoke))
            {
                tell("revoke", "no preset of `ledger.presets` would enforce this: add `native`");
            }
        }
        (false, true) => {
            if !table.has("token_at") {
                tell("track", "`token_at` is missing: where does the answer hold its token?");
            }
            if !presets.iter().any(Preset::tracks) {
                tell(
                    "track",
                    "no preset of `ledger.presets` keeps sessions: add one that does, such as `token-blacklist`",
                );
            }
        }
    }
    if table.has("revoke") {
        table.exists("max_bytes");
        return Some(Observer::Revoke(statuses?, revoke?));
    }
    let max_bytes = table.or("max_bytes", size(256..=16 << 20), "1MiB");
    Some(Observer::Track(statuses?, Track { token_at: token_at?, refresh_at, max_bytes: max_bytes? }))
}

/// Whether a preset enforces such a revocation. Of presets that are not named here it is found out when it is made.
fn guards(preset: &Preset, revoke: Revoke) -> bool {
    match revoke {
        Revoke::Token => !matches!(preset, Preset::InvalidUsers(_)),
        Revoke::Session => !matches!(preset, Preset::InvalidUsers(_) | Preset::TokenBlacklist(_)),
        Revoke::User => !matches!(preset, Preset::TokenBlacklist(_)),
    }
}

/// `"2xx"`, `"200"`, `200`, or several divided by commas.
fn statuses(reader: &Reader<'_>, node: &Node) -> Option<Statuses> {
    match node.item {
        Item::Integer(status) => {
            Statuses::parse(&status.to_string()).map_err(|message| reader.problem(&node.at, message)).ok()
        }
        _ => parsed(Statuses::parse)(reader, node),
    }
}

/// A member's name, or a JSON pointer (RFC 6901): both become a pointer.
fn pointer(text: &str) -> Result<Box<str>, String> {
    match text {
        "" | "/" => Err("expected a JSON pointer, such as \"/accessToken\"".into()),
        pointer if pointer.starts_with('/') => Ok(pointer.into()),
        name => Ok(format!("/{}", name.replace('~', "~0").replace('/', "~1")).into()),
    }
}
