//! `native`: Portcullis's own keys and tables.

use super::{
    Guards, LEAST_TTL, Native, PresetContext, RevokedToken, Rule, Standing, TokenLayout, UserLayout, listed,
    literal,
};
use crate::ledger::change::Status;
use crate::ledger::redis::RedisWrite;
use crate::ledger::rule::Condition;
use crate::time::Timestamp;

use std::time::Duration;

/// What a user's row says; a user without one is active.
pub(super) const USER_QUERY: &str = "SELECT COALESCE(u.status, 'active') AS status, u.reason AS reason, \
     u.until_at AS until_at, u.not_before AS not_before, u.updated_at AS changed_at FROM (SELECT 1 AS one) AS always \
     LEFT JOIN portcullis_users u ON u.realm = {realm} AND u.subject = {sub}";

impl Native {
    pub(super) fn rules(&self) -> Vec<Rule> {
        let prefix = literal(&self.prefix);
        let token = |kind: &str, field: &str| {
            format!("SELECT 1 FROM portcullis_tokens WHERE kind = '{kind}' AND id = {{{field}}}")
        };
        // Not whatever is there: older gateways keep `live` under these keys for a minute.
        let revoked = || Condition::Equals(vec!["revoked".into()]);
        let of_token = |name, part: &str, query| {
            let key = format!("{prefix}{part}");
            let (sql, denial) = ((query, Condition::Exists), ("token_revoked", 401));
            listed(name, Guards::Token, &key, revoked(), sql, denial)
        };
        let session = "SELECT 1 FROM portcullis_sessions WHERE sid = {sid}".to_owned();
        let rules = [
            of_token("native.token", "token:{token_sha256}", token("sha256", "token_sha256")),
            of_token("native.jti", "jti:{jti}", token("jti", "jti")),
            listed(
                "native.session",
                Guards::Session,
                &format!("{prefix}session:{{sid}}"),
                revoked(),
                (session, Condition::Exists),
                ("session_revoked", 401),
            ),
            listed(
                "native.user",
                Guards::User,
                &format!("{prefix}user:{{user}}"),
                Condition::NativeUser,
                (USER_QUERY.to_owned(), Condition::NativeUser),
                ("user_banned", 403),
            ),
        ];
        rules.into_iter().flatten().collect()
    }

    /// A revoked token, or session: `part` is `token:…`, `jti:…` or `session:…`.
    pub(in crate::ledger) fn revoked_write(&self, part: &str, ttl: Option<Duration>) -> RedisWrite {
        let ttl = ttl.map(|ttl| ttl.max(LEAST_TTL));
        RedisWrite::Set { key: format!("{}{part}", self.prefix), value: "revoked".to_owned(), ttl }
    }
}

impl UserLayout for Native {
    /// For as long as any token of the user may live; renewed while the database says so. A ban's end is in the value as
    /// well, and a cut-off outlives the ban it came with: old tokens stay dead.
    fn writes(&self, standing: &Standing, context: &PresetContext, now: Timestamp) -> Vec<RedisWrite> {
        vec![standing.write(format!("{}user:{}", self.prefix, standing.user), context, now)]
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
    /// What one key of ours is to hold: all of it, or nothing where nothing is held against the user.
    pub(super) fn write(&self, key: String, context: &PresetContext, now: Timestamp) -> RedisWrite {
        if self.status == Status::Active && self.not_before.is_none() {
            return RedisWrite::Delete { key };
        }
        let longest = context.longest_life().max(LEAST_TTL);
        let ttl = match self.until {
            Some(until) if self.not_before.is_none() => now.until(until).clamp(LEAST_TTL, longest),
            Some(_) | None => longest,
        };
        RedisWrite::Set { key, value: self.json(), ttl: Some(ttl) }
    }

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
