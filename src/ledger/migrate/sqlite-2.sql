CREATE INDEX IF NOT EXISTS portcullis_users_version ON portcullis_users (version);
CREATE INDEX IF NOT EXISTS portcullis_tokens_version ON portcullis_tokens (version);
CREATE INDEX IF NOT EXISTS portcullis_sessions_version ON portcullis_sessions (version);
ALTER TABLE portcullis_outbox ADD COLUMN refused_at INTEGER;
