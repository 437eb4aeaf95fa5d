//! The token in a body: what a service finds in a form or in JSON, first or last, the gateway finds too, or it refuses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::token::{BodyPlace, find_in_form, find_in_json, none_in_query};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let places: Vec<_> = ["token", "/data/token"].iter().filter_map(|it| BodyPlace::parse(it).ok()).collect();
    let form = || url::form_urlencoded::parse(text.as_bytes());
    if let Ok(found) = find_in_form(&places, text) {
        assert_ne!(found, Some(String::new()));
        for (name, value) in form().filter(|(name, value)| names(name) && !value.is_empty()) {
            // What is not UTF-8 is a token to nobody.
            let odd = value.contains('\u{fffd}');
            assert!(odd || found.as_deref() == Some(&*value), "{name} is {value:?}, and {found:?} was found");
        }
    }
    if none_in_query(&places, Some(text)).is_ok() {
        assert!(!form().any(|(name, value)| names(&name) && !value.is_empty()), "{text:?}");
    }
    if let Ok(Value::Object(object)) = serde_json::from_str(text)
        && let Ok(found) = find_in_json(&places, &object)
    {
        assert_ne!(found, Some(String::new()));
        let outer = object.iter();
        let inner = object.get("data").and_then(Value::as_object).into_iter().flatten();
        for (name, value) in outer.chain(inner).filter(|(name, _)| name.eq_ignore_ascii_case("token")) {
            match value {
                Value::Null => {}
                Value::String(text) if text.is_empty() => {}
                value => assert_eq!(value.as_str(), found.as_deref(), "{name}"),
            }
        }
    }
});

fn names(name: &str) -> bool {
    name.trim_start().split('[').next().unwrap_or_default().eq_ignore_ascii_case("token")
}
