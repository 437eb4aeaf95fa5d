//! `portcullis check`: is this configuration good, and what does it come to?

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::{Checked, Config, Problems};
use crate::ledger::rule::Rule;
use crate::ledger::{LedgerSettings, shown};

/// Checks the configuration at `path`; 0 fine, 1 problems found, 2 the file cannot be read.
pub fn run(path: &Path, print: bool, json: bool) -> ExitCode {
    let result = Config::check(path);
    let code = match &result {
        Ok(_) => ExitCode::SUCCESS,
        Err(problems) if problems.unreadable => ExitCode::from(2),
        Err(_) => ExitCode::from(1),
    };
    let written = match (&result, json) {
        (result, true) => machine(path, result, print),
        (Ok(checked), false) => human(path, checked, print),
        (Err(problems), false) => write!(std::io::stderr().lock(), "{problems}"),
    };
    // A reader that went away (`| head`) is no reason to fail otherwise than we would have.
    written.map_or(ExitCode::from(2), |()| code)
}

fn human(path: &Path, checked: &Checked, print: bool) -> std::io::Result<()> {
    write!(std::io::stderr().lock(), "{}", checked.warnings)?;
    let mut out = std::io::stdout().lock();
    match print {
        true => {
            let text = toml::to_string_pretty(&checked.effective).map_err(std::io::Error::other)?;
            write!(out, "{text}\n{}", asked(&checked.config.ledger))
        }
        false => writeln!(out, "{}: fine", path.display()),
    }
}

/// What the ledger asks about each token, presets and rules alike: comments, so that the whole stays a configuration.
fn asked(ledger: &LedgerSettings) -> String {
    let mut text = "# What is asked about each token; tables are taken to look as documented.\n".to_owned();
    for Rule { name, guards, redis, sql, reason, status, .. } in shown::rules(ledger) {
        text.push_str(&format!("#\n# {name}: {}, {status} {reason}\n", guards.word()));
        if let Some(redis) = redis.filter(|_| ledger.redis.is_some()) {
            text.push_str(&format!("#   Redis     {}\n", redis.key));
        }
        if let Some(sql) = sql {
            text.push_str(&format!(
                "#   database  {}\n",
                sql.query.split_whitespace().collect::<Vec<_>>().join(" ")
            ));
        }
    }
    text
}

/// The same for programs.
fn questions(ledger: &LedgerSettings) -> Value {
    let one = |Rule { name, guards, redis, sql, reason, status, .. }: Rule| {
        let key = redis.filter(|_| ledger.redis.is_some()).map(|redis| redis.key.to_string());
        let query = sql.map(|sql| sql.query);
        json!({ "name": *name, "guards": guards.word(), "key": key, "sql": query, "reason": *reason, "status": status })
    };
    shown::rules(ledger).into_iter().map(one).collect()
}

/// One JSON document: `problems` and `warnings` with their places, and with `--print` the configuration in effect
/// and what the ledger `asks`.
fn machine(path: &Path, result: &Result<Checked, Problems>, print: bool) -> std::io::Result<()> {
    let document = match result {
        Ok(checked) => {
            let mut document = json!({ "file": path.display().to_string(), "problems": [], "warnings": checked.warnings.list() });
            if let (true, Value::Object(fields)) = (print, &mut document) {
                let effective = serde_json::to_value(&checked.effective).map_err(std::io::Error::other)?;
                fields.insert("config".into(), effective);
                fields.insert("asks".into(), questions(&checked.config.ledger));
            }
            document
        }
        Err(problems) => json!({ "file": problems.file, "problems": problems.list, "warnings": [] }),
    };
    writeln!(std::io::stdout().lock(), "{document:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_a_bad_file_from_none() {
        let directory = tempfile::tempdir().expect("directory");
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("file");
            path
        };
        let code = |path: &Path, json| format!("{:?}", run(path, true, json));
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        let fine = file("fine", include_str!("../../gateway.toml"));
        let bad = file("bad", "[server]\nlisten = 1\n");
        for json in [false, true] {
            assert_eq!(code(&fine, json), is(0));
            assert_eq!(code(&bad, json), is(1));
            assert_eq!(code(&directory.path().join("none"), json), is(2));
        }
    }
}
