//! Subjects that are e-mail addresses, user names or phone numbers: who is meant is found out before anything is asked.
//!
//! What was found is kept with the credential, as questions about the user it leads to; whether it still leads there is one
//! more question among them, with a key like any other. So a second round trip is paid once per credential, and again only
//! when an alias has come to lead elsewhere.

mod change;

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use redis::Pipeline;

use super::condition::{Finding, Reply};
use super::preset::{AliasKind, AliasRules};
use super::questions::{Compiled, Questions};
use super::rule::{Condition, Rule};
use super::sql::{Cast, Dialect, Row, Statement};
use super::store::StoreError;
use super::thoroughness::Thoroughness;
use super::{Ledger, Lookup, OpenError, Outage, Revocation, Source, Unaskable, redis as store};
use crate::claims::{Claims, User};
use crate::template::{Field, RenderError};
use crate::time::Timestamp;
use crate::token::Token;

/// What denials and outages of a subject that leads nowhere are told as.
const RULE: &str = "user-cache.user";

/// What fills placeholders: a token, and the user it means.
pub(super) struct Speaker<'a> {
    pub claims: &'a Claims,
    pub token: &'a Token<'a>,
    /// Where the token names its user by an alias.
    pub user: Option<&'a User>,
}

impl<'a> Speaker<'a> {
    /// As [`Field::value`]; the user is who is meant, not what the token calls it.
    pub fn value(&self, field: &Field) -> Result<Cow<'a, str>, RenderError> {
        match (field, self.user) {
            (Field::Subject | Field::Realm | Field::User, Some(user)) => field.of_user(user),
            _ => field.value(self.claims, self.token),
        }
    }
}

/// What the subject of one token was found to be.
pub(super) struct Named {
    token: Box<str>,
    found: ArcSwapOption<Questions>,
}

impl Named {
    /// The questions about the user who was found last.
    pub fn found(&self) -> Option<Arc<Questions>> {
        self.found.load_full()
    }
}

impl Questions {
    /// Whether they were found to be about this user.
    pub fn mean(&self, user: &User) -> bool {
        let found = self.named.as_ref().and_then(|named| named.found());
        found.is_some_and(|found| found.user.as_ref() == Some(user))
    }
}

/// How subjects become ids.
pub(super) struct Aliases {
    id: Cast,
    known: Statement,
    unknown_denied: bool,
    kinds: Box<[Kind]>,
}

struct Kind {
    kind: AliasKind,
    /// Which of the ledger's alias rules it is.
    place: usize,
    find: Statement,
}

/// Who a subject is.
enum Found {
    User { kind: usize, id: Box<str> },
    Nobody,
}

impl Aliases {
    /// With the rules that belong to it, in order.
    pub fn new(rules: AliasRules, dialect: Dialect) -> Result<(Self, Vec<Rule>), OpenError> {
        let parsed = |query: &str| {
            Statement::parse(query, dialect)
                .map_err(|error| OpenError::Rule { rule: RULE.into(), what: error.to_string() })
        };
        let known = parsed(&rules.known)?;
        let mut kinds = Vec::new();
        let mut asked = Vec::new();
        for it in rules.kinds {
            let find = parsed(&it.find)?;
            kinds.push(Kind { kind: it.kind, place: asked.len(), find });
            asked.push(it.rule);
        }
        let aliases = Self { id: rules.id, known, unknown_denied: rules.unknown_denied, kinds: kinds.into() };
        Ok((aliases, asked))
    }

    /// Whether the subject is an id before it is anything else: it has the form of one that is no name.
    fn is_id(&self, subject: &str) -> bool {
        match self.id {
            Cast::Int | Cast::Uuid => self.id.value(subject).is_some(),
            Cast::Text => Cast::Int.value(subject).is_some() || Cast::Uuid.value(subject).is_some(),
        }
    }

    fn kinds_of<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a Kind> {
        self.kinds.iter().filter(|kind| kind.kind.fits(subject))
    }
}

impl AliasKind {
    /// Whether a subject can be such an alias, by its form alone.
    fn fits(self, subject: &str) -> bool {
        match self {
            Self::Email => subject.contains('@'),
            Self::Username => !subject.contains('@'),
            Self::Phone => {
                let digits = subject.bytes().filter(u8::is_ascii_digit).count();
                digits >= 5 && subject.bytes().all(|it| it.is_ascii_digit() || b"+-(). ".contains(&it))
            }
        }
    }
}

/// About whom an answer is, where it is not the same to everybody: whether an alias leads to *this* user.
pub(super) fn answer_about<'a>(rule: &Compiled, user: Option<&'a User>) -> Option<&'a str> {
    let leads = rule.rule.redis.as_ref().is_some_and(|redis| redis.deny_if == Condition::Leads);
    user.filter(|_| leads).map(|user| &*user.subject)
}

