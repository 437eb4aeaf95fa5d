//! `portcullis check`: is this configuration good, and what does it come to?

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::{Checked, Config, Problems};

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
            write!(out, "{text}")
        }
        false => writeln!(out, "{}: fine", path.display()),
    }
}

/// One JSON document: `problems` and `warnings` with their places, and with `--print` the configuration in effect.
fn machine(path: &Path, result: &Result<Checked, Problems>, print: bool) -> std::io::Result<()> {
    let document = match result {
        Ok(checked) => {
            let mut document = json!({ "file": path.display().to_string(), "problems": [], "warnings": checked.warnings.list() });
            if let (true, Value::Object(fields)) = (print, &mut document) {
                let effective = serde_json::to_value(&checked.effective).map_err(std::io::Error::other)?;
                fields.insert("config".into(), effective);
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
