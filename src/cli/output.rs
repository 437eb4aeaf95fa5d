//! What commands write, and with what they end.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

/// Why a command did not do what it was asked, in one line.
#[derive(Debug)]
pub(super) enum Failure {
    /// The thing asked about is not so: 1.
    NotSo(String),
    /// Usage or I/O: 2.
    Trouble(String),
}

impl Failure {
    /// Usage or I/O, with its cause.
    pub fn trouble(cause: impl fmt::Display) -> Self {
        Self::Trouble(cause.to_string())
    }
}

/// A client's refusal is an answer; everything else is trouble on the way.
impl From<crate::admin::client::ClientError> for Failure {
    fn from(error: crate::admin::client::ClientError) -> Self {
        use crate::admin::client::ClientError as E;
        match error {
            E::Refused { status: 400..=499, .. } => Self::NotSo(error.to_string()),
            E::Address(_)
            | E::Token
            | E::Unaddressable { .. }
            | E::Unreachable { .. }
            | E::Unauthorized { .. }
            | E::Unnamed { .. }
            | E::Refused { .. }
            | E::Odd { .. } => Self::Trouble(error.to_string()),
        }
    }
}

/// Writes the result and ends with its code.
pub(super) fn finish(result: Result<String, Failure>) -> ExitCode {
    let (text, code) = match result {
        // A reader that went away (`| head`) has seen what it wanted.
        Ok(text) => {
            return writeln!(std::io::stdout(), "{text}").map_or(ExitCode::from(2), |()| ExitCode::SUCCESS);
        }
        Err(Failure::NotSo(text)) => (text, 1),
        Err(Failure::Trouble(text)) => (text, 2),
    };
    // Nobody is left to tell if this fails too.
    let _ = writeln!(std::io::stderr(), "portcullis: {text}");
    ExitCode::from(code)
}

/// Data as JSON, or as `name: value` lines for eyes; what is short comes first, lists are indented below their name.
pub(super) fn data(value: &Value, json: bool) -> String {
    if json {
        return value.to_string();
    }
    let mut text = String::new();
    lines(value, 0, &mut text);
    text.trim_end().to_owned()
}

fn lines(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if map.is_empty() => text.push_str(&format!("{indent}none\n")),
        Value::Object(map) => {
            let (long, short): (Vec<_>, Vec<_>) = map
                .iter()
                .filter(|(_, value)| !value.is_null() && value.as_str() != Some(""))
                .partition(|(_, value)| value.is_array() || value.is_object());
            for (name, value) in short.into_iter().chain(long) {
                match value {
                    Value::Object(_) | Value::Array(_) => {
                        text.push_str(&format!("{indent}{name}:\n"));
                        lines(value, depth + 1, text);
                    }
                    plain => text.push_str(&format!("{indent}{name}: {}\n", word(plain))),
                }
            }
        }
        Value::Array(list) if list.is_empty() => text.push_str(&format!("{indent}none\n")),
        Value::Array(list) => list.iter().for_each(|value| {
            let mut item = String::new();
            lines(value, 0, &mut item);
            text.push_str(&format!(
                "{indent}- {}\n",
                item.trim_end().replace('\n', &format!("\n{indent}  "))
            ));
        }),
        plain => text.push_str(&format!("{indent}{}\n", word(plain))),
    }
}

/// Without quotes, and without what could steer a terminal.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_lines_for_eyes_and_json_on_request() {
        let value = serde_json::json!({"id": "7", "until": null, "realm": "", "sessions": [{"sid": "a", "jti": "b"}], "x": "\u{1b}["});
        let text = data(&value, false);
        assert_eq!(text, "id: 7\nx: \\u{1b}[\nsessions:\n  - jti: b\n    sid: a");
        assert_eq!(serde_json::from_str::<Value>(&data(&value, true)).expect("JSON"), value);
    }
}
