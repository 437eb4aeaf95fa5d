//! `[[issuers]]`: whose tokens are believed, and with which keys.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use url::Url;

use super::kinds::{
    DAY, HOUR, MINUTE, SECOND, boolean, claim, duration, file, list, name, parsed, placed, secret_file, some,
    text, word,
};
use super::problem::Span;
use super::reader::{Placed, Reader, Table};
use super::server::{LONGEST_LIFE, TokenSettings};
use crate::verify::keys::{KeyDescription, KeyError, KeySet, Material};
use crate::verify::{Algorithm, ClaimNames, IssuerSettings, JwksSettings, KeySource, RefreshTokens};

const ALGORITHMS: [(&str, Algorithm); 13] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("ES512", Algorithm::ES512),
    ("EdDSA", Algorithm::EdDSA),
];

const SOURCES: [&str; 4] = ["jwks_url", "discovery", "jwks_file", "keys"];

fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// One `[[issuers]]`, as written.
struct Written {
    issuer: Option<Placed<Box<str>>>,
    audience: Vec<Box<str>>,
    algorithms: Option<Vec<Placed<Algorithm>>>,
    keys: Option<KeySource>,
    realm: Option<Box<str>>,
    leeway: Option<Duration>,
    required: Option<Vec<Box<str>>>,
    token_lifetime: Option<Duration>,
    refresh_lifetime: Option<Duration>,
    claims: Option<ClaimNames>,
    refresh: Option<RefreshTokens>,
}

/// An issuer with the places that rules across issuers speak of.
pub struct Issuer {
    pub settings: IssuerSettings,
    at: Span,
    realm: Span,
    realm_is_written: bool,
}

pub fn issuer(table: &mut Table<'_>, token: Option<&TokenSettings>) -> Option<Issuer> {
    let issuer = table.need("issuer", placed(name));
    let audience = table.maybe("audience", list(name)).unwrap_or_default();
    let algorithms = table.need("algorithms", some(placed(word(&ALGORITHMS))));
    let keys = source(table, issuer.as_ref(), algorithms.as_deref().unwrap_or_default());
    let longest = SECOND..=LONGEST_LIFE;
    let required = table.or("required", list(name), ["exp", "iat", "sub", "iss", "aud"]);
    let refresh = table
        .table("refresh", |table| super::refresh::tokens(table, required.as_deref().unwrap_or_default()));
    let written = Written {
        realm: table.or("realm", parsed(realm), ""),
        leeway: table.or("leeway", duration(Duration::ZERO..=5 * MINUTE), "0s"),
        required,
        refresh,
        token_lifetime: table.or("token_lifetime", duration(longest.clone()), "15m"),
        refresh_lifetime: table.or("refresh_lifetime", duration(longest), "7d"),
        claims: table.table("claims", claims),
        issuer,
        audience,
        algorithms,
        keys,
    };
    rules_within(table, &written);
    let at = written.issuer.as_ref().map_or_else(|| table.at.clone(), |issuer| issuer.at.clone());
    let (realm, realm_is_written) = (table.place("realm"), table.has("realm"));
    let settings = written.resolve(token?)?;
    Some(Issuer { settings, at, realm, realm_is_written })
}

impl Written {
    fn resolve(self, token: &TokenSettings) -> Option<IssuerSettings> {
        let Self {
            issuer,
            audience,
            algorithms,
            keys,
            realm,
            leeway,
            required,
            token_lifetime,
            refresh_lifetime,
            claims,
            refresh,
        } = self;
        Some(IssuerSettings {
            issuer: issuer?.value.into(),
            realm: realm?.into(),
            audience,
            algorithms: algorithms?.into_iter().map(|algorithm| algorithm.value).collect(),
            keys: keys?,
            leeway: leeway?,
            required: required?,
            token_lifetime: token_lifetime?,
            refresh_lifetime: refresh_lifetime?,
            claims: claims?,
            types: token.types.clone(),
            max_bytes: token.max_bytes,
            refresh: refresh?,
        })
    }
}

