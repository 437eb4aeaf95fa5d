//! The token finder and the strict reading of what it finds.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use portcullis::token::{BodyPlace, Place, Token, find, find_in_form, find_in_json};
use portcullis::verify::inspect::unverified;

fuzz_target!(|input: (Vec<(bool, Vec<u8>)>, Option<String>)| {
    let (values, query) = input;
    let mut headers = HeaderMap::new();
    for (is_cookie, value) in values {
        let name: HeaderName = if is_cookie { header::COOKIE } else { header::AUTHORIZATION };
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(name, value);
        }
    }
    let name = || "access_token".into();
    let places = [Place::Header(header::AUTHORIZATION), Place::Cookie(name()), Place::Query(name())];
    if let Ok(Some(found)) = find(&places, &headers, query.as_deref()) {
        assert!(!found.compact.is_empty());
        drop(unverified(&Token::new(&found.compact)));
    }
    let bodies: Vec<_> = ["token", "/a/token"].iter().filter_map(|it| BodyPlace::parse(it).ok()).collect();
    let body = query.unwrap_or_default();
    let in_form = find_in_form(&bodies, &body);
    assert!(in_form != Ok(Some(String::new())));
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(&body) {
        assert!(find_in_json(&bodies, &object) != Ok(Some(String::new())));
    }
});
