//! Finding a token in a request's body: a JSON object or a form.
//!
//! Frameworks read names loosely: Go ignores their case, PHP makes `a.b` and `a[]` out to be `a_b` and `a`. What a service
//! could take for the token, and is not exactly the configured name, is therefore refused, as two different tokens are.

use std::fmt;

use serde_json::{Map, Value};

use super::alike;
use super::find::{Conflict, NO_CHARACTER, TWO_TOKENS, parameters, percent_decoded};

const LOOKALIKE: Conflict = Conflict("the body has a name that could be taken for the token's");
const NO_TEXT: Conflict = Conflict("the body holds something other than text where the token is expected");

/// Where a body may carry a token: `body:NAME` or `body:/json/pointer`. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyPlace {
    /// From the outside in.
    path: Box<[Box<str>]>,
    /// Whether it was written as a pointer: a form has no depth, and no such place.
    pointer: bool,
}

impl BodyPlace {
    /// Reads what stands behind `body:`. The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let visible = |part: &str| !part.is_empty() && !part.contains(char::is_control);
        let (path, pointer) = match text.strip_prefix('/') {
            None => (vec![text.into()], false),
            Some(rest) => {
                let unescape = |part: &str| Box::from(part.replace("~1", "/").replace("~0", "~"));
                (rest.split('/').map(unescape).collect::<Vec<Box<str>>>(), true)
            }
        };
        match path.iter().all(|part| visible(part)) {
            true => Ok(Self { path: path.into(), pointer }),
            false => {
                Err("`body:` needs the name of a member, or a JSON pointer such as `/data/token`".into())
            }
        }
    }
}

/// As configured, without `body:`.
impl fmt::Display for BodyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer {
            false => f.write_str(self.path.first().map_or("", |name| name)),
            true => self
                .path
                .iter()
                .try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1"))),
        }
    }
}

/// Looks into a JSON object, read without duplicates. `Ok(None)` means that no place holds a token.
pub fn find_in_json(places: &[BodyPlace], body: &Map<String, Value>) -> Result<Option<String>, Conflict> {
    let mut found = None;
    for place in places {
        keep(&mut found, at(body, &place.path)?)?;
    }
    Ok(found)
}

/// Looks into an `application/x-www-form-urlencoded` body (WHATWG URL section 5.1).
pub fn find_in_form(places: &[BodyPlace], body: &str) -> Result<Option<String>, Conflict> {
    if body.trim_start().starts_with(['{', '[']) {
        return Err(Conflict("the form looks like JSON, and some services do not ask what a body is called"));
    }
    // Older servers divide at `;` as well.
    if body.contains(';') {
        return Err(Conflict("the form has a bare semicolon"));
    }
    let names: Vec<&str> = places
        .iter()
        .filter(|place| !place.pointer)
        .filter_map(|place| place.path.first())
        .map(|it| &**it)
        .collect();
    let mut found = None;
    for (name, value) in parameters(body) {
        let name = percent_decoded(name)?;
        if names.contains(&&*name) {
            let value = percent_decoded(value)?;
            // Whoever divides bytes that are no text otherwise may find a token there.
            if value.contains(NO_CHARACTER) {
                return Err(NO_TEXT);
            }
            keep(&mut found, Some(value.into_owned()))?;
        } else if names.iter().any(|wanted| field(wanted) == field(&name)) {
            return Err(LOOKALIKE);
        }
    }
    Ok(found)
}

/// Refuses a query with a name that a service could take for the body's: many frameworks mix the two.
pub fn none_in_query(places: &[BodyPlace], query: Option<&str>) -> Result<(), Conflict> {
    let Some(query) = query.filter(|_| !places.is_empty()) else { return Ok(()) };
    for (name, _) in parameters(query) {
        let name = field(&percent_decoded(name)?);
        let names = places.iter().filter(|place| !place.pointer).filter_map(|place| place.path.first());
        if names.into_iter().any(|wanted| field(wanted) == name) {
            return Err(Conflict("the query has a name that could be taken for the token's in the body"));
        }
    }
    Ok(())
}

/// The text at a path; null and the empty text are no token.
fn at(body: &Map<String, Value>, path: &[Box<str>]) -> Result<Option<String>, Conflict> {
    let Some((name, rest)) = path.split_first() else { return Ok(None) };
    let folded = caseless(name);
    if body.keys().any(|key| **key != **name && caseless(key) == folded) {
        return Err(LOOKALIKE);
    }
    match (body.get(&**name), rest) {
        (None | Some(Value::Null), _) => Ok(None),
        (Some(Value::String(text)), []) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        (Some(Value::Object(inner)), [_, ..]) => at(inner, rest),
        (Some(_), _) => Err(NO_TEXT),
    }
}

fn keep(found: &mut Option<String>, token: Option<String>) -> Result<(), Conflict> {
    match (&found, token.filter(|token| !token.is_empty())) {
        (_, None) => {}
        (None, token) => *found = token,
        (Some(first), Some(second)) if *first == second => {}
        (Some(_), Some(_)) => return Err(TWO_TOKENS),
    }
    Ok(())
}

/// As Go compares names (`strings.EqualFold`): the Kelvin sign is a `k` there, and the long s an `s`.
fn caseless(name: &str) -> String {
    let plain = |char| match char {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other,
    };
    name.chars().map(plain).flat_map(char::to_lowercase).collect()
}

