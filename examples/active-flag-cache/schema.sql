-- What such a service has in PostgreSQL already. Other names: [ledger.preset.active-flag-cache] in gateway.toml.
-- Other types are found out at start: text, integer or uuid ids; a boolean, 0/1, Y/N.
CREATE TABLE IF NOT EXISTS users (
    user_id bigint PRIMARY KEY,
    is_active boolean NOT NULL DEFAULT true
);