/// Whether an alias in Redis still leads to the user: an id, bare or as JSON.
pub(super) fn leads(reply: Reply<'_>, user: Option<&User>) -> Result<Finding, StoreError> {
    let id = match reply {
        Reply::Absent => return Ok(Finding::Absent),
        reply => id_in(reply)?,
    };
    Ok(if user.is_some_and(|user| *user.subject == *id) { Finding::Clear } else { Finding::Moved })
}

fn id_in(reply: Reply<'_>) -> Result<Box<str>, StoreError> {
    let Reply::Value(bytes) = reply else { return Err(StoreError::malformed("an id was expected")) };
    let text = std::str::from_utf8(bytes).map_err(|_| StoreError::malformed("an id was expected"))?.trim();
    let id = match serde_json::from_str(text) {
        Ok(serde_json::Value::String(id)) => id,
        _ => text.to_owned(),
    };
    if id.is_empty() { Err(StoreError::malformed("an id was expected")) } else { Ok(id.into()) }
}

/// The one id in a row of an alias rule's `find`.
fn id_of(row: Option<&Row>) -> Result<Option<Box<str>>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let hits = row.get(1).and_then(|(_, hits)| hits.as_i64());
    match (row.first().and_then(|(_, id)| id.as_str()), hits) {
        (Some(id), Some(1)) => Ok(Some(id.into())),
        // Two users of one name: either could be meant.
        (Some(_), Some(2..)) => Err(StoreError::malformed("the alias leads to several users")),
        _ => Err(StoreError::malformed("an id was expected")),
    }
}

impl Ledger {
    /// The questions about a credential; where its subject may be an alias, with room for what it will be found to mean.
    pub(super) fn questions_about(&self, claims: &Claims, token: &Token<'_>) -> Result<Questions, Unaskable> {
        let subject = claims.subject();
        let Some(aliases) = self.aliases.as_ref().filter(|it| it.kinds_of(subject).next().is_some()) else {
            return self.rendered(claims, token, None);
        };
        let mut questions = match aliases.is_id(subject) {
            true => self.rendered(claims, token, None)?,
            false => Questions { place: self.database.memory.place(subject), ..Questions::none() },
        };
        let named = Named { token: token.compact().into(), found: ArcSwapOption::empty() };
        questions.named = Some(Box::new(named));
        Ok(questions)
    }

    fn rendered(
        &self,
        claims: &Claims,
        token: &Token<'_>,
        alias: Option<(&Arc<Compiled>, &User)>,
    ) -> Result<Questions, Unaskable> {
        let subject = alias.map_or(claims.subject(), |(_, user)| &user.subject);
        let questions = self.rules.questions(claims, token, alias)?;
        Ok(Questions { place: self.database.memory.place(subject), ..questions })
    }

    /// Asks about the user whom the credential means: one more round trip for a subject that is an alias and has not been
    /// looked up.
    pub(super) async fn find_meant(
        &self,
        questions: &Questions,
        claims: &Claims,
        how: Thoroughness,
        now: Timestamp,
    ) -> Lookup {
        let Some(named) = &questions.named else {
            return self.find_user(questions, claims, how, now).await;
        };
        // An id first; what no user has for an id may be a phone number.
        if !questions.asked.is_empty() && named.found().is_none() {
            let lookup = self.find_user(questions, claims, how, now).await;
            if !matches!(&lookup, Lookup::Revoked(denied) if &*denied.reason == "user_unknown") {
                return lookup;
            }
        }
        for _ in 0..2 {
            let about = match named.found() {
                Some(found) => found,
                None => match self.resolve(named, claims).await {
                    Ok(Some(found)) => found,
                    Ok(None) => return self.find_nobody(questions, named, claims, how, now).await,
                    Err(error) => return unknown(&error.to_string()),
                },
            };
            if how == Thoroughness::Usual && self.vouches(&about) {
                return Lookup::Live;
            }
            match self.ask(&about, claims, how, now).await {
                Some(lookup) => return lookup,
                None => named.found.store(None),
            }
        }
        unknown("the alias leads to one user now and to another then")
    }

    async fn find_user(
        &self,
        questions: &Questions,
        claims: &Claims,
        how: Thoroughness,
        now: Timestamp,
    ) -> Lookup {
        let lookup = self.ask(questions, claims, how, now).await;
        lookup.unwrap_or_else(|| unknown("there is no alias, and it leads elsewhere"))
    }