/// What must hold between the keys of one issuer.
fn rules_within(table: &Table<'_>, written: &Written) {
    let reader = table.reader;
    let algorithms = written.algorithms.as_deref().unwrap_or_default();
    let hmac = algorithms.iter().find(|algorithm| is_hmac(algorithm.value));
    let public = algorithms.iter().any(|algorithm| !is_hmac(algorithm.value));
    if let Some(hmac) = hmac {
        if public {
            // A public key taken for an HMAC secret signs anything (RFC 8725 section 2.1).
            reader.problem(&hmac.at, "HMAC and public-key algorithms must not be mixed in one issuer");
        }
        if table.has("jwks_url") || table.has("discovery") {
            reader.problem(&hmac.at, "HMAC secrets are not published: use `keys` or `jwks_file`");
        }
    }
    let aud_is_required = written.required.iter().flatten().any(|claim| &**claim == "aud");
    if aud_is_required && !table.has("audience") || table.has("audience") && written.audience.is_empty() {
        let message = "`audience` must name whom the tokens are for (or take `aud` out of `required`)";
        reader.problem(&table.place("audience"), message);
    }
    if let (Some(token), Some(refresh)) = (written.token_lifetime, written.refresh_lifetime)
        && refresh < token
    {
        reader
            .problem(&table.place("refresh_lifetime"), "`refresh_lifetime` is shorter than `token_lifetime`");
    }
}

/// `{user}` is `realm/sub`: a realm with a slash, or none beside named ones, would let two users share one key.
fn realm(text: &str) -> Result<Box<str>, String> {
    if !text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) || text.len() > 64 {
        return Err("a realm is of letters, digits, `.`, `_` and `-`, at most 64 of them".into());
    }
    Ok(text.into())
}

fn claims(table: &mut Table<'_>) -> Option<ClaimNames> {
    let subject = table.or("subject", claim, "sub");
    let session = table.or("session", claim, "sid");
    let token_id = table.or("token_id", claim, "jti");
    let roles = table.or("roles", claim, "/realm_access/roles");
    let scopes = table.or("scopes", claim, "scope");
    Some(ClaimNames {
        subject: subject?,
        session: session?,
        token_id: token_id?,
        roles: roles?,
        scopes: scopes?,
    })
}

/// Exactly one of four places where keys come from.
fn source(
    table: &mut Table<'_>,
    issuer: Option<&Placed<Box<str>>>,
    algorithms: &[Placed<Algorithm>],
) -> Option<KeySource> {
    let allowed: Vec<_> = algorithms.iter().map(|algorithm| algorithm.value).collect();
    let url = table.maybe("jwks_url", placed(text));
    let discovery = table.maybe("discovery", boolean);
    let jwks_file = table.maybe("jwks_file", placed(file));
    let keys = table.tables("keys", None, |key| described(key, &allowed));
    let remote = table.has("jwks_url") || table.has("discovery");
    let jwks = table.table("jwks", jwks);
    if !remote {
        table.not_in_effect("jwks");
        if table.has("jwks") {
            let message = "`jwks` is about key sets that are fetched; these keys are not";
            table.reader.problem(&table.place("jwks"), message);
        }
    }
    let given: Vec<_> = SOURCES.into_iter().filter(|source| table.has(source)).collect();
    match given.as_slice() {
        [_] => {}
        [] => {
            let message = "no keys: give one of `jwks_url`, `discovery`, `jwks_file` and `keys`";
            table.reader.problem(&table.at, message);
            return None;
        }
        [_, second, ..] => {
            let message = "keys come from one place: `jwks_url`, `discovery`, `jwks_file` or `keys`";
            table.reader.problem(&table.place(second), message);
            return None;
        }
    }
    if table.has("jwks_url") {
        let (url, jwks) = (url?, jwks?);
        return Some(KeySource::Url {
            url: secure(table.reader, &url.at, &url.value, jwks.allow_http)?,
            jwks,
        });
    }
    if table.has("discovery") {
        let (issuer, jwks) = (issuer?, jwks?);
        if discovery == Some(false) {
            let message = "`discovery = false` names no keys: leave it out and give another source";
            table.reader.problem(&table.place("discovery"), message);
        }
        secure(table.reader, &issuer.at, &issuer.value, jwks.allow_http)?;
        return Some(KeySource::Discovery { jwks });
    }
    if algorithms.is_empty() {
        return None;
    }
    let (at, set) = match jwks_file {
        Some(Placed { at, value }) => (at, KeySet::from_jwks(&value, &allowed)),
        None if table.has("keys") => {
            if named_twice(table.reader, &keys) {
                return None;
            }
            let described = keys.into_iter().map(|key| key.value).collect::<Option<Vec<_>>>()?;
            (table.place("keys"), KeySet::from_descriptions(described))
        }
        None => return None,
    };
    set.map(|set| KeySource::Fixed(Arc::new(set)))
        .map_err(|KeyError(why)| table.reader.problem(&at, why))
        .ok()
}

/// Whether two keys have one name: neither could be told by it.
fn named_twice(reader: &Reader<'_>, keys: &[Placed<Option<KeyDescription>>]) -> bool {
    let mut seen = std::collections::HashSet::new();
    let mut twice = false;
    for Placed { at, value } in keys {
        let kid = value.as_ref().and_then(|key| key.kid.as_deref());
        if kid.is_some_and(|kid| !seen.insert(kid)) {
            reader.problem(at, "another key has this `kid`");
            twice = true;
        }
    }
    twice
}

