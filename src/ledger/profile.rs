//! What upstreams may be told of a user: the `{profile.NAME}` of identity headers, from the cached user.
//!
//! Only the names that some header asks for are kept, and never one that sounds like a secret, whatever a query or a
//! service's own cache holds.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use quick_cache::sync::Cache;
use serde_json::Value;

use super::coherence::Stamp;
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

/// The stamps of the keys that profiles come from.
pub(super) type Stamps = Vec<(Source, Stamp)>;

/// A profile, and the stamp of its key from before it was asked for.
#[derive(Clone, Debug)]
struct Noted {
    profile: Arc<Profile>,
    stamp: Option<Stamp>,
}

/// The profiles seen lately. Written whenever a store answers, so that it is never older than what memory believes.
#[derive(Debug)]
pub(super) struct Profiles {
    names: Box<[Box<str>]>,
    known: Cache<Source, Noted>,
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

    /// The profile of a source, unless its key has changed since it was asked for.
    pub fn get(&self, source: Source, stamp: Option<Stamp>) -> Option<Arc<Profile>> {
        let noted = self.known.get(&source)?;
        (stamp.is_none() || noted.stamp == stamp).then_some(noted.profile)
    }

    /// What Redis replied; `None`: nothing. What is no JSON object tells nothing.
    pub fn learn_text(&self, source: Source, text: Option<&[u8]>, stamp: Option<Stamp>) {
        let digest = self.hashers[0].hash_one(text);
        if self.is_known(source, digest, stamp) {
            return;
        }
        let object = text.and_then(|text| serde_json::from_slice::<serde_json::Map<_, _>>(text).ok());
        self.keep(source, digest, stamp, |name| object.as_ref()?.get(name));
    }

    /// What the database replied.
    pub fn learn_row(&self, source: Source, row: Option<&Row>, stamp: Option<Stamp>) {
        let cell = |name: &str| {
            row?.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let digest = self.hashers[0].hash_one(self.names.iter().map(|name| cell(name)).collect::<Vec<_>>());
        if !self.is_known(source, digest, stamp) {
            self.keep(source, digest, stamp, cell);
        }
    }

    /// Whether that is what is known already; it is the same profile then, and headers made of it need not be made again.
    fn is_known(&self, source: Source, digest: u64, stamp: Option<Stamp>) -> bool {
        let Some(noted) = self.known.peek(&source).filter(|noted| noted.profile.digest == digest) else {
            return false;
        };
        if noted.stamp != stamp {
            self.known.insert(source, Noted { stamp, ..noted });
        }
        true
    }

    fn keep<'a>(
        &self,
        source: Source,
        digest: u64,
        stamp: Option<Stamp>,
        value: impl Fn(&str) -> Option<&'a Value>,
    ) {
        let names = self.names.iter().filter(|name| !is_secret(name));
        let values = names.filter_map(|name| Some((name.clone(), scalar(value(name)?)?))).collect();
        self.known.insert(source, Noted { profile: Arc::new(Profile { values, digest }), stamp });
    }
}

fn stamp_of(stamps: &Stamps, source: Source) -> Option<Stamp> {
    stamps.iter().find(|(known, _)| *known == source).map(|(_, stamp)| *stamp)
}

impl Rules {
    /// Notes the profile in a reply of Redis.
    pub(super) fn learn_reply(
        &self,
        asked: &Asked,
        reply: Result<Option<&::redis::Value>, &StoreError>,
        stamps: &Stamps,
    ) {
        let (Some(source), Ok(Some(value))) = (asked.feeds, reply) else { return };
        let stamp = stamp_of(stamps, source);
        match redis::reply(value) {
            Ok(Reply::Value(text)) => self.profiles.learn_text(source, Some(text), stamp),
            // The database is asked next, where it can be.
            Ok(Reply::Absent) if asked.rule.statement.is_none() => {
                self.profiles.learn_text(source, None, stamp);
            }
            _ => {}
        }
    }

    /// Notes the profile in a row.
    pub(super) fn learn_row(&self, asked: &Asked, kept: &Kept, stamps: &Stamps) {
        if let (Some(source), Ok(row)) = (asked.feeds, kept) {
            self.profiles.learn_row(source, row.as_deref(), stamp_of(stamps, source));
        }
    }
}

impl Ledger {
    /// The present stamps of the keys that tell of users.
    pub(super) fn profile_stamps(&self, questions: &Questions) -> Stamps {
        let Some(coherent) = &self.coherent else { return Stamps::new() };
        let stamp = |asked: &Asked| {
            let slot = asked.kept.as_ref()?.slot;
            Some((asked.feeds?, coherent.coherence.stamp(slot)))
        };
        questions.asked.iter().filter_map(stamp).collect()
    }

    /// What is known of the user whom a credential's questions are about; where several keys tell, the first one's word
    /// counts. To be asked for after the questions: from memory then, unless it was pushed out of it.
    pub async fn profile(&self, questions: &Questions, claims: &Claims) -> Vec<Arc<Profile>> {
        let found = questions.named.as_ref().and_then(|named| named.found());
        let questions = found.as_deref().unwrap_or(questions);
        let feeding = || questions.asked.iter().filter_map(|asked| asked.feeds);
        // While memory is believed the profile has to be of its age; else the answer of a moment ago is what there is.
        let stamps = if self.is_coherent() { self.profile_stamps(questions) } else { Stamps::new() };
        let known = |source| self.rules.profiles.get(source, stamp_of(&stamps, source));
        if feeding().all(|source| known(source).is_some()) {
            return feeding().filter_map(known).collect();
        }
        self.fetch_profiles(questions, claims).await;
        feeding().filter_map(|source| self.rules.profiles.get(source, None)).collect()
    }

    async fn fetch_profiles(&self, questions: &Questions, claims: &Claims) {
        let stamps = self.profile_stamps(questions);
        let replies = match (&self.redis, &questions.pipeline) {
            (Some(redis), Some(pipeline)) if !self.doubt.is_raised() => {
                redis.ask(pipeline).await.map(|answered| answered.replies)
            }
            _ => Ok(Vec::new()),
        };
        for asked in &questions.asked {
            let Some(source) = asked.feeds else { continue };
            let reply = asked.reply.map(|index| replies.as_ref().map(|all| all.get(index)));
            if let Some(reply) = reply {
                self.rules.learn_reply(asked, reply, &stamps);
            }
            if self.rules.profiles.get(source, stamp_of(&stamps, source)).is_none()
                && let Some(statement) = &asked.rule.statement
                && let Some(bound) = questions.bound(asked, claims, &self.database.memory)
            {
                let life = self.database.life(&asked.rule.rule);
                let (kept, ..) = self.database.answer(statement, bound, claims.subject(), life).await;
                self.rules.learn_row(asked, &kept, &stamps);
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
        profiles.learn_text(source, Some(text.to_string().as_bytes()), None);
        let profile = profiles.get(source, None).expect("learnt");
        assert_eq!((profile.get("email"), profile.get("age")), (Some("a@b.c"), Some("7")));
        assert_eq!(
            (profile.get("hashed_password"), profile.get("tags"), profile.get("other")),
            (None, None, None)
        );
        profiles.learn_text(source, Some(text.to_string().as_bytes()), None);
        assert!(
            Arc::ptr_eq(&profile, &profiles.get(source, None).expect("known")),
            "unchanged is the same one"
        );
        profiles.learn_text(source, None, None);
        assert_eq!(profiles.get(source, None).expect("known").get("email"), None);
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
