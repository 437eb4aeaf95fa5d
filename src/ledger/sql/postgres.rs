//! PostgreSQL: strictly typed both ways. Instants arrive as microseconds since 2000.

use serde_json::Value as Json;
use sqlx::encode::IsNull;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgQueryResult, PgRow, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments, Postgres, Row, TypeInfo, ValueRef};

use super::{Engine, Value};
use crate::time::Timestamp;

/// 2000-01-01T00:00:00Z, PostgreSQL's epoch, in unix seconds.
const EPOCH: i64 = 946_684_800;

impl Engine for Postgres {
    fn bind(arguments: &mut PgArguments, value: &Value) -> Result<(), sqlx::error::BoxDynError> {
        match value {
            Value::Null => arguments.add(Untyped),
            Value::Int(value) => arguments.add(*value),
            Value::Text(value) => arguments.add(value.to_string()),
            Value::Uuid(value) => arguments.add(*value),
        }
    }

    fn cell(row: &PgRow, index: usize) -> Result<Json, sqlx::Error> {
        let raw = row.try_get_raw(index)?;
        if raw.is_null() {
            return Ok(Json::Null);
        }
        let declared = raw.type_info().into_owned();
        let kind = innermost(&declared);
        let text = || row.try_get_unchecked::<String, _>(index);
        if matches!(kind.kind(), PgTypeKind::Enum(_)) {
            return Ok(Json::from(text()?));
        }
        Ok(match kind.name() {
            "BOOL" => Json::from(row.try_get_unchecked::<bool, _>(index)?),
            "INT2" => Json::from(row.try_get_unchecked::<i16, _>(index)?),
            "INT4" => Json::from(row.try_get_unchecked::<i32, _>(index)?),
            "INT8" => Json::from(row.try_get_unchecked::<i64, _>(index)?),
            "FLOAT4" => Json::from(row.try_get_unchecked::<f32, _>(index)?),
            "FLOAT8" => Json::from(row.try_get_unchecked::<f64, _>(index)?),
            "UUID" => Json::from(row.try_get_unchecked::<uuid::Uuid, _>(index)?.to_string()),
            "TIMESTAMPTZ" | "TIMESTAMP" => instant(number(raw.as_bytes())?),
            "DATE" => {
                let bytes = raw.as_bytes().map_err(sqlx::Error::Decode)?;
                let days = i32::from_be_bytes(bytes.try_into().map_err(|_| unreadable())?);
                Json::from(Timestamp::from_seconds(EPOCH + i64::from(days) * 86_400).to_string())
            }
            "BYTEA" => Json::Null,
            "JSON" => json(raw.as_bytes())?,
            // One byte says the version of the encoding.
            "JSONB" => json(raw.as_bytes().map(|bytes| bytes.get(1..).unwrap_or_default()))?,
            "TEXT" | "VARCHAR" | "CHAR" | "\"CHAR\"" | "NAME" | "UNKNOWN" | "citext" => Json::from(text()?),
            _ => return Err(unreadable()),
        })
    }

    fn changed(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }
}

/// NULL of whatever type the statement expects: a typed one would be refused by a column of another type.
struct Untyped;

impl sqlx::Type<Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl sqlx::Encode<'_, Postgres> for Untyped {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, sqlx::error::BoxDynError> {
        Ok(IsNull::Yes)
    }
}

/// What a domain is a domain over.
fn innermost(declared: &PgTypeInfo) -> &PgTypeInfo {
    match declared.kind() {
        PgTypeKind::Domain(inner) => innermost(inner),
        _ => declared,
    }
}

fn number(bytes: Result<&[u8], sqlx::error::BoxDynError>) -> Result<i64, sqlx::Error> {
    Ok(i64::from_be_bytes(bytes.map_err(sqlx::Error::Decode)?.try_into().map_err(|_| unreadable())?))
}

/// `infinity` and `-infinity` are the ends of the range, and so are the ends of the calendar: saturated.
fn instant(micros: i64) -> Json {
    let millis = micros.div_euclid(1000).saturating_add(EPOCH * 1000);
    Json::from(Timestamp::from_millis(millis.clamp(-62_135_596_800_000, 253_402_207_200_000)).to_string())
}

fn json(bytes: Result<&[u8], sqlx::error::BoxDynError>) -> Result<Json, sqlx::Error> {
    serde_json::from_slice(bytes.map_err(sqlx::Error::Decode)?).map_err(|_| unreadable())
}

fn unreadable() -> sqlx::Error {
    sqlx::Error::Decode("unreadable".into())
}
