//! `native`: Portcullis's own keys and tables.

use super::{
    Guards, Native, PresetContext, RECORD_TTL, RevokedToken, Rule, Standing, TokenLayout, UserLayout,
    literal, recorded, revoked, whether,
};
use crate::ledger::change::Status;
use crate::ledger::redis::RedisWrite;
use crate::ledger::rule::Condition;
use crate::time::Timestamp;

use std::time::Duration;

/// What a user's row says; a user without one is active. Always one row, so that it can be kept in Redis.
pub(super) const USER_QUERY: &str = "SELECT COALESCE(u.status, 'active') AS status, u.reason AS reason, \
     u.until_at AS until_at, u.not_before AS not_before, u.updated_at AS changed_at FROM (SELECT 1 AS one) AS always \
     LEFT JOIN portcullis_users u ON u.realm = {realm} AND u.subject = {sub}";

impl Native {
    pub(super) fn rules(&self) -> Vec<Rule> {
        let prefix = literal(&self.prefix);
        let token = |kind: &str, field: &str| {
            let row = format!("SELECT 1 FROM portcullis_tokens WHERE kind = '{kind}' AND id = {{{field}}}");
            whether(&row)
        };
        let session = whether("SELECT 1 FROM portcullis_sessions WHERE sid = {sid}");
        let of_token = |name, part: &str, query| {
            let key = format!("{prefix}{part}");
            recorded(name, Guards::Token, &key, query, revoked(), "token_revoked", 401)
        };
        let rules = [
            of_token("native.token", "token:{token_sha256}", token("sha256", "token_sha256")),
            of_token("native.jti", "jti:{jti}", token("jti", "jti")),
            recorded(
                "native.session",
                Guards::Session,
                &format!("{prefix}session:{{sid}}"),
                session,
                revoked(),
                "session_revoked",
                401,
            ),
            recorded(
                "native.user",
                Guards::User,
                &format!("{prefix}user:{{user}}"),
                USER_QUERY.to_owned(),
                Condition::NativeUser,
                "user_banned",
                403,
            ),
        ];
        rules.into_iter().flatten().collect()
    }

    /// A revoked token, or session: `part` is `token:…`, `jti:…` or `session:…`.
    pub(in crate::ledger) fn revoked_write(&self, part: &str, ttl: Option<Duration>) -> RedisWrite {
        // A minute at least: within an issuer's leeway the rest of a life can be next to nothing.
        let ttl = ttl.map(|ttl| ttl.max(RECORD_TTL));
        RedisWrite::Set { key: format!("{}{part}", self.prefix), value: "revoked".to_owned(), ttl }
    }
}

impl UserLayout for Native {
    /// It may run out: the database is asked then. Only what denies every token is kept for long: of whatever lets some
    /// pass, an old copy of Redis must not be believed for longer than a minute.
    fn writes(&self, standing: &Standing, context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        let key = format!("{}user:{}", self.prefix, standing.user);
        // A cut-off outlives the ban it came with: old tokens stay dead. Everything else goes with the key.
        if standing.status == Status::Active && standing.not_before.is_none() {
            return vec![RedisWrite::Delete { key }];
        }
        let longest = context.refresh_lifetime.max(context.token_lifetime).max(RECORD_TTL);
        let ttl = match (standing.status, standing.until) {
            (Status::Active | Status::SecurityAction, _) => RECORD_TTL,
            (_, Some(until)) => now.until(until).clamp(RECORD_TTL, longest),
            (_, None) => longest,
        };
        vec![RedisWrite::Set { key, value: standing.json(), ttl: Some(ttl) }]
    }

    fn carries_cut_off(&self, _context: &PresetContext) -> bool {
        true
    }
}

impl TokenLayout for Native {
    /// By its hash and, since one token can be spelled in several ways (base64's spare bits, ECDSA's twin signatures), by
    /// its id.
    fn writes(&self, token: &RevokedToken<'_>, context: &PresetContext) -> Vec<RedisWrite> {
        let ttl = token.expires_at.map(|end| token.at.until(end.plus(context.leeway)));
        let parts = [Some(format!("token:{}", token.sha256)), token.token_id.map(|id| format!("jti:{id}"))];
        parts.iter().flatten().map(|part| self.revoked_write(part, ttl)).collect()
    }
}

impl Standing {
    /// `pc:user:…`: status, reason, until and not_before in unix milliseconds, version.
    pub(super) fn json(&self) -> String {
        let Self { user: _, status, reason, until, not_before, version } = self;
        serde_json::json!({
            "status": status,
            "reason": reason,
            "until": until.map(Timestamp::millis),
            "not_before": not_before.map(Timestamp::millis),
            "version": version,
        })
        .to_string()
    }
}
