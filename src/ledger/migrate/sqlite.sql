CREATE TABLE IF NOT EXISTS portcullis_version (
    id INTEGER PRIMARY KEY,
    value INTEGER NOT NULL
);
INSERT INTO portcullis_version (id, value) VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
CREATE TABLE IF NOT EXISTS portcullis_users (
    realm TEXT NOT NULL,
    subject TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    until_at INTEGER,
    not_before INTEGER,
    version INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL,
    PRIMARY KEY (realm, subject)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS portcullis_users_status ON portcullis_users (status, renewed_at);
CREATE INDEX IF NOT EXISTS portcullis_users_until ON portcullis_users (until_at);
CREATE TABLE IF NOT EXISTS portcullis_tokens (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    realm TEXT,
    subject TEXT,
    expires_at INTEGER,
    revoked_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS portcullis_tokens_expires ON portcullis_tokens (expires_at);
CREATE TABLE IF NOT EXISTS portcullis_sessions (
    sid TEXT NOT NULL PRIMARY KEY,
    realm TEXT,
    subject TEXT,
    expires_at INTEGER,
    revoked_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS portcullis_sessions_expires ON portcullis_sessions (expires_at);
CREATE TABLE IF NOT EXISTS portcullis_outbox (
    version INTEGER NOT NULL PRIMARY KEY,
    writes TEXT NOT NULL,
    restrictive INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
