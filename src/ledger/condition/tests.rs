use serde_json::json;

use super::*;
use Finding::{Absent, Because, Clear, Denied};

/// Issued at second 100, asked at second 200.
const AT: Moment =
    Moment { issued_at: Some(Timestamp::from_seconds(100)), now: Timestamp::from_seconds(200) };

fn reply(condition: &Condition, text: &str) -> Result<Finding, StoreError> {
    condition.of_reply(Reply::Value(text.as_bytes()), AT)
}

fn row(condition: &Condition, columns: Value) -> Result<Finding, StoreError> {
    let Value::Object(columns) = columns else { unreachable!() };
    condition.of_row(Some(&columns.into_iter().collect()), AT)
}

fn equals(listed: Value) -> Condition {
    let Value::Array(listed) = listed else { unreachable!() };
    Condition::Equals(listed)
}

#[test]
fn absence_is_never_a_denial_of_redis_and_is_one_of_the_database_only_where_presence_allows() {
    assert_eq!(Condition::Missing.of_reply(Reply::Absent, AT), Ok(Absent));
    assert_eq!(Condition::Missing.of_reply(Reply::Present, AT), Ok(Clear));
    assert_eq!(Condition::Exists.of_reply(Reply::Present, AT), Ok(Denied));
    assert_eq!(Condition::Missing.of_row(None, AT), Ok(Denied));
    assert_eq!(Condition::Exists.of_row(None, AT), Ok(Clear));
    assert_eq!(row(&Condition::Exists, json!({"1": 1})), Ok(Denied));
}

#[test]
fn a_flag_is_one_flag_however_it_is_spelled() {
    for condition in [equals(json!([false])), equals(json!(["false", "0", "False"]))] {
        for text in ["false", "0", "False"] {
            assert_eq!(reply(&condition, text), Ok(Denied), "{condition:?} {text}");
        }
        for text in ["true", "1"] {
            assert_eq!(reply(&condition, text), Ok(Clear), "{condition:?} {text}");
        }
        assert_eq!(row(&condition, json!({"is_active": false})), Ok(Denied));
        assert_eq!(row(&condition, json!({"is_active": 0})), Ok(Denied));
        assert_eq!(row(&condition, json!({"is_active": true})), Ok(Clear));
        assert_eq!(row(&condition, json!({"is_active": 1})), Ok(Clear));
    }
    assert_eq!(reply(&equals(json!(["banned"])), "\"banned\""), Ok(Denied));
    assert_eq!(row(&equals(json!([7])), json!({"level": "7"})), Ok(Denied));
    assert_eq!(row(&equals(json!(["7"])), json!({"level": 7})), Ok(Denied));
    assert_eq!(row(&equals(json!([false])), json!({"is_active": null})), Ok(Clear));
}

#[test]
fn a_value_of_another_kind_is_an_outage_and_not_innocence() {
    let malformed = |outcome: Result<Finding, StoreError>| matches!(outcome, Err(StoreError::Malformed(_)));
    assert!(malformed(reply(&equals(json!([false])), "maybe")));
    assert!(malformed(reply(&equals(json!([false])), "")));
    assert!(malformed(row(&equals(json!([false])), json!({"a": {}}))));
    assert!(malformed(equals(json!(["x"])).of_reply(Reply::Value(b"\xff"), AT)));
    let revoked = Condition::Json { pointer: "/isRevoked".into(), equals: vec![json!(true)] };
    assert!(malformed(reply(&revoked, "{\"isRevoked\":")));
    assert!(malformed(reply(&Condition::NativeUser, "banned")));
    assert!(malformed(reply(&Condition::NativeUser, "{\"status\":\"bannd\"}")));
    let unknown = Condition::Field { field: "status".into(), equals: vec![json!("banned")] };
    assert!(malformed(row(&unknown, json!({"state": "banned"}))));
}

