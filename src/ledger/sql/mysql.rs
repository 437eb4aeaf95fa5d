//! MySQL and MariaDB. The session's time zone is UTC (sqlx sets it), so `DATETIME` and `TIMESTAMP` read alike.

use serde_json::Value as Json;
use sqlx::mysql::{MySqlArguments, MySqlQueryResult, MySqlRow};
use sqlx::{Arguments, MySql, Row, TypeInfo, ValueRef};

use super::{Engine, Value};
use crate::time::Timestamp;

impl Engine for MySql {
    fn bind(arguments: &mut MySqlArguments, value: &Value) -> Result<(), sqlx::error::BoxDynError> {
        match value {
            Value::Null => arguments.add(None::<String>),
            Value::Int(value) => arguments.add(*value),
            Value::Text(value) => arguments.add(value.to_string()),
            Value::Uuid(value) => arguments.add(*value),
        }
    }

    fn cell(row: &MySqlRow, index: usize) -> Result<Json, sqlx::Error> {
        let raw = row.try_get_raw(index)?;
        if raw.is_null() {
            return Ok(Json::Null);
        }
        let kind = raw.type_info().name().to_owned();
        let bytes = || row.try_get_unchecked::<Vec<u8>, _>(index);
        Ok(match kind.as_str() {
            "BOOLEAN" => flag(row.try_get_unchecked::<i64, _>(index)?),
            "TINYINT" | "SMALLINT" | "INT" | "MEDIUMINT" | "BIGINT" => {
                Json::from(row.try_get_unchecked::<i64, _>(index)?)
            }
            "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "INT UNSIGNED" | "MEDIUMINT UNSIGNED"
            | "BIGINT UNSIGNED" | "YEAR" => Json::from(row.try_get_unchecked::<u64, _>(index)?),
            "FLOAT" => Json::from(row.try_get_unchecked::<f32, _>(index)?),
            "DOUBLE" => Json::from(row.try_get_unchecked::<f64, _>(index)?),
            "BIT" => flag(bytes()?.iter().fold(0, |number, byte| (number << 8) | i64::from(*byte))),
            "DATETIME" | "TIMESTAMP" | "DATE" => {
                instant(&bytes()?).ok_or_else(|| sqlx::Error::Decode("no instant".into()))?
            }
            "JSON" => serde_json::from_slice(&bytes()?).map_err(|error| sqlx::Error::Decode(error.into()))?,
            "CHAR" | "VARCHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" | "ENUM" | "SET"
            | "DECIMAL" => Json::from(row.try_get_unchecked::<String, _>(index)?),
            "BINARY" | "VARBINARY" | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" => Json::Null,
            _ => return Err(sqlx::Error::Decode("unreadable".into())),
        })
    }

    fn changed(result: &MySqlQueryResult) -> u64 {
        result.rows_affected()
    }
}

fn flag(number: i64) -> Json {
    match number {
        0 | 1 => Json::from(number == 1),
        _ => Json::from(number),
    }
}

/// The binary form: a length (4, 7 or 11), year, month, day, hour, minute, second, microseconds.
fn instant(bytes: &[u8]) -> Option<Json> {
    let (&length, rest) = bytes.split_first()?;
    let byte = |at: usize| rest.get(at).copied().filter(|_| at < usize::from(length)).unwrap_or(0);
    let civil = jiff::civil::DateTime::new(
        i16::from_le_bytes([byte(0), byte(1)]),
        i8::try_from(byte(2)).ok()?,
        i8::try_from(byte(3)).ok()?,
        i8::try_from(byte(4)).ok()?,
        i8::try_from(byte(5)).ok()?,
        i8::try_from(byte(6)).ok()?,
        i32::try_from(u32::from_le_bytes([byte(7), byte(8), byte(9), byte(10)])).ok()?.checked_mul(1000)?,
    );
    let utc = civil.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Json::from(Timestamp::from_millis(utc.timestamp().as_millisecond()).to_string()))
}
