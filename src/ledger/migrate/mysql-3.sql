CREATE TABLE IF NOT EXISTS portcullis_changes (
    seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    source VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
    subject VARCHAR(1024) CHARACTER SET utf8mb4,
    at BIGINT NOT NULL,
    KEY portcullis_changes_at (at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE INDEX portcullis_users_subject ON portcullis_users (subject);
CREATE TABLE IF NOT EXISTS portcullis_adopted (
    key_hash CHAR(64) CHARACTER SET ascii NOT NULL PRIMARY KEY,
    name LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    value LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    expires_at BIGINT,
    adopted_at BIGINT NOT NULL,
    KEY portcullis_adopted_expires (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
