//! What presets look at that is the services' own: their tables, their users' names, their way of writing an id.

use super::{
    AliasRules, InvalidUsers, InvalidUsersColumns, Preset, PresetContext, RefreshTokens, RevokedToken,
    SessionColumns, SessionStore, SqlName, TokenBlacklist, TokenBlacklistColumns, UserCache, UserColumns,
};

impl Preset {
    /// How it turns subjects into ids, where it does.
    pub(in crate::ledger) fn aliases(&self, context: &PresetContext) -> Option<AliasRules> {
        match self {
            Self::UserCache(preset) => preset.alias_rules(context),
            _ => None,
        }
    }

    /// Whether `portcullis_users` stands in for its table of users; which one.
    pub(in crate::ledger) fn stands_in(&self, context: &PresetContext) -> Option<&SqlName> {
        match self {
            Self::InvalidUsers(it) => it.stands_in(context).then_some(&it.table),
            Self::ActiveFlagCache(it) => it.stands_in(context).then_some(&it.table),
            Self::UserCache(it) => it.stands_in(context).then_some(&it.table),
            Self::Native(_) | Self::TokenBlacklist(_) | Self::SessionStore(_) | Self::Record(_) => None,
        }
    }

    /// The services' tables it looks at, with the columns it knows.
    pub(super) fn tables(&self) -> Vec<(&SqlName, Vec<&str>)> {
        fn words<const N: usize>(columns: [&SqlName; N]) -> Vec<&str> {
            columns.map(SqlName::as_str).into()
        }
        match self {
            Self::Native(_) | Self::Record(_) => Vec::new(),
            Self::TokenBlacklist(TokenBlacklist { table, columns, refresh, .. }) => {
                let TokenBlacklistColumns { token, user_id, expires_at, blacklisted_at } = columns;
                let listed = words([token, user_id, expires_at, blacklisted_at]);
                let RefreshTokens { token, user_id, expires_at, is_revoked, .. } = refresh;
                vec![(table, listed), (&refresh.table, words([token, user_id, expires_at, is_revoked]))]
            }
            Self::InvalidUsers(InvalidUsers { table, columns, .. }) => {
                let InvalidUsersColumns { user_id, status, status_updated_at, last_security_action } =
                    columns;
                vec![(table, words([user_id, status, status_updated_at, last_security_action]))]
            }
            Self::ActiveFlagCache(it) => vec![(&it.table, words([&it.user_id, &it.is_active]))],
            Self::UserCache(UserCache { table, columns, .. }) => {
                let UserColumns { id, email, username, phone_number, is_active } = columns;
                vec![(table, words([id, email, username, phone_number, is_active]))]
            }
            Self::SessionStore(SessionStore { table, columns, .. }) => {
                let SessionColumns { token, user_id, expires_at, is_active } = columns;
                vec![(table, words([token, user_id, expires_at, is_active]))]
            }
        }
    }
}

/// As services write it: `{"userId":…,"expiresAt":"…","blacklistedAt":"…"}`.
pub(super) fn blacklisted(token: &RevokedToken<'_>) -> String {
    serde_json::json!({
        "userId": json_id(token.subject),
        "expiresAt": token.expires_at.map(|at| at.to_string()),
        "blacklistedAt": token.at.to_string(),
    })
    .to_string()
}

/// An id that is a number in the database is a number to the services.
pub(super) fn json_id(subject: Option<&str>) -> serde_json::Value {
    let number =
        subject.and_then(|subject| subject.parse::<i64>().ok().filter(|id| id.to_string() == subject));
    number.map_or_else(|| serde_json::json!(subject), |id| serde_json::json!(id))
}
