//! How a change is made: the database first, in one transaction with what Redis is to be told; then Redis.

use std::time::Duration;

use tokio::time::timeout;

use super::change::{Applied, Change, ChangeError, RedisState, Status, TokenFacts};
use super::preset::{
    Native, Occasion, Preset, PresetContext, RevokedToken, SqlWrite, Standing, TokenLayout, UserLayout,
};
use super::redis::{Marked, RedisStore, RedisWrite, Step};
use super::schema::{number, text};
use super::sql::{SqlStore, Transaction};
use super::store::StoreError;
use super::{feed, outbox};
use rows::ended;

pub(in crate::ledger) use rows::{Drawn, Revoked, next_version, upsert};

use crate::claims::User;
use crate::time::Timestamp;
use crate::token::Token;

/// What our tables can index; no honest subject is longer.
const LONGEST_ID: usize = 1024;
const LONGEST_REALM: usize = 255;
/// A transaction that lost against another one is made again.
const ATTEMPTS: usize = 3;

/// Longest wait for the database to make a change.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the change before this one is waited for, that the mark may pass it. After that it is left to the look that
/// is taken each second.
const NEIGHBOUR: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(3), Duration::from_millis(9), Duration::from_millis(27)];

/// Where changes are written.
pub struct Writer {
    pub sql: SqlStore,
    pub presets: Vec<Preset>,
    pub context: PresetContext,
    /// Whether a Redis is configured: only then is anything kept for it.
    pub redis: bool,
    /// Whom the other gateways hear of a change from.
    pub source: Box<str>,
}

/// A change that the database holds, and what Redis has yet to hear of it.
#[derive(Debug)]
pub struct Committed {
    pub version: i64,
    /// What the mark has to have reached before; `None` where nothing was changed, and the version not used up.
    pub predecessor: Option<i64>,
    pub writes: Vec<RedisWrite>,
    pub restrictive: bool,
}

impl Writer {
    /// Makes a change: the database, then Redis, then the answer.
    pub async fn apply(
        &self,
        redis: Option<&RedisStore>,
        change: &Change,
        now: Timestamp,
    ) -> Result<Applied, ChangeError> {
        let committed = self.commit(change, now).await?;
        let state = match redis {
            None => RedisState::None,
            Some(redis) => match self.tell(redis, &committed).await {
                Ok(()) => RedisState::Applied,
                // Nothing was to be told: an expired token. The mark is raised with the next change.
                Err(_) if committed.writes.is_empty() => RedisState::Applied,
                Err(error) => {
                    tracing::warn!(%error, version = committed.version, "Redis will be told later");
                    RedisState::Pending
                }
            },
        };
        Ok(Applied { version: committed.version, redis: state })
    }

    /// Redis's half, and the mark with it. The row of the outbox goes when the mark has passed it: until then somebody
    /// who finds Redis behind can tell it everything again.
    pub(super) async fn tell(&self, redis: &RedisStore, committed: &Committed) -> Result<(), StoreError> {
        let Committed { version, predecessor, writes, restrictive } = committed;
        let Some(from) = *predecessor else { return Ok(()) };
        let step = Step { from, to: *version };
        let (told, mut marked) = redis.write_step(writes, step, *restrictive).await?;
        // The change before this one is on its way, most of the time.
        for pause in NEIGHBOUR {
            if marked != Marked::Gap {
                break;
            }
            tokio::time::sleep(pause).await;
            marked =
                redis.write_step(&[], step, *restrictive).await.map_or(Marked::Gap, |(_, marked)| marked);
        }
        // Also where there is no mark: an older copy may yet take the place of the Redis that was told, with its own.
        if writes.is_empty() || marked != Marked::Yes {
            return Ok(());
        }
        let settled = if told.refused.is_empty() {
            outbox::delivered(&self.sql, &[*version]).await
        } else {
            outbox::park(&self.sql, &told.refused).await
        };
        // Left behind, the row is delivered once more: the same version changes nothing.
        settled.unwrap_or_else(|error| tracing::warn!(%error, "Outbox row left for the next delivery"));
        Ok(())
    }

