//! No token and no secret may stand in anything the gateway produces: the registry of both, and the search.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Shorter strings would be found by chance.
const SHORTEST: usize = 12;

fn registry() -> &'static Mutex<BTreeSet<String>> {
    static SECRETS: OnceLock<Mutex<BTreeSet<String>>> = OnceLock::new();
    SECRETS.get_or_init(Mutex::default)
}

/// From now on, this text found in the output of any gateway of this process fails the test that owns the gateway.
pub fn secret(text: &str) {
    if text.len() >= SHORTEST {
        registry().lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned());
    }
}

/// A minted token: the whole of it, and its signature alone, which is what makes it worth stealing.
pub fn token(token: &str) {
    secret(token);
    if let Some((_, signature)) = token.rsplit_once('.') {
        secret(signature);
    }
}

/// What was found where; empty is good. Shows the beginning of a secret only.
pub fn search(name: &str, content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let secrets = registry().lock().unwrap_or_else(PoisonError::into_inner);
    secrets
        .iter()
        .filter(|secret| text.contains(secret.as_str()))
        .map(|secret| format!("{name}: holds {:.8}… ({} bytes)", secret, secret.len()))
        .collect()
}

/// Searches every file under a directory but those that may hold secrets by their nature.
pub fn search_directory(directory: &Path, exempt: &dyn Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in files(directory) {
        if !exempt(&path) {
            found.extend(search(&path.display().to_string(), &fs::read(&path).unwrap_or_default()));
        }
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}