/// As PHP makes variables of names, without regard to case: everything odd is `_`.
fn field(name: &str) -> String {
    caseless(&alike::stem(name).collect::<String>()).replace(|char: char| !char.is_alphanumeric(), "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[&str]) -> Vec<BodyPlace> {
        names.iter().map(|name| BodyPlace::parse(name).expect("a place")).collect()
    }

    fn json(names: &[&str], body: &str) -> Result<Option<String>, Conflict> {
        let Value::Object(body) = serde_json::from_str(body).expect("JSON") else { panic!("an object") };
        find_in_json(&places(names), &body)
    }

    fn form(names: &[&str], body: &str) -> Result<Option<String>, Conflict> {
        find_in_form(&places(names), body)
    }

    #[test]
    fn a_token_is_found_by_name_and_by_pointer() {
        let found = Ok(Some("a.b.c".to_owned()));
        assert_eq!(json(&["token"], r#"{"x":1,"token":"a.b.c"}"#), found);
        assert_eq!(json(&["/data/refresh_token"], r#"{"data":{"refresh_token":"a.b.c"}}"#), found);
        assert_eq!(json(&["/a~1b"], r#"{"a/b":"a.b.c"}"#), found);
        assert_eq!(json(&["token", "rt"], r#"{"rt":"a.b.c","token":"a.b.c"}"#), found);
        assert_eq!(form(&["token"], "x=1&token=a.b.c"), found);
        assert_eq!(form(&["refresh_token"], "refresh%5Ftoken=a%2Eb.c"), found);
        for nothing in ["{}", r#"{"token":null}"#, r#"{"token":""}"#] {
            assert_eq!(json(&["token"], nothing), Ok(None), "{nothing}");
        }
        assert_eq!(form(&["token", "/data/token"], "data=1&token="), Ok(None));
    }

    #[test]
    fn two_tokens_and_names_that_look_like_the_tokens_are_refused() {
        assert_eq!(json(&["token", "rt"], r#"{"rt":"a","token":"b"}"#), Err(TWO_TOKENS));
        assert_eq!(form(&["token"], "token=a&token=b"), Err(TWO_TOKENS));
        for body in [r#"{"TOKEN":"a"}"#, r#"{"token":"a","Token":"b"}"#, "{\"to\u{212a}en\":\"a\"}"] {
            assert_eq!(json(&["token"], body), Err(LOOKALIKE), "{body}");
        }
        assert_eq!(json(&["/data/token"], r#"{"data":{"Token":"a"}}"#), Err(LOOKALIKE));
        for body in [
            "Refresh_Token=a",
            "refresh.token=a",
            "refresh+token=a",
            "refresh_token[]=a",
            "refresh_token%00=a",
            "refresh_token[%9b]=a",
            "refresh%ff_token=a",
            "+refresh_token+=a",
        ] {
            assert_eq!(form(&["refresh_token"], body), Err(LOOKALIKE), "{body}");
        }
        for body in [r#"{"token":1}"#, r#"{"token":["a"]}"#, r#"{"token":{"a":"b"}}"#] {
            assert_eq!(json(&["token"], body), Err(NO_TEXT), "{body}");
        }
        assert!(form(&["token"], "{\"token\":\"a\"}").is_err(), "read as JSON it holds one");
        for query in ["token=a", "x=1&Token[]=a", "tok%65n=a"] {
            assert!(none_in_query(&places(&["token"]), Some(query)).is_err(), "{query}");
        }
        assert_eq!(none_in_query(&places(&["token", "/a/b"]), Some("tokens=1&b=2")), Ok(()));
        assert!(form(&["token"], "a=1;token=b").is_err() && form(&["token"], "token=%zz").is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_body_holds_no_empty_token_is_found_and_nothing_panics(
            text in "[a-zA-Z_.%&=+{}\":,\\[\\]\\PC]{0,60}",
        ) {
            let places = places(&["token", "/a/token"]);
            assert_ne!(find_in_form(&places, &text), Ok(Some(String::new())));
            if let Ok(Value::Object(object)) = serde_json::from_str(&text) {
                assert_ne!(find_in_json(&places, &object), Ok(Some(String::new())));
            }
        }

        #[test]
        fn a_name_in_another_case_is_never_overlooked(upper in proptest::array::uniform5(proptest::bool::ANY)) {
            let cased = |(char, upper): (char, bool)| if upper { char.to_ascii_uppercase() } else { char };
            let name: String = "token".chars().zip(upper).map(cased).collect();
            let expected = if name == "token" { Ok(Some("a".to_owned())) } else { Err(LOOKALIKE) };
            assert_eq!(form(&["token"], &format!("{name}=a")), expected.clone());
            assert_eq!(json(&["token"], &format!("{{\"{name}\":\"a\"}}")), expected);
        }
    }

    #[test]
    fn a_place_needs_a_name() {
        for bad in ["", "/", "/a//b", "a\nb"] {
            assert!(BodyPlace::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["token", "/data/refresh_token", "/a~1b/c~0d"] {
            assert_eq!(BodyPlace::parse(good).expect("a place").to_string(), good);
        }
    }
}
