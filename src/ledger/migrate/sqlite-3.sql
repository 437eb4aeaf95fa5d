CREATE TABLE IF NOT EXISTS portcullis_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    subject TEXT,
    at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS portcullis_changes_at ON portcullis_changes (at);
CREATE INDEX IF NOT EXISTS portcullis_users_subject ON portcullis_users (subject);
CREATE TABLE IF NOT EXISTS portcullis_adopted (
    key_hash TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    expires_at INTEGER,
    adopted_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS portcullis_adopted_expires ON portcullis_adopted (expires_at);