    /// The alias leads to nobody. It may be an id all the same, where ids are any text.
    async fn find_nobody(
        &self,
        questions: &Questions,
        named: &Named,
        claims: &Claims,
        how: Thoroughness,
        now: Timestamp,
    ) -> Lookup {
        let Some(aliases) = &self.aliases else { return unknown("there are no aliases") };
        if questions.asked.is_empty() && (!aliases.unknown_denied || aliases.id == Cast::Text) {
            return match self.rules.questions(claims, &Token::new(&named.token), None) {
                Ok(questions) => self.find_user(&questions, claims, how, now).await,
                Err(error) => unknown(&error.to_string()),
            };
        }
        if !aliases.unknown_denied {
            return self.find_user(questions, claims, how, now).await;
        }
        Lookup::Revoked(Revocation {
            rule: RULE.into(),
            reason: "user_unknown".into(),
            status: 403,
            source: Source::Database,
        })
    }

    /// The questions about the user whom the token means; `None` where it is nobody.
    async fn resolve(&self, named: &Named, claims: &Claims) -> Result<Option<Arc<Questions>>, StoreError> {
        let subject = claims.subject();
        let Some(aliases) = &self.aliases else { return Ok(None) };
        let Found::User { kind, id } = self.look_up(aliases, claims, &Token::new(&named.token)).await? else {
            return Ok(None);
        };
        let user = User { realm: claims.user().realm.clone(), subject: id };
        let rule = self.rules.aliases.get(kind).ok_or_else(|| StoreError::unavailable("no such alias"))?;
        let questions = self.rendered(claims, &Token::new(&named.token), Some((rule, &user)));
        let questions = questions.map_err(|_| {
            StoreError::malformed(format_args!("an id that cannot be part of a key ({})", subject.len()))
        })?;
        let questions = Arc::new(questions);
        named.found.store(Some(Arc::clone(&questions)));
        Ok(Some(questions))
    }

    /// Kind by kind, in the configured order: Redis, then the database.
    async fn look_up(
        &self,
        aliases: &Aliases,
        claims: &Claims,
        token: &Token<'_>,
    ) -> Result<Found, StoreError> {
        let speaker = Speaker { claims, token, user: None };
        for kind in aliases.kinds_of(claims.subject()) {
            let Some(rule) = self.rules.aliases.get(kind.place) else { continue };
            let cached = match self.cached_alias(rule, &speaker).await {
                Ok(cached) => cached,
                Err(error) => {
                    tracing::debug!(ledger.rule = %rule.rule.name, %error, "Alias not found in Redis");
                    None
                }
            };
            let id = match cached {
                Some(id) => Some(id),
                None => self.alias_row(kind, &speaker).await?,
            };
            if let Some(id) = id {
                return Ok(Found::User { kind: kind.place, id });
            }
        }
        Ok(Found::Nobody)
    }

    async fn cached_alias(
        &self,
        rule: &Compiled,
        speaker: &Speaker<'_>,
    ) -> Result<Option<Box<str>>, StoreError> {
        // An alias from a Redis that lacks changes may lead to whoever had it before.
        let (Some(redis), Some(question)) = (&self.redis, &rule.rule.redis) else { return Ok(None) };
        if self.doubt.is_raised() {
            return Ok(None);
        }
        // A name that cannot stand in a key has none.
        let Ok(key) = self.rules.key(&question.key, |field| speaker.value(field)) else { return Ok(None) };
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("GET").arg(key);
        let answered = redis.ask(&pipeline).await?;
        match answered.replies.first().filter(|_| answered.believed).map(store::reply) {
            Some(Ok(Reply::Absent)) | None => Ok(None),
            Some(reply) => id_in(reply?).map(Some),
        }
    }

    async fn alias_row(&self, kind: &Kind, speaker: &Speaker<'_>) -> Result<Option<Box<str>>, StoreError> {
        let value = |field: &Field| speaker.value(field).map(|value| value.into_owned().into_boxed_str());
        let arguments: Result<Box<[_]>, RenderError> = kind.find.fields().map(value).collect();
        let arguments = arguments.map_err(|_| StoreError::malformed("a name that cannot be bound"))?;
        if arguments.iter().any(|argument| argument.contains(char::is_control)) {
            return Ok(None);
        }
        let key = self.database.memory.key(&(kind.find.sql(), &arguments));
        let bound = super::questions::Bound { arguments, key };
        let (row, ..) =
            self.database.answer(&kind.find, &bound, speaker.claims.subject(), self.database.life).await;
        id_of(row?.as_deref())
    }
}

fn unknown(cause: &str) -> Lookup {
    Lookup::Unknown(Outage { rule: RULE.into(), cause: cause.into() })
}
