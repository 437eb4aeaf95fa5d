//! SQLite: values are typed one by one, columns only declare.

use serde_json::Value as Json;
use sqlx::sqlite::{SqliteArguments, SqliteQueryResult, SqliteRow};
use sqlx::{Arguments, Column, Row, Sqlite, TypeInfo, ValueRef};

use super::{Engine, Value};

impl Engine for Sqlite {
    fn bind(arguments: &mut SqliteArguments, value: &Value) -> Result<(), sqlx::error::BoxDynError> {
        match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Int(value) => arguments.add(*value),
            Value::Text(value) => arguments.add(value.to_string()),
            Value::Uuid(value) => arguments.add(*value),
        }
    }

    fn cell(row: &SqliteRow, index: usize) -> Result<Json, sqlx::Error> {
        let raw = row.try_get_raw(index)?;
        if raw.is_null() {
            return Ok(Json::Null);
        }
        let stored = raw.type_info().name().to_owned();
        let declared_boolean = row.column(index).type_info().name() == "BOOLEAN";
        Ok(match stored.as_str() {
            "INTEGER" | "BOOLEAN" => match row.try_get_unchecked::<i64, _>(index)? {
                flag @ (0 | 1) if declared_boolean => Json::from(flag == 1),
                number => Json::from(number),
            },
            "REAL" => Json::from(row.try_get_unchecked::<f64, _>(index)?),
            "BLOB" => Json::Null,
            _ => Json::from(row.try_get_unchecked::<String, _>(index)?),
        })
    }

    fn changed(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }
}
