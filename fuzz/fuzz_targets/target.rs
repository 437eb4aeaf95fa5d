//! The canonicaliser: what it accepts it accepts again, unchanged, whether it resolves or rejects.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::target::{Ambiguous, Target};

fuzz_target!(|input: (Vec<u8>, Option<Vec<u8>>)| {
    let (target, host) = (input.0, input.1);
    for ambiguous in [Ambiguous::Reject, Ambiguous::Normalize] {
        let Ok(read) = Target::read(&target, host.as_deref(), ambiguous) else { continue };
        let forwarded = read.origin_form();
        let host = (!read.host.is_empty()).then(|| read.host.as_bytes());
        let again = Target::read(forwarded.as_bytes(), host, Ambiguous::Reject).expect("its own form");
        assert_eq!((&again.path, again.query, &again.host), (&read.path, read.query, &read.host));
        assert!(again.as_received, "{forwarded:?} has been changed twice");
    }
});
