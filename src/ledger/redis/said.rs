//! What servers say, and what it means that they do not.

use redis::{RedisError, Value};

use crate::ledger::condition::Reply;
use crate::ledger::store::StoreError;

/// Why answers of a server that was the primary count for nothing.
pub fn deposed() -> StoreError {
    StoreError::unavailable("nobody vouches for this primary any more")
}

/// What one reply says to the command of a question.
pub fn reply(value: &Value) -> Result<Reply<'_>, StoreError> {
    match value {
        Value::Nil | Value::Int(0) | Value::Boolean(false) => Ok(Reply::Absent),
        Value::Int(_) | Value::Boolean(true) | Value::Double(_) => Ok(Reply::Present),
        Value::BulkString(bytes) => Ok(Reply::Value(bytes)),
        Value::SimpleString(text) => Ok(Reply::Value(text.as_bytes())),
        Value::ServerError(error) => Err(match outage(value) {
            Some(outage) => outage,
            None => StoreError::malformed(error.code()),
        }),
        _ => Err(StoreError::malformed("a reply of an unexpected type")),
    }
}

/// Whether it says that another node has the key, or that none has it whole just now.
pub fn leads_elsewhere(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN"))
}

/// The error of a server that cannot answer anything, as opposed to a key of the wrong type or one it must not read.
pub fn outage(reply: &Value) -> Option<StoreError> {
    match reply {
        // Only the code: the details may repeat a key.
        Value::ServerError(error)
            if !matches!(
                error.code(),
                "WRONGTYPE" | "NOPERM" | "MOVED" | "ASK" | "CROSSSLOT" | "TRYAGAIN"
            ) =>
        {
            Some(StoreError::unavailable(error.code()))
        }
        _ => None,
    }
}

/// The code or kind alone: an error's text may repeat addresses, user names and keys.
pub fn of_error(error: &RedisError) -> StoreError {
    if error.is_timeout() {
        return StoreError::Timeout;
    }
    if error.is_connection_refusal() {
        return StoreError::unavailable("connection refused");
    }
    StoreError::unavailable(error.code().unwrap_or_else(|| error.category()))
}
