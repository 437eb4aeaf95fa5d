//! What has to be asked about a credential: rendered once per token and kept with it.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use redis::{Cmd, Pipeline};
use smallvec::SmallVec;

use super::alias::{Named, Speaker, answer_about};
use super::answers::Memo;
use super::coherence::{Coherence, Slot};
use super::memory::{Key, Memory};
use super::profile::{Profiles, Source};
use super::rule::{Condition, Flag, Guards, IfAbsent, Rule};
use super::sql::{Argument, Dialect, Statement};
use super::{OpenError, Unaskable, adopt};
use crate::claims::{Claims, User};
use crate::template::{Field, RenderError, Template, is_separator};
use crate::token::Token;
use command::command;

mod command;

/// A rule with its query parsed.
#[derive(Debug)]
pub(super) struct Compiled {
    pub rule: Rule,
    pub statement: Option<Statement>,
    /// Asks for all that is kept in Redis, where that is more than the answer.
    pub whole: Option<Statement>,
    /// Whether the statement asks for our copy of the key ([`adopt`]).
    pub copies: bool,
}

impl Compiled {
    pub fn of(rule: Rule, dialect: Dialect, redis: bool) -> Result<Arc<Self>, OpenError> {
        let wrong = |what: String| OpenError::Rule { rule: rule.name.clone(), what };
        rule.check().map_err(wrong)?;
        if !redis && rule.sql.is_none() && !rule.only_tells() {
            // It would refuse every request, as an outage that never ends.
            return Err(wrong("no Redis is configured, and the rule has no `sql`".to_owned()));
        }
        let statement = match &rule.sql {
            Some(sql) => {
                Some(Statement::parse(&sql.query, dialect).map_err(|error| wrong(error.to_string()))?)
            }
            None => None,
        };
        let whole = match rule.sql.as_ref().map(|sql| &sql.deny_if) {
            Some(Condition::Flag(Flag { whole: Some(query), .. })) => {
                Some(Statement::parse(query, dialect).map_err(|error| wrong(error.to_string()))?)
            }
            _ => None,
        };
        let copies = rule.sql.as_ref().is_some_and(|sql| adopt::is_of_copies(&sql.query));
        Ok(Arc::new(Self { rule, statement, whole, copies }))
    }

    /// What Redis's silence means.
    pub fn silence(&self) -> IfAbsent {
        match &self.rule.redis {
            Some(redis) if !redis.deny_if.presence_allows() => redis.if_absent,
            _ => IfAbsent::AskDatabase,
        }
    }

    /// The placeholders of the query. That for a copy's hash is none that a token says anything for.
    fn fields(&self) -> impl Iterator<Item = &Field> {
        self.statement.iter().filter(|_| !self.copies).flat_map(Statement::fields)
    }

    /// Whether a token's other spelling has to be asked about as well: where the rule lists tokens by their text, and
    /// being listed denies.
    fn lists_tokens(&self) -> bool {
        let Rule { redis, sql, .. } = &self.rule;
        let redis = redis.as_ref();
        let conditions = redis.map(|it| &it.deny_if).into_iter().chain(sql.as_ref().map(|it| &it.deny_if));
        let member = redis.and_then(|redis| redis.deny_if.member());
        let templates = redis.map(|redis| &redis.key).into_iter().chain(member);
        let mut fields = templates.flat_map(Template::fields).chain(self.fields());
        !conditions.into_iter().any(Condition::presence_allows) && fields.any(Field::is_token)
    }

    /// Whether what the database says can be kept under the rule's key: where the whole value is the answer.
    pub fn writes_back(&self) -> bool {
        let whole = |condition: &Condition| match condition {
            Condition::Equals(_) | Condition::NativeUser | Condition::Flag(_) | Condition::Leads => true,
            Condition::Lacks(_) => true,
            Condition::IssuedBefore { pointer } => pointer.is_empty(),
            _ => false,
        };
        self.silence() == IfAbsent::AskDatabase
            && self.statement.is_some()
            && self.rule.redis.as_ref().is_some_and(|redis| whole(&redis.deny_if))
    }
}

/// All rules, and what their keys have in common.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Box<[Arc<Compiled>]>,
    /// The characters that divide keys. A value with one of them could make one rule's key look like another's.
    separators: Box<str>,
    /// Whether Redis is there to be asked.
    redis: bool,
    /// The keys by which subjects are turned into ids; asked only about subjects that are none.
    pub aliases: Box<[Arc<Compiled>]>,
    pub profiles: Arc<Profiles>,
    /// Under which names answers of Redis are kept, where any are.
    names: Option<Arc<Coherence>>,
}

impl Rules {
    pub fn compile(rules: Vec<Rule>, dialect: Dialect, redis: bool) -> Result<Self, OpenError> {
        let rules = Self::compile_all(rules, dialect, redis)?;
        let (aliases, profiles) = (Box::default(), Arc::new(Profiles::new(Box::default(), 1)));
        Ok(Self { separators: "".into(), rules, redis, aliases, profiles, names: None }.separated())
    }

