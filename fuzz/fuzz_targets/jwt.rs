//! Tokens: the first byte says what follows. `c`: a compact token, as anybody may send it. `s`, `x`: a line of header and
//! a payload, signed with the issuer's key (`s`) or nearly so (`x`). What is believed, a reader of a few lines believes
//! too, and the other way round; what is not signed is not believed.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use portcullis::config::Config;
use portcullis::time::Timestamp;
use portcullis::token::Token;
use portcullis::verify::inspect::unverified;
use portcullis::verify::{Verifiers, VerifyMetrics};
use serde_json::{Map, Value};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const KEY: &[u8] = b"an HMAC key that is long enough for SHA-256";
const NOW: f64 = 1_700_000_000.0;

const CONFIG: &str = r#"
[[issuers]]
issuer = "https://i.test"
audience = ["api"]
algorithms = ["HS256"]
keys = [{ kid = "k1", alg = "HS256", secret = "an HMAC key that is long enough for SHA-256" }]
[[upstreams]]
name = "app"
servers = ["127.0.0.1:1"]
[[routes]]
path = "/"
upstream = "app"
"#;

struct Verifier {
    runtime: Runtime,
    verifiers: Verifiers,
}

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let Ok(checked) = Config::parse(CONFIG, "gateway.toml", Path::new("/"), &|_| None) else {
            panic!("the configuration is good");
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let metrics = VerifyMetrics::register(&prometheus::Registry::new()).expect("metrics");
        let shutdown = CancellationToken::new();
        let starting = Verifiers::start(&checked.config.issuers, None, &metrics, &shutdown);
        Verifier { verifiers: runtime.block_on(starting), runtime }
    })
}

fn is_believed(compact: &str) -> bool {
    let Verifier { runtime, verifiers } = verifier();
    let token = Token::new(compact);
    let verifying = verifiers.verify(&token, Timestamp::from_seconds(NOW as i64));
    let Ok((claims, _)) = runtime.block_on(verifying) else { return false };
    assert!(!claims.subject().is_empty());
    true
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match (kind, text.split_once('\n')) {
        (b's' | b'x', Some((header, payload))) => {
            let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, KEY);
            let mut signature = aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref().to_vec();
            if *kind == b'x' {
                let at = payload.len() % signature.len();
                signature[at] ^= 1;
            }
            let compact = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
            let believable = *kind == b's' && is_believable(header, payload);
            assert_eq!(is_believed(&compact), believable, "{header} {payload}");
            is_read(&compact);
        }
        (b's' | b'x', None) => {}
        _ => {
            assert!(!is_believed(text), "{text}");
            is_read(text);
        }
    }
});

/// Without verification: strict in form, as a reader of a few lines is.
fn is_read(compact: &str) {
    if let Ok(content) = unverified(&Token::new(compact)) {
        let parts: Vec<_> =
            compact.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url")).collect();
        assert_eq!(parts.len(), 3);
        let again: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        assert_eq!(again.join("."), compact, "it has a second spelling");
        for (part, read) in parts.iter().zip([&content.header, &content.claims]) {
            let text = std::str::from_utf8(part).expect("UTF-8");
            assert_eq!(object(text).as_ref(), Some(read), "{text}");
        }
    }
}

/// An object in which no member occurs twice: as many members as there are colons outside of text.
fn object(text: &str) -> Option<Map<String, Value>> {
    let Ok(Value::Object(object)) = serde_json::from_str(text) else { return None };
    let (mut colons, mut within, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = within,
            b'"' => within = !within,
            b':' if !within => colons += 1,
            _ => {}
        }
    }
    fn members(value: &Value) -> usize {
        match value {
            Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
            Value::Array(list) => list.iter().map(members).sum(),
            _ => 0,
        }
    }
    (object.len() + object.values().map(members).sum::<usize>() == colons).then_some(object)
}

fn is_believable(header: &str, payload: &str) -> bool {
    let (Some(header), Some(payload)) = (object(header), object(payload)) else { return false };
    let media = |name: &str| match header.get(name) {
        None => Some(None),
        Some(Value::String(text)) => {
            let lower = text.to_ascii_lowercase();
            let bare = lower.strip_prefix("application/").filter(|rest| !rest.contains('/'));
            Some(Some(bare.unwrap_or(&lower).to_owned()))
        }
        Some(_) => None,
    };
    let header_is_good = header.get("alg").and_then(Value::as_str) == Some("HS256")
        && !["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name))
        && header.get("kid").is_none_or(|kid| kid == "k1")
        && media("typ").is_some_and(|typ| typ.is_none_or(|typ| matches!(&*typ, "jwt" | "at+jwt")))
        && media("cty").is_some_and(|cty| cty.is_none_or(|cty| cty != "jwt"));
    let proper = |text: &str| {
        !text.is_empty() && text.len() <= 1024 && text.trim() == text && !text.chars().any(char::is_control)
    };
    let named = |name: &str| payload.get(name).is_none_or(|it| it.as_str().is_some_and(proper));
    let texts = |value: Option<&Value>| match value {
        None | Some(Value::String(_)) => true,
        Some(Value::Array(list)) => list.iter().all(Value::is_string),
        Some(_) => false,
    };
    let audience = match payload.get("aud") {
        Some(Value::String(one)) => one == "api",
        Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(|one| one == "api"),
        _ => false,
    };
    // From 1970 to 9999; the sign of `-0.0` counts.
    let date = |name: &str| match payload.get(name) {
        Some(Value::Number(number)) => {
            number.as_f64().filter(|it| it.is_sign_positive() && *it < 253_402_300_800.0)
        }
        _ => None,
    };
    let times = date("exp").is_some_and(|exp| exp.floor() > NOW)
        && date("iat").is_some_and(|iat| iat.floor() <= NOW + 60.0)
        && (!payload.contains_key("nbf") || date("nbf").is_some_and(|nbf| nbf.ceil() <= NOW));
    header_is_good
        && times
        && audience
        && payload.get("iss").is_some_and(|iss| iss == "https://i.test")
        && payload.get("sub").and_then(Value::as_str).is_some_and(proper)
        && named("jti")
        && named("sid")
        && texts(payload.get("scope"))
        && texts(payload.get("realm_access").and_then(|it| it.pointer("/roles")))
}
