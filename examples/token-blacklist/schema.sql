-- What such a service has in PostgreSQL already. Other names: [ledger.preset.token-blacklist] in gateway.toml.
-- Other types are found out at start: text, integer or uuid ids; timestamps, dates or unix time.
CREATE TABLE IF NOT EXISTS blacklisted_tokens (
    token text PRIMARY KEY,
    user_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    blacklisted_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS refresh_tokens (
    token text PRIMARY KEY,
    user_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    is_revoked boolean NOT NULL DEFAULT false
);
