//! Verified payload into [`Claims`]: times, audience, subject and the rest, each with its exact JSON type.
//!
//! A claim of the wrong type is refused, never skipped: `9`, `9.0` and `" 9"` must not get round a ban on `"9"`.

use serde_json::{Map, Value};

use super::{ClaimNames, IssuerSettings, Unverified};
use crate::claims::{Claims, User, VerifiedParts, lookup};
use crate::time::Timestamp;

/// Longest subject, token id or session id, in bytes.
const MAX_ID: usize = 1024;
/// The last second of the year 9999; a later date is milliseconds by mistake or an attack.
const LAST_SECOND: i64 = 253_402_300_799;
/// How far ahead `iat` may lie, besides the leeway, in milliseconds. RFC 7519 leaves it open; an `iat` in the
/// future would step over every cut-off, so it gets the minute that RFC 8725's readers commonly allow for skew.
const IAT_AHEAD_MS: i64 = 60_000;

/// The times of a token, and how they are judged: at verification and again at each hit of the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub expires_at: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub leeway_ms: i64,
}

impl Times {
    /// A token lives before `exp` and from `nbf` on (RFC 7519 sections 4.1.4 and 4.1.5), give or take the leeway.
    pub(super) fn judge(&self, now: Timestamp) -> Result<(), Unverified> {
        let passed = |at: Timestamp, slack: i64| now.millis() >= at.millis().saturating_add(slack);
        if self.expires_at.is_some_and(|exp| passed(exp, self.leeway_ms)) {
            return Err(Unverified::Expired);
        }
        match self.not_before {
            Some(nbf) if !passed(nbf, -self.leeway_ms) => Err(Unverified::NotYetValid),
            _ => Ok(()),
        }
    }
}

/// Reads everything the issuer's settings ask for. The signature has been verified.
pub(super) fn claims(
    all: Map<String, Value>,
    settings: &IssuerSettings,
    now: Timestamp,
) -> Result<(Claims, Times), Unverified> {
    let names = &settings.claims;
    required(&all, settings)?;
    let times = Times {
        expires_at: date(&all, "exp", f64::floor)?,
        // Rounded up: neither end of a token's life is stretched by its fraction.
        not_before: date(&all, "nbf", f64::ceil)?,
        leeway_ms: i64::try_from(settings.leeway.as_millis()).unwrap_or(i64::MAX),
    };
    times.judge(now)?;
    let issued_at = date(&all, "iat", f64::floor)?;
    let latest = now.millis().saturating_add(times.leeway_ms).saturating_add(IAT_AHEAD_MS);
    if issued_at.is_some_and(|iat| iat.millis() > latest) {
        return Err(Unverified::NotYetValid);
    }
    audience(&all, settings)?;
    let parts = VerifiedParts {
        issuer: settings.issuer.clone(),
        user: User { realm: settings.realm.clone(), subject: subject(&all, names)? },
        token_id: id(&all, &names.token_id)?,
        session: id(&all, &names.session)?,
        issued_at,
        expires_at: times.expires_at,
        roles: list(&all, &names.roles, |one| vec![one.into()])?,
        scopes: list(&all, &names.scopes, |text| text.split_ascii_whitespace().map(Into::into).collect())?,
        all,
    };
    Ok((Claims::verified(parts), times))
}

/// `sub`, `jti` and `sid` in `required` mean the claims that the issuer keeps these things in.
pub(super) fn placed<'a>(name: &'a str, names: &'a ClaimNames) -> &'a str {
    match name {
        "sub" => &names.subject,
        "jti" => &names.token_id,
        "sid" => &names.session,
        other => other,
    }
}

fn required(all: &Map<String, Value>, settings: &IssuerSettings) -> Result<(), Unverified> {
    for name in &settings.required {
        let name = placed(name, &settings.claims);
        if lookup(all, name).is_none_or(Value::is_null) {
            return Err(Unverified::Claim(name.into()));
        }
    }
    Ok(())
}

/// A `NumericDate`: a number of seconds from 1970 to 9999; a fraction goes where `round` says.
fn date(
    all: &Map<String, Value>,
    name: &str,
    round: fn(f64) -> f64,
) -> Result<Option<Timestamp>, Unverified> {
    let Some(value) = all.get(name) else { return Ok(None) };
    let seconds = match value.as_i64() {
        Some(whole) => Some(whole),
        None => value.as_f64().and_then(|seconds| whole(round(seconds))),
    };
    match seconds {
        Some(seconds @ 0..=LAST_SECOND) if !value.is_string() => Ok(Some(Timestamp::from_seconds(seconds))),
        _ => Err(wrong(name)),
    }
}

/// A rounded float as an integer, where it is a sane date. `-0.5` rounded up is `-0.0`, hence the sign bit.
fn whole(seconds: f64) -> Option<i64> {
    let sane = seconds.is_finite() && seconds.is_sign_positive() && seconds <= LAST_SECOND as f64;
    sane.then_some(seconds as i64)
}

fn audience(all: &Map<String, Value>, settings: &IssuerSettings) -> Result<(), Unverified> {
    let meant: Vec<&str> = match all.get("aud") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => {
            several.iter().map(|one| one.as_str().ok_or_else(|| wrong("aud"))).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong("aud")),
    };
    let ours = |one: &&str| settings.audience.iter().any(|name| **name == **one);
    if settings.audience.is_empty() || meant.iter().any(ours) { Ok(()) } else { Err(Unverified::Audience) }
}

/// `sub` must be a string (RFC 7519 section 4.1.2). Another claim that holds the subject may be an integer, which
/// becomes its decimal digits; a float never: `9.0` would be a second name for `9`.
fn subject(all: &Map<String, Value>, names: &ClaimNames) -> Result<Box<str>, Unverified> {
    let name = &*names.subject;
    match lookup(all, name) {
        Some(Value::String(text)) => proper(text).ok_or_else(|| wrong(name)),
        Some(Value::Number(number)) if name != "sub" && !number.is_f64() => Ok(number.to_string().into()),
        _ => Err(wrong(name)),
    }
}

/// `jti`, `sid`: a proper string where it is there at all.
fn id(all: &Map<String, Value>, name: &str) -> Result<Option<Box<str>>, Unverified> {
    match lookup(all, name) {
        None => Ok(None),
        Some(Value::String(text)) => proper(text).map(Some).ok_or_else(|| wrong(name)),
        Some(_) => Err(wrong(name)),
    }
}

/// An identifier that looks like one: not empty, not long, no control characters, no white space around it.
pub(super) fn proper(text: &str) -> Option<Box<str>> {
    let fits = !text.is_empty() && text.len() <= MAX_ID && text.trim() == text;
    (fits && !text.contains(char::is_control)).then(|| text.into())
}

/// An array of strings, or one string that `split` takes apart; nothing where the claim is missing.
fn list(
    all: &Map<String, Value>,
    name: &str,
    split: fn(&str) -> Vec<Box<str>>,
) -> Result<Box<[Box<str>]>, Unverified> {
    match lookup(all, name) {
        None => Ok(Box::default()),
        Some(Value::String(text)) => Ok(split(text).into()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(Into::into).ok_or_else(|| wrong(name))).collect()
        }
        Some(_) => Err(wrong(name)),
    }
}

fn wrong(name: &str) -> Unverified {
    Unverified::Claim(name.into())
}
