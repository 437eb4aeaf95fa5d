-- What such a service has in PostgreSQL already. Other names: [ledger.preset.user-cache] in gateway.toml.
-- Other types are found out at start: text, integer or uuid ids; a boolean, 0/1, Y/N. What else there is is profile.
CREATE TABLE IF NOT EXISTS users (
    id bigint PRIMARY KEY,
    email text UNIQUE,
    username text UNIQUE,
    phone_number text UNIQUE,
    hashed_password text NOT NULL,
    display_name text,
    is_active boolean NOT NULL DEFAULT true
);
