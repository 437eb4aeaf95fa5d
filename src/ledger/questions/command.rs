//! A condition as the one command that asks Redis.

use redis::Cmd;

use crate::ledger::rule::Condition;

/// What asks for a key; for its `member`, where the condition is about one.
pub fn command(condition: &Condition, key: &str, member: Option<&str>) -> Cmd {
    let mut command = redis::cmd(match condition {
        Condition::Exists | Condition::Missing => "EXISTS",
        Condition::Equals(_)
        | Condition::Json { .. }
        | Condition::IssuedBefore { .. }
        | Condition::NativeUser
        | Condition::UserStatus { .. }
        | Condition::Flag(_)
        | Condition::Record { .. }
        | Condition::Leads
        | Condition::LiveSession
        | Condition::Profile => "GET",
        Condition::Field { .. } => "HGET",
        Condition::Contains(_) | Condition::Lacks(_) => "SISMEMBER",
        Condition::ContainsSorted(_) => "ZSCORE",
    });
    command.arg(key);
    if let Condition::Field { field, .. } = condition {
        command.arg(&**field);
    }
    if let Some(member) = member {
        command.arg(member);
    }
    command
}
