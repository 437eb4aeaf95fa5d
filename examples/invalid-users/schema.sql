-- What such a service has in PostgreSQL already. Other names: [ledger.preset.invalid-users] in gateway.toml.
-- Other types are found out at start: text, integer or uuid ids; an enum of statuses; timestamps, dates or unix time.
CREATE TABLE IF NOT EXISTS users (
    user_id bigint PRIMARY KEY,
    status text NOT NULL DEFAULT 'active',   -- active, banned, deactivated, deleted, security_action
    status_updated_at timestamptz,
    last_security_action timestamptz
);
