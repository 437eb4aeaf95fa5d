//! `X-Forwarded-For`, a field a line: whose request it is, read from the end for as long as proxies are trusted.
#![no_main]

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::proxy::client;

fuzz_target!(|input: &[u8]| {
    let peer = IpAddr::from([10, 0, 0, 1]);
    let trusted = |address: &IpAddr| matches!(address, IpAddr::V4(it) if it.octets()[0] == 10);
    let mut headers = HeaderMap::new();
    let mut names = Vec::new();
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            names.extend(line.split(|byte| *byte == b',').map(|name| {
                // A line with bytes that are not visible says nothing.
                let text = value.to_str().ok().and(std::str::from_utf8(name).ok());
                text.and_then(|name| name.trim().parse::<IpAddr>().ok()).map(|it| it.to_canonical())
            }));
            headers.append("x-forwarded-for", value);
        }
    }
    let mut expected = peer;
    while let Some(Some(name)) = names.pop().filter(|_| trusted(&expected)) {
        expected = name;
    }
    assert_eq!(client(&headers, peer, trusted), expected);
});