    /// The database's half.
    pub async fn commit(&self, change: &Change, now: Timestamp) -> Result<Committed, ChangeError> {
        self.check(change)?;
        let mut attempt = 1;
        loop {
            // Cut off here, the transaction has either happened as a whole, outbox row and all, or not at all.
            let made = timeout(PATIENCE, self.attempt(change, now)).await;
            match made.unwrap_or_else(|_| Err(unavailable(StoreError::Timeout))) {
                Err(error) if attempt < ATTEMPTS && error.is_conflict() => attempt += 1,
                done => return done,
            }
        }
    }

    async fn attempt(&self, change: &Change, now: Timestamp) -> Result<Committed, ChangeError> {
        let mut open = self.sql.begin().await.map_err(unavailable)?;
        let now = open.clock(now).await.map_err(unavailable)?;
        let Drawn { version, predecessor } = next_version(&mut open, now).await.map_err(unavailable)?;
        let unused = |restrictive| Committed { version, predecessor: None, writes: Vec::new(), restrictive };
        let (writes, restrictive) = match change {
            Change::Status { user, status, reason, until } => {
                let standing = self.standing(&mut open, user, now).await.map_err(unavailable)?;
                let not_before =
                    if *status == Status::SecurityAction { Some(now) } else { standing.not_before };
                let reason = reason.clone();
                let standing =
                    Standing { status: *status, reason, until: *until, not_before, version, ..standing };
                (self.user(&mut open, &standing, Occasion::Status, now).await?, *status != Status::Active)
            }
            Change::Lift { user } => {
                // Looked at under the lock that every change takes: since it was found, somebody may have decided anew.
                let Some(ended) = ended(&mut open, user, now).await.map_err(unavailable)? else {
                    return Ok(unused(false));
                };
                let standing = self.standing(&mut open, user, now).await.map_err(unavailable)?;
                let standing = Standing { version, ..standing };
                (self.user(&mut open, &standing, Occasion::Lift(ended), now).await?, false)
            }
            Change::Logout { user } => {
                let standing = self.standing(&mut open, user, now).await.map_err(unavailable)?;
                let standing = Standing { not_before: Some(now), version, ..standing };
                (self.user(&mut open, &standing, Occasion::Logout, now).await?, true)
            }
            Change::Token { compact, claims } => {
                (self.token(&mut open, compact, claims.as_ref(), version, now).await?, true)
            }
            Change::TokenId { token_id, expires_at } => {
                if is_over(*expires_at, &self.context, now) {
                    return Ok(unused(true));
                }
                let row = Revoked { kind: "jti", id: token_id, user: None, expires_at: *expires_at };
                row.write(&mut open, version, now).await.map_err(unavailable)?;
                let writes = self.natives().map(|native| row.redis(native, &self.context, now));
                (writes.collect(), true)
            }
            Change::Session { session } => {
                // A session that cannot be refreshed has no tokens when the longest of them has ended.
                let end = now.plus(self.context.refresh_lifetime.max(self.context.token_lifetime));
                let end = end.plus(self.context.leeway);
                let values =
                    [session.as_ref().into(), end.millis().into(), now.millis().into(), version.into()];
                let columns = ["sid", "expires_at", "revoked_at", "version"];
                let sql = upsert(open.dialect(), "portcullis_sessions", &columns, 1);
                open.execute(&sql, &values).await.map_err(unavailable)?;
                let part = format!("session:{session}");
                let writes = self.natives().map(|native| native.revoked_write(&part, Some(now.until(end))));
                (writes.collect(), true)
            }
            Change::Track { user, tokens } => {
                (self.track(&mut open, &track::Opened { user, tokens }, now).await?, false)
            }
        };
        feed::note(&mut open, &self.source, change.subject(), now).await.map_err(unavailable)?;
        if self.redis && !writes.is_empty() {
            outbox::enqueue(&mut open, version, &writes, restrictive, now).await.map_err(unavailable)?;
        }
        open.commit().await.map_err(unavailable)?;
        Ok(Committed { version, predecessor: Some(predecessor), writes, restrictive })
    }

