//! The configuration: any text is read, or refused with every problem in its place; no message tells what a variable
//! holds; and what `check --print` shows is the same configuration.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis::config::{Checked, Config, Problem, Problems};

/// What every variable holds.
const SECRET: &str = "hunter2hunter2hunter2";

fuzz_target!(|text: &str| {
    let environment = |_: &str| Some(SECRET.to_owned());
    let read = |text: &str| Config::parse(text, "gateway.toml", Path::new("/nonexistent"), &environment);
    match read(text) {
        Err(problems) => are_told(&problems, text),
        Ok(checked) => {
            have_places(checked.warnings.list(), text);
            let said = format!("{} {}", checked.warnings, checked.warnings.lines().collect::<String>());
            assert!(text.contains(SECRET) || !said.contains(SECRET));
            is_printed(&checked, text, read);
        }
    }
});

fn are_told(problems: &Problems, text: &str) {
    assert!(!problems.list.is_empty() && !problems.unreadable);
    have_places(&problems.list, text);
    let told = problems.to_string();
    assert!(told.starts_with("gateway.toml:"), "{told}");
    assert!(text.contains(SECRET) || !told.contains(SECRET), "{told}");
}

fn have_places(problems: &[Problem], text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    for Problem { line, column, message, .. } in problems {
        assert!(!message.is_empty());
        let there = line
            .checked_sub(1)
            .and_then(|line| lines.get(line))
            .unwrap_or_else(|| panic!("{line}: {message}"));
        assert!((1..=there.chars().count() + 1).contains(column), "{line}:{column}: {message}");
    }
}

fn is_printed(checked: &Checked, text: &str, read: impl Fn(&str) -> Result<Checked, Problems>) {
    let printed = toml::to_string_pretty(&checked.effective).expect("it can be printed");
    assert!(text.contains(SECRET) || !printed.contains(SECRET), "{printed}");
    for key in checked.effective.keys() {
        assert!(
            checked.known.iter().any(|known| known.split('.').next() == Some(key)),
            "{key} is printed, and not known"
        );
    }
    // Secrets are left out; what needs none is whole.
    if let Ok(again) = read(&printed) {
        assert_eq!(again.effective, checked.effective);
    }
}
