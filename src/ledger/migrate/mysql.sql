CREATE TABLE IF NOT EXISTS portcullis_version (
    id INT PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE = InnoDB;
INSERT INTO portcullis_version (id, value) VALUES (1, 0) ON DUPLICATE KEY UPDATE value = value;
CREATE TABLE IF NOT EXISTS portcullis_users (
    realm VARBINARY(255) NOT NULL,
    subject VARBINARY(1024) NOT NULL,
    status VARCHAR(32) CHARACTER SET ascii NOT NULL,
    reason TEXT CHARACTER SET utf8mb4,
    until_at BIGINT,
    not_before BIGINT,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    renewed_at BIGINT NOT NULL,
    PRIMARY KEY (realm, subject),
    KEY portcullis_users_status (status, renewed_at),
    KEY portcullis_users_until (until_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS portcullis_tokens (
    kind VARCHAR(8) CHARACTER SET ascii NOT NULL,
    id VARBINARY(1024) NOT NULL,
    realm VARBINARY(255),
    subject VARBINARY(1024),
    expires_at BIGINT,
    revoked_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (kind, id),
    KEY portcullis_tokens_expires (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS portcullis_sessions (
    sid VARBINARY(1024) NOT NULL PRIMARY KEY,
    realm VARBINARY(255),
    subject VARBINARY(1024),
    expires_at BIGINT,
    revoked_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    KEY portcullis_sessions_expires (expires_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS portcullis_outbox (
    version BIGINT NOT NULL PRIMARY KEY,
    writes LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    restrictive BIGINT NOT NULL,
    created_at BIGINT NOT NULL
) ENGINE = InnoDB;
