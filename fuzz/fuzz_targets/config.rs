//! The configuration: any text is read, or refused with every problem in its place.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis::config::Config;

fuzz_target!(|text: &str| {
    if let Err(problems) = Config::parse(text, "gateway.toml", Path::new("/nonexistent"), &|_| None) {
        assert!(!problems.list.is_empty());
        assert!(!problems.to_string().is_empty());
    }
});