    /// With rules that are asked only about subjects that are no ids, and what headers tell of users.
    pub fn with_users(
        self,
        aliases: Vec<Rule>,
        profiles: Profiles,
        dialect: Dialect,
    ) -> Result<Self, OpenError> {
        let aliases = Self::compile_all(aliases, dialect, self.redis)?;
        Ok(Self { aliases, profiles: Arc::new(profiles), ..self }.separated())
    }

    fn compile_all(
        rules: Vec<Rule>,
        dialect: Dialect,
        redis: bool,
    ) -> Result<Box<[Arc<Compiled>]>, OpenError> {
        rules.into_iter().map(|rule| Compiled::of(rule, dialect, redis)).collect()
    }

    fn separated(self) -> Self {
        let separators = self.keys().flat_map(Template::literals).flat_map(str::chars);
        let separators = separators.filter(|char| is_separator(*char)).collect::<String>().into();
        Self { separators, ..self }
    }

    /// From now on questions know where their answers are kept.
    pub fn keep_answers(&mut self, names: Arc<Coherence>) {
        self.names = Some(names);
    }

    /// The rules as they were given, those about aliases last.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> + Clone {
        self.rules.iter().chain(&self.aliases).map(|compiled| &compiled.rule)
    }

    /// In the order they are asked.
    pub fn all(&self) -> impl Iterator<Item = &Compiled> {
        self.rules.iter().map(|rule| &**rule)
    }

    #[cfg(test)]
    pub fn first(&self) -> &Compiled {
        &self.rules[0]
    }

    /// Renders what has to be asked about a credential. `alias` is the one by which it names its user, with that user.
    pub fn questions(
        &self,
        claims: &Claims,
        token: &Token<'_>,
        alias: Option<(&Arc<Compiled>, &User)>,
    ) -> Result<Questions, Unaskable> {
        let user = alias.map(|(_, user)| user);
        let mut asked = Vec::with_capacity(self.rules.len());
        let mut pipeline = Pipeline::with_capacity(self.rules.len());
        let twin = token.twin();
        let twin = twin.as_deref().map(Token::new);
        let spellings = |compiled: &Compiled| {
            let other = twin.filter(|_| compiled.lists_tokens());
            [Some(*token), other].into_iter().flatten()
        };
        // The alias behind the others, so that each of those stands where it always does.
        let rules = self.rules.iter().chain(alias.map(|(rule, _)| rule)).enumerate();
        let put = rules
            .flat_map(|(place, compiled)| spellings(compiled).map(move |token| (place, compiled, token)));
        for (place, compiled, token) in put {
            let speaker = Speaker { claims, token: &token, user };
            let (command, key, member, kept, copy) = match self.command(compiled, &speaker) {
                Ok(Some((command, key, member))) => {
                    let kept = self.names.as_ref().filter(|_| self.redis).map(|names| Kept {
                        slot: names.slot(key.as_bytes()),
                        // Two rules may read different things from one reply.
                        answer: names.key(&(
                            place,
                            command.get_packed_command(),
                            answer_about(compiled, user),
                        )),
                    });
                    let copy = compiled.copies.then(|| adopt::hash(&key).into());
                    (self.redis.then_some(command), Some(key), member, kept, copy)
                }
                Ok(None) => (None, None, None, None, None),
                // A token without `jti` cannot be on a list of `jti`s.
                Err(RenderError::Missing(_)) if compiled.rule.guards != Guards::User => continue,
                Err(error) => return Err(Unaskable(error.field().to_string().into())),
            };
            let reply = command.map(|command| {
                pipeline.add_command(command);
                pipeline.len() - 1
            });
            let binds_token = compiled.fields().any(Field::is_token);
            let token = binds_token.then(|| token.compact().into());
            let feeds = match &key {
                Some(key) if compiled.rule.tells_profile() => self.profiles.source(key),
                _ => None,
            };
            let writes_back = compiled.writes_back();
            asked.push(Asked {
                rule: compiled.clone(),
                reply,
                kept,
                key: key.filter(|_| writes_back).map(Into::into),
                member: member.filter(|_| writes_back).map(Into::into),
                token,
                feeds,
                copy,
                sql: OnceLock::new(),
            });
        }
        let mut slots: SmallVec<[Slot; 4]> =
            asked.iter().filter_map(|asked| Some(asked.kept.as_ref()?.slot)).collect();
        slots.sort_unstable();
        slots.dedup();
        let pipeline = (!pipeline.is_empty()).then_some(pipeline);
        Ok(Questions {
            asked: asked.into(),
            pipeline,
            slots,
            memo: Memo::default(),
            place: 0,
            user: user.cloned(),
            named: None,
        })
    }

    /// The one command that asks Redis. Also makes sure that the statement's placeholders have their values, so that
    /// binding them later cannot fail.
    fn command(
        &self,
        compiled: &Compiled,
        speaker: &Speaker<'_>,
    ) -> Result<Option<(Cmd, String, Option<String>)>, RenderError> {
        for field in compiled.fields() {
            // Some databases refuse text with NUL by an error, and errors would open the breaker for everybody.
            if speaker.value(field)?.contains(char::is_control) {
                return Err(RenderError::Unsafe(field.clone()));
            }
        }
        let Some(redis) = &compiled.rule.redis else { return Ok(None) };
        let key = self.key(&redis.key, |field| speaker.value(field))?;
        // Without Redis the key is rendered nevertheless: who is refused must not depend on which stores there are.
        let member = redis.deny_if.member().map(|it| it.fill(|field| speaker.value(field))).transpose()?;
        Ok(Some((command(&redis.deny_if, &key, member.as_deref()), key, member)))
    }

    /// A key that no other rule of this ledger could mean: with `user:{sub}` and `user:{sub}:active` the subject
    /// `7:active` would name the flag of the user `7`.
    pub fn key<'a>(
        &self,
        template: &Template,
        value_of: impl Fn(&Field) -> Result<Cow<'a, str>, RenderError>,
    ) -> Result<String, RenderError> {
        let key = template.fill(&value_of)?;
        let divides = |value: &str| value.contains(|char| self.separators.contains(char));
        for field in template.fields().filter(|field| !field.is_token()) {
            let elsewhere = |other: &Template| !template.same_shape(other) && other.could_produce(&key);
            if divides(&value_of(field)?) && self.keys().any(elsewhere) {
                return Err(RenderError::Unsafe(field.clone()));
            }
        }
        Ok(key)
    }

    fn keys(&self) -> impl Iterator<Item = &Template> {
        self.rules.iter().chain(&self.aliases).filter_map(|it| it.rule.redis.as_ref()).map(|it| &it.key)
    }
}