    /// What our own table holds, or an active user.
    async fn standing(
        &self,
        open: &mut Transaction,
        user: &User,
        now: Timestamp,
    ) -> Result<Standing, StoreError> {
        let sql = "SELECT status, reason, until_at, not_before, version FROM portcullis_users \
                   WHERE realm = ? AND subject = ?";
        let rows = open.rows(sql, &[(&*user.realm).into(), (&*user.subject).into()]).await?;
        let Some(row) = rows.first() else {
            let user = user.clone();
            return Ok(Standing {
                user,
                status: Status::Active,
                reason: None,
                until: None,
                not_before: None,
                version: 0,
            });
        };
        let instant = |index| number(row, index).map(Timestamp::from_millis);
        let until = instant(2);
        // A ban whose end has passed is over, whatever has not been tidied up yet.
        let over = until.is_some_and(|until| until <= now);
        let status =
            text(row, 0).and_then(|word| Status::of(&word)).filter(|_| !over).unwrap_or(Status::Active);
        let (reason, not_before) = (text(row, 1).filter(|_| !over), instant(3));
        let until = until.filter(|_| !over);
        Ok(Standing {
            user: user.clone(),
            status,
            reason,
            until,
            not_before,
            version: number(row, 4).unwrap_or(0),
        })
    }

    async fn user(
        &self,
        open: &mut Transaction,
        standing: &Standing,
        occasion: Occasion,
        now: Timestamp,
    ) -> Result<Vec<RedisWrite>, ChangeError> {
        let Standing { user, status, reason, until, not_before, version } = standing;
        let columns = [
            "realm",
            "subject",
            "status",
            "reason",
            "until_at",
            "not_before",
            "version",
            "updated_at",
            "renewed_at",
        ];
        let values = [
            (&*user.realm).into(),
            (&*user.subject).into(),
            status.word().into(),
            reason.as_deref().into(),
            until.map(Timestamp::millis).into(),
            not_before.map(Timestamp::millis).into(),
            (*version).into(),
            now.millis().into(),
            now.millis().into(),
        ];
        let sql = upsert(open.dialect(), "portcullis_users", &columns, 2);
        open.execute(&sql, &values).await.map_err(unavailable)?;
        for preset in self.users() {
            let row = preset.row_write(standing, occasion, &self.context, now);
            let row = row.map_err(|why| ChangeError::Invalid { field: "id", why })?;
            self.write_row(open, row).await?;
        }
        Ok(self.user_writes(standing, now))
    }

    /// What Redis is told of a user's standing, in every layout.
    pub(super) fn user_writes(&self, standing: &Standing, now: Timestamp) -> Vec<RedisWrite> {
        self.users().flat_map(|preset| preset.writes(standing, &self.context, now)).collect()
    }

    async fn token(
        &self,
        open: &mut Transaction,
        compact: &str,
        facts: Option<&TokenFacts>,
        version: i64,
        now: Timestamp,
    ) -> Result<Vec<RedisWrite>, ChangeError> {
        let expires_at = facts.and_then(|facts| facts.expires_at);
        if is_over(expires_at, &self.context, now) {
            return Ok(Vec::new());
        }
        let sha256 = Token::new(compact).sha256_hex();
        let user = facts.map(|facts| &facts.user);
        let mut rows = vec![Revoked { kind: "sha256", id: &sha256, user, expires_at }];
        // One token can be spelled in several ways: its id cannot.
        let token_id = facts.and_then(|facts| facts.token_id.as_deref());
        rows.extend(token_id.map(|id| Revoked { kind: "jti", id, user, expires_at }));
        for row in &rows {
            row.write(open, version, now).await.map_err(unavailable)?;
        }
        let subject = user.map(|user| &*user.subject);
        let revoked = RevokedToken { compact, sha256: &sha256, token_id, subject, expires_at, at: now };
        let mut writes = Vec::new();
        for preset in self.tokens() {
            let row = preset.row_write(&revoked, &self.context);
            self.write_row(open, row.map_err(|why| ChangeError::Invalid { field: "token", why })?).await?;
            self.write_row(open, preset.other_row_write(&revoked, &self.context)).await?;
            writes.extend(preset.writes(&revoked, &self.context));
        }
        Ok(writes)
    }

