//! The token finder. The first line is the query, each further one a field of the head: `name: value`.
//!
//! Services look for tokens in many ways. What any of them finds, the gateway finds too, or it refuses the request; and
//! what is taken out is gone.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use portcullis::token::{Fingerprint, Place, Token, find, without_cookie, without_parameter};
use portcullis::verify::inspect::unverified;

const NAME: &str = "access_token";

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    // The canonicaliser lets no other bytes through.
    let query = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let query = query.filter(|query| query.bytes().all(|byte| byte.is_ascii_graphic()));
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(line[at + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let own = HeaderName::from_static("x-access-token");
    let places = [
        Place::Header(header::AUTHORIZATION),
        Place::Header(own),
        Place::Cookie(NAME.into()),
        Place::Query(NAME.into()),
    ];

    if let Ok(found) = find(&places, &headers, query) {
        let found = found.map(|found| found.compact.into_owned());
        if let Some(found) = &found {
            assert!(!found.is_empty());
            reveals_nothing(found);
        }
        // What is no compact JWT passes nowhere.
        let passes = found.as_deref().is_some_and(|found| unverified(&Token::new(found)).is_ok());
        for seen in services_see(&headers, query.unwrap_or_default()) {
            let same = found.as_deref() == Some(&*seen);
            assert!(same || found.is_some() && !passes, "a service sees {seen:?}, the gateway {found:?}");
        }
    }
    is_taken_out(&places, &headers, query);
});

fn reveals_nothing(found: &str) {
    let token = Token::new(found);
    // Shorter than that, and the text might stand there by chance.
    if found.len() >= 20 {
        let said = format!("{token:?} {:?} {}", Fingerprint::of(&token), Fingerprint::of(&token));
        assert!(!said.contains(found));
        if let Err(error) = unverified(&token) {
            assert!(!format!("{error} {error:?}").contains(found));
        }
    }
}

/// What stands where some framework or home-made code would look for a token, as far as it looks like one.
fn services_see(headers: &HeaderMap, query: &str) -> Vec<String> {
    let texts =
        |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let mut seen = Vec::new();
    for value in texts("authorization") {
        // `auth.split()[1]`, whoever takes the word out, and whoever searches for a token.
        seen.extend(value.split_ascii_whitespace().map(str::to_owned));
        if let Some((_, rest)) = value.split_at_checked(6).filter(|(it, _)| it.eq_ignore_ascii_case("bearer"))
        {
            seen.push(rest.trim().to_owned());
        }
        seen.extend(value.split([' ', '\t', ',', '=', '"', ';']).map(str::to_owned));
    }
    for value in texts("x-access-token") {
        seen.extend(value.split_ascii_whitespace().last().map(str::to_owned));
    }
    for line in texts("cookie") {
        for separators in [&[';'][..], &[';', ','], &[';', ',', ' ', '\t']] {
            for pair in line.split(separators) {
                let Some((name, value)) = pair.split_once('=') else { continue };
                if names(name) || names(&decoded(name)) {
                    seen.push(value.trim().trim_matches('"').to_owned());
                }
            }
        }
    }
    for separators in [&['&'][..], &['&', ';']] {
        for pair in query.split(separators) {
            for (name, value) in url::form_urlencoded::parse(pair.as_bytes()) {
                if names(&name) {
                    seen.push(value.into_owned());
                }
            }
        }
    }
    seen.retain(|text| looks_like_a_token(text));
    seen
}

/// As ASP.NET and PHP compare names.
fn names(name: &str) -> bool {
    let name = name.trim().split('[').next().unwrap_or_default();
    name.replace(['.', ' '], "_").eq_ignore_ascii_case(NAME)
}

fn looks_like_a_token(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    parts.len() == 3 && parts[0].starts_with("ey") && parts.iter().all(plain)
}

fn decoded(text: &str) -> String {
    let escaped = text.replace('&', "%26");
    url::form_urlencoded::parse(escaped.as_bytes())
        .map(|(name, _)| name.into_owned())
        .next()
        .unwrap_or_default()
}

fn is_taken_out(places: &[Place], headers: &HeaderMap, query: Option<&str>) {
    let [_, _, cookie, parameter] = places else { return };
    for line in headers.get_all("cookie").iter().filter_map(|line| line.to_str().ok()) {
        let mut rest = HeaderMap::new();
        if let Some(kept) = without_cookie(line, NAME) {
            rest.insert("cookie", HeaderValue::from_str(&kept).expect("a part of a value"));
        }
        assert!(
            !matches!(find(std::slice::from_ref(cookie), &rest, None), Ok(Some(_))),
            "{line:?} still has one"
        );
    }
    if let Some(query) = query {
        let kept = without_parameter(query, NAME);
        let none = HeaderMap::new();
        let found = find(std::slice::from_ref(parameter), &none, kept.as_deref());
        assert!(!matches!(found, Ok(Some(_))), "{query:?} still has one");
    }
}