#[test]
fn a_json_value_is_compared_where_its_pointer_leads() {
    let revoked = Condition::Json { pointer: "/isRevoked".into(), equals: vec![json!(true)] };
    assert_eq!(reply(&revoked, r#"{"userId":1,"isRevoked":true}"#), Ok(Denied));
    assert_eq!(reply(&revoked, r#"{"userId":1,"isRevoked":false}"#), Ok(Clear));
    assert_eq!(reply(&revoked, r#"{"userId":1}"#), Ok(Absent));
    assert_eq!(row(&revoked, json!({"doc": "{\"isRevoked\":true}"})), Ok(Denied));
}

#[test]
fn a_cut_off_voids_tokens_of_its_own_second_and_before_in_every_spelling() {
    let condition = Condition::IssuedBefore { pointer: "".into() };
    for cut in ["100", "100.9", "\"100\"", "1970-01-01T00:01:40Z", "1970-01-01T00:01:40.999"] {
        assert_eq!(reply(&condition, cut), Ok(Denied), "{cut}");
    }
    for cut in ["99", "99.9", "1970-01-01T00:01:39.999Z", "0"] {
        assert_eq!(reply(&condition, cut), Ok(Clear), "{cut}");
    }
    // Milliseconds: 2001 and 2023.
    assert_eq!(reply(&condition, "1000000000000"), Ok(Denied));
    assert_eq!(row(&condition, json!({"c": 1_700_000_000_123_i64})), Ok(Denied));
    assert_eq!(row(&condition, json!({"c": null})), Ok(Clear));
    assert!(reply(&condition, "yesterday").is_err());
    assert!(reply(&condition, "").is_err());
    let pointed = Condition::IssuedBefore { pointer: "/not_before".into() };
    assert_eq!(reply(&pointed, "{\"not_before\":100}"), Ok(Denied));
    assert_eq!(reply(&pointed, "{}"), Ok(Absent));
}

#[test]
fn a_token_without_iat_does_not_survive_a_cut_off() {
    let unsaid = Moment { issued_at: None, ..AT };
    let condition = Condition::IssuedBefore { pointer: "".into() };
    assert_eq!(condition.of_reply(Reply::Value(b"1"), unsaid), Ok(Denied));
    let user = Condition::NativeUser.of_reply(Reply::Value(br#"{"not_before":1}"#), unsaid);
    assert_eq!(user, Ok(Because(Why::CutOff)));
}

#[test]
fn the_native_record_says_why() {
    let native = |json: &str| reply(&Condition::NativeUser, json);
    assert_eq!(native(r#"{"status":"banned"}"#), Ok(Because(Why::Banned)));
    assert_eq!(native(r#"{"status":"banned","until":200}"#), Ok(Clear));
    assert_eq!(native(r#"{"status":"banned","until":201}"#), Ok(Because(Why::Banned)));
    assert_eq!(
        native(r#"{"status":"banned","until":"1970-01-01T00:03:00Z","not_before":150}"#),
        Ok(Because(Why::CutOff))
    );
    assert_eq!(native(r#"{"status":"deactivated","until":null}"#), Ok(Because(Why::Deactivated)));
    assert_eq!(native(r#"{"status":"deleted"}"#), Ok(Because(Why::Deleted)));
    assert_eq!(native(r#"{"status":"security_action","not_before":100}"#), Ok(Because(Why::SecurityAction)));
    assert_eq!(native(r#"{"status":"security_action","not_before":99}"#), Ok(Clear));
    assert_eq!(native(r#"{"status":"security_action"}"#), Ok(Because(Why::SecurityAction)));
    assert_eq!(native(r#"{"status":"active","not_before":100,"version":3}"#), Ok(Because(Why::CutOff)));
    assert_eq!(native(r#"{"status":"active"}"#), Ok(Clear));
    assert!(native(r#"{"status":"banned","until":"soon"}"#).is_err());
    let columns = json!({"status": "banned", "reason": null, "until_at": 150, "not_before": null});
    assert_eq!(row(&Condition::NativeUser, columns), Ok(Clear));
}

#[test]
fn a_status_of_an_existing_table_says_why() {
    let condition = Condition::UserStatus {
        status: "status".into(),
        status_updated_at: "at".into(),
        last_security_action: "action".into(),
    };
    let user = |status: Value, at: Value, action: Value| {
        row(&condition, json!({"status": status, "at": at, "action": action}))
    };
    assert_eq!(user(json!("active"), json!(1), json!(null)), Ok(Clear));
    assert_eq!(user(json!("active"), json!(150), json!(100)), Ok(Because(Why::SecurityAction)));
    assert_eq!(user(json!("BANNED"), json!(1), json!(null)), Ok(Because(Why::Banned)));
    assert_eq!(user(json!("security_action"), json!(99), json!(null)), Ok(Clear));
    assert_eq!(user(json!("security_action"), json!(99), json!(100)), Ok(Because(Why::SecurityAction)));
    assert_eq!(user(json!("security_action"), json!(null), json!(null)), Ok(Because(Why::SecurityAction)));
    assert_eq!(user(json!("suspended"), json!(1), json!(null)), Ok(Denied));
    assert!(user(json!(null), json!(1), json!(null)).is_err());
    assert_eq!(reply(&condition, "deleted"), Ok(Because(Why::Deleted)));
    assert_eq!(reply(&condition, "1"), Ok(Denied));
    assert_eq!(condition.of_reply(Reply::Value(b"\xff"), AT), Ok(Denied));
}
