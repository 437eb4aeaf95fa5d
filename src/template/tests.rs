use proptest::prelude::*;
use serde_json::json;

use serde_json::Value;

use super::*;
use crate::claims::User;
use crate::claims::VerifiedParts;

fn claims(realm: &str, subject: &str, all: Value) -> Claims {
    let Value::Object(all) = all else { unreachable!() };
    Claims::verified(VerifiedParts {
        issuer: "https://issuer".into(),
        user: User { realm: realm.into(), subject: subject.into() },
        token_id: all.get("jti").and_then(Value::as_str).map(Into::into),
        session: all.get("sid").and_then(Value::as_str).map(Into::into),
        issued_at: None,
        expires_at: None,
        roles: Box::new(["admin".into(), "dev".into()]),
        scopes: Box::new([]),
        all,
    })
}

fn render(template: &str, claims: &Claims) -> Result<String, RenderError> {
    Template::parse(template).expect("a template").render(claims, &Token::new("aa.bb.cc"))
}

#[test]
fn a_template_is_shown_as_it_was_written() {
    for text in ["blacklist:{token}", "{{{sub}}}", "a{{b}}c", "t:{claims.tenant}:{claims./a/b}", "plain"] {
        assert_eq!(Template::parse(text).expect("a template").to_string(), text);
    }
}

#[test]
fn a_placeholder_nobody_knows_is_named_with_its_place_and_what_was_probably_meant() {
    let problem = |text: &str| Template::parse(text).expect_err("a problem");
    assert_eq!(problem("user:{usr}").at, 5);
    assert!(problem("user:{usr}").what.contains("did you mean `{user}`"));
    assert!(problem("é{profile.}").what.contains("names nothing"));
    assert_eq!(problem("é{profile.}").at, 2);
    assert!(problem("{claims.}").what.contains("names no claim"));
    assert!(problem("a{sub").what.contains("never closed"));
    assert!(problem("a}b").what.contains("closes nothing"));
    assert!(problem("{}").what.contains("unknown placeholder"));
}

#[test]
fn a_key_takes_no_list_and_no_two_placeholders_without_a_separator() {
    let check = |text: &str| Template::parse(text).expect("a template").check_key();
    assert!(check("x:{roles}").is_err());
    assert!(check("x:{profile.email}").is_err());
    assert!(check("{sub}{jti}").is_err());
    assert!(check("{sub}x{jti}").is_err());
    assert!(check("").is_err());
    assert_eq!(check("{sub}:{jti}"), Ok(()));
    assert_eq!(check("banned"), Ok(()));
}

#[test]
fn scalars_are_rendered_and_nothing_else() {
    let claims =
        claims("", "7", json!({"s": "x", "i": -4, "b": true, "f": 9.5, "n": null, "o": {}, "l": [1]}));
    assert_eq!(render("{claims.s}:{claims.i}:{claims.b}", &claims).as_deref(), Ok("x:-4:true"));
    assert_eq!(render("{claims.n}", &claims), Err(RenderError::Missing(Field::Claim("n".into()))));
    assert_eq!(render("{claims.z}", &claims), Err(RenderError::Missing(Field::Claim("z".into()))));
    for unsafe_one in ["f", "o", "l"] {
        let error = render(&format!("{{claims.{unsafe_one}}}"), &claims);
        assert_eq!(error, Err(RenderError::Unsafe(Field::Claim(unsafe_one.into()))));
    }
}

#[test]
fn the_token_is_rendered_whole_or_as_its_hash() {
    let claims = claims("", "7", json!({}));
    assert_eq!(render("b:{token}", &claims).as_deref(), Ok("b:aa.bb.cc"));
    let hash = render("{token_sha256}", &claims).expect("a hash");
    assert_eq!(hash.len(), 64);
    assert!(Template::parse("{token_sha256}").expect("a template").could_produce(&hash));
}

#[test]
fn a_value_that_could_act_as_a_pattern_or_break_a_line_names_no_key() {
    for evil in ["*", "a b", "a\nb", "a\0b", "{x}", "a\"b", "a'b", "a\\b", "[a]", "a?", "`a`", "a\u{a0}b"] {
        assert!(render("user:{sub}", &claims("", evil, json!({}))).is_err(), "{evil:?}");
    }
    assert!(render("user:{sub}", &claims("", &"x".repeat(1025), json!({}))).is_err());
    assert!(render("user:{sub}", &claims("", "", json!({}))).is_err());
    assert_eq!(render("user:{sub}", &claims("", "auth0|7", json!({}))).as_deref(), Ok("user:auth0|7"));
}

#[test]
fn a_subject_that_spells_another_realms_user_is_refused() {
    assert_eq!(render("u:{user}", &claims("acme", "7", json!({}))).as_deref(), Ok("u:acme/7"));
    assert!(render("u:{user}", &claims("", "acme/7", json!({}))).is_err());
    assert_eq!(render("u:{user}", &claims("acme", "7/8", json!({}))).as_deref(), Ok("u:acme/7/8"));
}

#[test]
fn headers_join_lists_and_refuse_a_role_that_reads_as_two() {
    let template = Template::parse("{roles}").expect("a template");
    let token = Token::new("a.b.c");
    assert_eq!(template.render_header(&claims("", "7", json!({})), &token).as_deref(), Ok("admin,dev"));
    let scopes = Template::parse("{scopes}").expect("a template");
    assert_eq!(
        scopes.render_header(&claims("", "7", json!({})), &token),
        Err(RenderError::Missing(Field::Scopes))
    );
    let mut text = String::new();
    assert!(join(&Field::Roles, &["x,admin".into()], &mut text).is_err());
}

#[test]
fn a_template_knows_which_keys_it_could_make() {
    let could = |template: &str, key: &str| Template::parse(template).expect("a template").could_produce(key);
    assert!(could("user:{sub}:active", "user:7:active"));
    assert!(could("user:{sub}", "user:7:active"));
    assert!(!could("user:{sub}:active", "user:7"));
    assert!(!could("{token}", "user:7"));
    assert!(could("{token}", "a.b.c"));
    assert!(!could("user:{sub}", "user:"));
}

proptest! {
    #[test]
    fn different_users_never_have_the_same_key(
        a in ("[ab/]{0,2}", "[ab:/|-]{1,4}"),
        b in ("[ab/]{0,2}", "[ab:/|-]{1,4}"),
    ) {
        prop_assume!(a != b);
        let key = |(realm, subject): &(String, String)| render("pc:user:{user}", &claims(realm, subject, json!({})));
        if let (Ok(a), Ok(b)) = (key(&a), key(&b)) {
            prop_assert_ne!(a, b);
        }
    }

    #[test]
    fn different_values_never_have_the_same_key(
        a in ("[a-b:._-]{1,4}", "[a-b:._-]{1,4}"),
        b in ("[a-b:._-]{1,4}", "[a-b:._-]{1,4}"),
        between in "(:|-|a:b|\\.\\.|_x)",
    ) {
        prop_assume!(a != b);
        let template = format!("k:{{sub}}{between}{{claims.t}}:end");
        let key = |(subject, other): &(String, String)| render(&template, &claims("", subject, json!({"t": other})));
        if let (Ok(a), Ok(b)) = (key(&a), key(&b)) {
            prop_assert_ne!(a, b);
        }
    }

    #[test]
    fn whatever_is_rendered_could_have_been_produced(subject in "\\PC{1,12}") {
        let template = Template::parse("user:{sub}:x").expect("a template");
        if let Ok(key) = template.render(&claims("", &subject, json!({})), &Token::new("a.b.c")) {
            prop_assert!(template.could_produce(&key));
        }
    }
}
