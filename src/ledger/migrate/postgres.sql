CREATE TABLE IF NOT EXISTS portcullis_version (
    id BIGINT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO portcullis_version (id, value) VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
CREATE TABLE IF NOT EXISTS portcullis_users (
    realm TEXT NOT NULL,
    subject TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    until_at BIGINT,
    not_before BIGINT,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    renewed_at BIGINT NOT NULL,
    PRIMARY KEY (realm, subject)
);
CREATE INDEX IF NOT EXISTS portcullis_users_status ON portcullis_users (status, renewed_at);
CREATE INDEX IF NOT EXISTS portcullis_users_until ON portcullis_users (until_at);
CREATE TABLE IF NOT EXISTS portcullis_tokens (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    realm TEXT,
    subject TEXT,
    expires_at BIGINT,
    revoked_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX IF NOT EXISTS portcullis_tokens_expires ON portcullis_tokens (expires_at);
CREATE TABLE IF NOT EXISTS portcullis_sessions (
    sid TEXT NOT NULL PRIMARY KEY,
    realm TEXT,
    subject TEXT,
    expires_at BIGINT,
    revoked_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS portcullis_sessions_expires ON portcullis_sessions (expires_at);
CREATE TABLE IF NOT EXISTS portcullis_outbox (
    version BIGINT NOT NULL PRIMARY KEY,
    writes TEXT NOT NULL,
    restrictive BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
