-- What such a service has in PostgreSQL already. Other names: [ledger.preset.session-store] in gateway.toml.
-- Other types are found out at start: text, integer or uuid ids; a boolean or 0/1; timestamps, dates or unix time.
CREATE TABLE IF NOT EXISTS sessions (
    id bigserial PRIMARY KEY,
    token text NOT NULL UNIQUE,
    user_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    is_active boolean NOT NULL DEFAULT true
);
CREATE INDEX IF NOT EXISTS sessions_user_id ON sessions (user_id);