    async fn write_row(&self, open: &mut Transaction, row: Option<SqlWrite>) -> Result<(), ChangeError> {
        let Some(SqlWrite { sql, values, must_match }) = row else { return Ok(()) };
        match open.execute(&sql, &values).await.map_err(unavailable)? {
            0 if must_match => Err(ChangeError::UnknownUser),
            _ => Ok(()),
        }
    }

    /// Refuses what could not be stored, and what no rule would enforce.
    fn check(&self, change: &Change) -> Result<(), ChangeError> {
        let fits = |field, text: &str, longest| match text.len() {
            0 if field != "realm" => Err(ChangeError::Invalid { field, why: "it is empty".to_owned() }),
            length if length > longest || text.contains('\0') => {
                Err(ChangeError::Invalid { field, why: format!("at most {longest} bytes, and no NUL") })
            }
            _ => Ok(()),
        };
        let is_user = |user: &User| {
            fits("realm", &user.realm, LONGEST_REALM)?;
            fits("id", &user.subject, LONGEST_ID)
        };
        let native = self.natives().next().is_some();
        let guarded = match change {
            Change::Status { user, .. } | Change::Lift { user } => {
                is_user(user)?;
                (self.users().next().is_some(), "users")
            }
            Change::Logout { user } => {
                is_user(user)?;
                (self.users().any(|preset| preset.carries_cut_off(&self.context)), "a user's cut-off")
            }
            Change::Token { compact, claims } => {
                fits("token", compact, 64 * 1024)?;
                if let Some(facts) = claims {
                    is_user(&facts.user)?;
                    facts.token_id.as_deref().map_or(Ok(()), |id| fits("token", id, LONGEST_ID))?;
                }
                (self.tokens().next().is_some(), "tokens")
            }
            Change::TokenId { token_id, .. } => {
                fits("jti", token_id, LONGEST_ID)?;
                (native, "token ids")
            }
            Change::Session { session } => {
                fits("sid", session, LONGEST_ID)?;
                (native, "sessions")
            }
            Change::Track { user, tokens } => {
                is_user(user)?;
                tokens.iter().try_for_each(|token| fits("token", &token.compact, 64 * 1024))?;
                (self.presets.iter().any(Preset::tracks), "what logins open")
            }
        };
        if guarded.0 { Ok(()) } else { Err(ChangeError::NotGuarded(guarded.1)) }
    }

    pub(super) fn natives(&self) -> impl Iterator<Item = &Native> {
        self.presets.iter().filter_map(|preset| match preset {
            Preset::Native(preset) => Some(preset),
            _ => None,
        })
    }

    /// The layouts of users, in the order of configuration.
    pub(super) fn users(&self) -> impl Iterator<Item = &dyn UserLayout> {
        self.presets.iter().filter_map(Preset::users)
    }

    /// The layouts of revoked tokens, in the order of configuration.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &dyn TokenLayout> {
        self.presets.iter().filter_map(Preset::tokens)
    }
}

/// Whether nobody could present such a token any more: then there is nothing to revoke.
fn is_over(expires_at: Option<Timestamp>, context: &PresetContext, now: Timestamp) -> bool {
    expires_at.is_some_and(|end| end.plus(context.leeway) <= now)
}

fn unavailable(error: StoreError) -> ChangeError {
    ChangeError::Unavailable(Box::new(error))
}

mod rows;
mod track;

#[cfg(test)]
mod histories;
#[cfg(test)]
pub(super) mod tests;