/// HTTPS, or a loopback host, or plain HTTP by decision.
fn secure(reader: &Reader<'_>, at: &Span, text: &str, allow_http: bool) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        reader.problem(at, "expected an https:// URL");
        return None;
    };
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !loopback && !allow_http {
        let message =
            "keys fetched over plain HTTP can be replaced on the way: use https (or `jwks.allow_http`)";
        reader.problem(at, message);
        return None;
    }
    Some(url)
}

fn jwks(table: &mut Table<'_>) -> Option<JwksSettings> {
    let refresh = table.or("refresh", duration(10 * SECOND..=DAY), "5m");
    let cooldown = table.or("cooldown", duration(SECOND..=HOUR), "10s");
    let max_stale = table.or("max_stale", duration(MINUTE..=30 * DAY), "24h");
    let allow_http = table.or("allow_http", boolean, false);
    Some(JwksSettings {
        refresh: refresh?,
        cooldown: cooldown?,
        max_stale: max_stale?,
        allow_http: allow_http?,
    })
}

/// One of `keys`.
fn described(table: &mut Table<'_>, allowed: &[Algorithm]) -> Option<KeyDescription> {
    let kid = table.maybe("kid", name);
    let algorithm = table.need("alg", placed(word(&ALGORITHMS)));
    let pem = table.secret("pem", placed(text)).map(|pem| pem.value.into_bytes());
    let pem_file = table.maybe("pem_file", file);
    let secret = table.secret("secret", text).map(String::into_bytes);
    let secret_from_file = table.maybe("secret_file", secret_file);
    let base64 = table.secret("secret_base64", decoded(text_bytes));
    let base64_from_file = table.maybe("secret_base64_file", decoded(secret_file));
    let algorithm = algorithm?;
    if !allowed.is_empty() && !allowed.contains(&algorithm.value) {
        table.reader.problem(&algorithm.at, "this algorithm is not in the issuer's `algorithms`");
        return None;
    }
    let all = ["pem", "pem_file", "secret", "secret_file", "secret_base64", "secret_base64_file"];
    let given: Vec<_> = all.into_iter().filter(|key| table.has(key)).collect();
    let [given] = given.as_slice() else {
        table.reader.problem(&table.at, format!("a key needs exactly one of `{}`", all.join("`, `")));
        return None;
    };
    if is_hmac(algorithm.value) == given.starts_with("pem") {
        let right = if is_hmac(algorithm.value) { "a `secret`" } else { "a `pem`" };
        table.reader.problem(&table.place(given), format!("this algorithm takes {right} key"));
        return None;
    }
    let secret = secret.or(secret_from_file).or(base64).or(base64_from_file);
    let material = pem.or(pem_file).map(Material::Pem).or(secret.map(Material::Secret))?;
    let description = KeyDescription { kid: kid.map(String::from), algorithm: algorithm.value, material };
    let sound = description.check();
    sound.map_err(|KeyError(why)| table.reader.problem(&table.place(given), why)).ok().map(|()| description)
}

fn text_bytes(reader: &Reader<'_>, node: &super::node::Node) -> Option<Vec<u8>> {
    text(reader, node).map(String::into_bytes)
}

/// Base64 in either alphabet, padded or not.
fn decoded(
    kind: impl Fn(&Reader<'_>, &super::node::Node) -> Option<Vec<u8>>,
) -> impl Fn(&Reader<'_>, &super::node::Node) -> Option<Vec<u8>> {
    move |reader, node| {
        let coded = kind(reader, node)?;
        let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
        let plain = engines.iter().find_map(|engine| engine.decode(coded.trim_ascii()).ok());
        if plain.is_none() {
            reader.problem(&node.at, "not Base64");
        }
        plain
    }
}

/// What must hold between issuers.
pub fn rules_between(reader: &Reader<'_>, issuers: &[Issuer]) {
    let named = issuers.iter().any(|issuer| !issuer.settings.realm.is_empty());
    for (index, issuer) in issuers.iter().enumerate() {
        let before = issuers.get(..index).unwrap_or_default();
        if before.iter().any(|other| other.settings.issuer == issuer.settings.issuer) {
            reader.problem(&issuer.at, "this issuer is configured twice");
        }
        if issuers.len() > 1 && !issuer.realm_is_written {
            let message =
                "with several issuers each names its `realm`: else one's users could pass for another's";
            reader.problem(&issuer.at, message);
        } else if named && issuer.settings.realm.is_empty() {
            let message = "the empty realm cannot stand beside named ones: name every realm, or none";
            reader.problem(&issuer.realm, message);
        }
    }
}
