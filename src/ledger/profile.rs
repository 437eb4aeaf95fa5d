//! What upstreams may be told of a user: the `{profile.NAME}` of identity headers, from the cached user.
//!
//! Only the names that some header asks for are kept, and never one that sounds like a secret, whatever a query or a
//! service's own cache holds.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use quick_cache::sync::Cache;
use serde_json::Value;

use super::condition::Reply;
use super::memory::Kept;
use super::questions::{Asked, Questions, Rules};
use super::sql::Row;
use super::store::StoreError;
use super::{Ledger, redis};
use crate::claims::Claims;

/// Whether a name sounds like something that must not be cached, told or logged.
pub fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 16] = [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pwd",
        "secret",
        "token",
        "salt",
        "credential",
        "private_key",
        "privatekey",
        "api_key",
        "apikey",
        "otp",
        "mfa",
        "recovery",
    ];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
        || name.starts_with("hash")
        || name.ends_with("hash")
        || name.ends_with("_pin")
        || name == "pin"
}

/// A user's profile: a value for each name that some header asks for.
#[derive(Debug)]
pub struct Profile {
    values: Box<[(Box<str>, Box<str>)]>,
    digest: u64,
}

impl Profile {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }
}

/// What a profile is kept under: a keyed hash of the Redis key it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(u64, u64);

/// The profiles seen lately. Written whenever a store answers, so that it is never older than what memory believes.
#[derive(Debug)]
pub(super) struct Profiles {
    names: Box<[Box<str>]>,
    known: Cache<Source, Arc<Profile>>,
    hashers: [RandomState; 2],
}

impl Profiles {
    /// For these names; at most so many users.
    pub fn new(names: Box<[Box<str>]>, users: usize) -> Self {
        Self { names, known: Cache::new(users.max(1)), hashers: Default::default() }
    }

    /// What a key's profile is kept under; `None` where no header asks for any.
    pub fn source(&self, key: &str) -> Option<Source> {
        let [first, second] = &self.hashers;
        (!self.names.is_empty()).then(|| Source(first.hash_one(key), second.hash_one(key)))
    }

    /// The profile of a source that has been asked.
    pub fn get(&self, source: Source) -> Option<Arc<Profile>> {
        self.known.get(&source)
    }

    /// What Redis replied; `None`: nothing. What is no JSON object tells nothing.
    pub fn learn_text(&self, source: Source, text: Option<&[u8]>) {
        let digest = self.hashers[0].hash_one(text);
        if self.known.peek(&source).is_some_and(|known| known.digest == digest) {
            return;
        }
        let object = text.and_then(|text| serde_json::from_slice::<serde_json::Map<_, _>>(text).ok());
        self.keep(source, digest, |name| object.as_ref()?.get(name));
    }

    /// What the database replied.
    pub fn learn_row(&self, source: Source, row: Option<&Row>) {
        let cell = |name: &str| {
            row?.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let digest = self.hashers[0].hash_one(self.names.iter().map(|name| cell(name)).collect::<Vec<_>>());
        if self.known.peek(&source).is_none_or(|known| known.digest != digest) {
            self.keep(source, digest, cell);
        }
    }

    fn keep<'a>(&self, source: Source, digest: u64, value: impl Fn(&str) -> Option<&'a Value>) {
        let told = |name: &Box<str>| Some((name.clone(), scalar(value(name)?)?));
        let names = self.names.iter().filter(|name| !is_secret(name));
        let values = names.filter_map(told).collect();
        self.known.insert(source, Arc::new(Profile { values, digest }));
    }
}

impl Rules {
    /// Notes the profile in a reply of Redis.
    pub(super) fn learn_reply(&self, asked: &Asked, reply: Result<Option<&::redis::Value>, &StoreError>) {
        let (Some(source), Ok(Some(value))) = (asked.feeds, reply) else { return };
        match redis::reply(value) {
            Ok(Reply::Value(text)) => self.profiles.learn_text(source, Some(text)),
            // The database is asked next, where it can be.
            Ok(Reply::Absent) if asked.rule.statement.is_none() => self.profiles.learn_text(source, None),
            _ => {}
        }
    }

    /// Notes the profile in a row.
    pub(super) fn learn_row(&self, asked: &Asked, kept: &Kept) {
        if let (Some(source), Ok(row)) = (asked.feeds, kept) {
            self.profiles.learn_row(source, row.as_deref());
        }
    }
}