/// The questions a credential raises, rendered once per token and kept with it: asking again allocates next to
/// nothing. `Debug` shows no key, since a key may hold the token.
#[repr(C)]
pub struct Questions {
    /// That all answers were in its favour a moment ago.
    pub(super) memo: Memo,
    /// Where the versions of all its keys are counted.
    pub(super) slots: SmallVec<[Slot; 4]>,
    pub(super) asked: Box<[Asked]>,
    /// Where memory counts that their user was forgotten.
    pub(super) place: usize,
    pub(super) pipeline: Option<Pipeline>,
    /// The user they are about, where the token names that user by an alias.
    pub(super) user: Option<User>,
    /// Where the token's subject may be an alias: what it was found to be.
    pub(super) named: Option<Box<Named>>,
}

/// One rule, as put to the stores.
pub(super) struct Asked {
    pub rule: Arc<Compiled>,
    /// Which reply of the pipeline is its own.
    pub reply: Option<usize>,
    pub kept: Option<Kept>,
    /// Kept only where an answer of the database is kept in Redis.
    key: Option<Box<str>>,
    /// Kept only where it is kept as the member of a set.
    member: Option<Box<str>>,
    /// Kept only where the query binds it.
    token: Option<Box<str>>,
    /// Where the profile in its answer is kept.
    pub feeds: Option<Source>,
    /// What our copy of the key is found by, where there are copies.
    pub copy: Option<Box<str>>,
    sql: OnceLock<Arc<Bound>>,
}

/// Where an answer of Redis is kept, and where its key's version is counted.
pub(super) struct Kept {
    pub slot: Slot,
    pub answer: Key,
}

impl Asked {
    /// The key under which an answer of the database may be kept.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The member of the set under that key, where it is one.
    pub fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }
}

/// The arguments of a query, and what its answer is remembered under.
pub(super) struct Bound {
    pub arguments: Box<[Argument]>,
    pub key: Key,
}

impl Questions {
    /// Nothing is asked.
    pub(super) fn none() -> Self {
        let (asked, slots, memo) = (Box::default(), SmallVec::new(), Memo::default());
        Self { asked, pipeline: None, slots, memo, place: 0, user: None, named: None }
    }

    /// Binds a rule's query when it is first needed: with Redis well it never is.
    pub(super) fn bound<'a>(
        &self,
        asked: &'a Asked,
        claims: &Claims,
        memory: &Memory,
    ) -> Option<&'a Arc<Bound>> {
        let (statement, sql) = (asked.rule.statement.as_ref()?, asked.rule.rule.sql.as_ref()?);
        if let Some(bound) = asked.sql.get() {
            return Some(bound);
        }
        let token = Token::new(asked.token.as_deref().unwrap_or_default());
        let speaker = Speaker { claims, token: &token, user: self.user.as_ref() };
        let value = |field: &Field| speaker.value(field).map(Argument::from).ok();
        let arguments = match &asked.copy {
            Some(hash) => [hash.clone()].into(),
            None => statement.fields().map(value).collect::<Option<Box<[_]>>>()?,
        };
        let key = memory.key(&(&sql.query, &arguments));
        Some(asked.sql.get_or_init(|| Arc::new(Bound { arguments, key })))
    }
}

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.asked.iter().map(|asked| &asked.rule.rule.name)).finish()
    }
}
