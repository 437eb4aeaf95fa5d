CREATE INDEX portcullis_users_version ON portcullis_users (version);
CREATE INDEX portcullis_tokens_version ON portcullis_tokens (version);
CREATE INDEX portcullis_sessions_version ON portcullis_sessions (version);
ALTER TABLE portcullis_outbox ADD COLUMN refused_at BIGINT;