impl Ledger {
    /// What is known of the user whom a credential's questions are about; where several keys tell, the first one's word
    /// counts. To be asked for after the questions: from memory then, unless it was pushed out of it.
    pub async fn profile(&self, questions: &Questions, claims: &Claims) -> Vec<Arc<Profile>> {
        let found = questions.named.as_ref().and_then(|named| named.found());
        let questions = found.as_deref().unwrap_or(questions);
        let feeding: Vec<_> =
            questions.asked.iter().filter_map(|asked| Some((asked, asked.feeds?))).collect();
        if feeding.iter().any(|(_, source)| self.rules.profiles.get(*source).is_none()) {
            self.fetch_profiles(questions, claims).await;
        }
        feeding.iter().filter_map(|(_, source)| self.rules.profiles.get(*source)).collect()
    }

    async fn fetch_profiles(&self, questions: &Questions, claims: &Claims) {
        let replies = match (&self.redis, &questions.pipeline) {
            (Some(redis), Some(pipeline)) if !self.doubt.is_raised() => redis.ask(pipeline).await,
            _ => Ok(Vec::new()),
        };
        for asked in &questions.asked {
            let Some(source) = asked.feeds else { continue };
            if let Some(index) = asked.reply {
                self.rules.learn_reply(asked, replies.as_ref().map(|all| all.get(index)));
            }
            if self.rules.profiles.get(source).is_none()
                && let Some(statement) = &asked.rule.statement
                && let Some(bound) = questions.bound(asked, claims, &self.database.memory)
            {
                let (kept, _) = self.database.answer(statement, bound).await;
                self.rules.learn_row(asked, &kept);
            }
        }
    }
}

/// Text, numbers and booleans as they are spelled; nothing else can stand in a header.
fn scalar(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A row as the JSON that services cache, less what sounds like a secret, at any depth, and our own columns.
pub(super) fn document(row: &Row, flag: &str) -> Option<String> {
    let up = row.iter().find(|(column, _)| column == "portcullis_active")?.1.as_i64()? == 1;
    let kept = |(name, value): &(String, Value)| {
        let ours = name.starts_with("portcullis_") || name == "one" || is_secret(name);
        (!ours).then(|| (name.clone(), without_secrets(value)))
    };
    let mut object: serde_json::Map<_, _> = row.iter().filter_map(kept).collect();
    let flag = object.keys().find(|name| name.eq_ignore_ascii_case(flag)).cloned().unwrap_or(flag.to_owned());
    object.insert(flag, up.into());
    Some(Value::Object(object).to_string())
}

fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !is_secret(name));
            Value::Object(kept.map(|(name, value)| (name.clone(), without_secrets(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_secrets).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_sounds_like_a_secret_is_one() {
        for name in [
            "hashed_password",
            "password",
            "PasswordHash",
            "pw_hash",
            "client_secret",
            "reset_token",
            "totp_seed",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["email", "username", "phone_number", "is_active", "role", "display_name", "shipping"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn a_profile_holds_what_headers_ask_for_and_no_secret() {
        let names = ["email", "age", "hashed_password", "tags"].map(Box::from);
        let profiles = Profiles::new(names.into(), 10);
        let source = profiles.source("user:id:7").expect("names");
        let text = json!({"email": "a@b.c", "age": 7, "hashed_password": "x", "tags": [1], "other": 1});
        profiles.learn_text(source, Some(text.to_string().as_bytes()));
        let profile = profiles.get(source).expect("learnt");
        assert_eq!((profile.get("email"), profile.get("age")), (Some("a@b.c"), Some("7")));
        assert_eq!(
            (profile.get("hashed_password"), profile.get("tags"), profile.get("other")),
            (None, None, None)
        );
        profiles.learn_text(source, Some(text.to_string().as_bytes()));
        assert!(Arc::ptr_eq(&profile, &profiles.get(source).expect("known")), "unchanged is the same one");
        profiles.learn_text(source, None);
        assert_eq!(profiles.get(source).expect("known").get("email"), None);
    }

    #[test]
    fn a_row_is_cached_without_secrets_at_any_depth() {
        let row: Row = vec![
            ("portcullis_active".into(), json!(0)),
            ("id".into(), json!(7)),
            ("hashed_password".into(), json!("$2b$")),
            ("settings".into(), json!({"theme": "dark", "api_token": "x", "list": [{"secret": 1}]})),
            ("is_active".into(), json!(0)),
        ];
        let text = document(&row, "is_active").expect("a document");
        assert_eq!(
            serde_json::from_str::<Value>(&text).expect("JSON"),
            json!({"id": 7, "is_active": false, "settings": {"theme": "dark", "list": [{}]}})
        );
    }
}
