//! The header and the claims: what is refused and what is understood.

use super::*;

const HEADER: &str = r#"{"alg":"HS256"}"#;

async fn by_header(header: &str) -> Option<Unverified> {
    judge_raw(settings(), header, &payload(json!({})).to_string()).await.err()
}

fn malformed(refused: Option<Unverified>) -> bool {
    matches!(refused, Some(Unverified::Malformed(_)))
}

#[tokio::test]
async fn a_good_token_becomes_claims() {
    let changes =
        json!({"jti": "t1", "sid": "s1", "roles": ["a", "b"], "scope": "read  write", "aud": ["x", "api"]});
    let claims = judge(settings(), changes).await.unwrap();
    assert_eq!((claims.subject(), claims.issuer()), ("9", ISSUER));
    assert_eq!((claims.token_id(), claims.session()), (Some("t1"), Some("s1")));
    assert_eq!(
        (claims.roles(), claims.scopes()),
        (&["a".into(), "b".into()][..], &["read".into(), "write".into()][..])
    );
    assert_eq!(claims.expires_at(), Some(Timestamp::from_seconds(NOW.seconds() + 600)));
}

// What jsonwebtoken would let through unless told otherwise.

#[tokio::test]
async fn trap_one_a_missing_iss_or_aud_is_refused() {
    assert_eq!(refusal(json!({"iss": null})).await, Some(Unverified::Issuer));
    assert_eq!(refusal(json!({"aud": null})).await, Some(Unverified::Claim("aud".into())));
    let lax = IssuerSettings { required: vec!["sub".into()], ..settings() };
    assert_eq!(judge(lax, json!({"aud": null})).await.err(), Some(Unverified::Audience));
}

#[tokio::test]
async fn trap_two_a_numeric_iss_or_aud_is_refused() {
    assert_eq!(refusal(json!({"iss": 1})).await, Some(Unverified::Claim("iss".into())));
    for aud in [json!(1), json!({"api": 1}), json!(["api", 1]), json!(true)] {
        assert_eq!(refusal(json!({"aud": aud})).await, Some(Unverified::Claim("aud".into())), "{aud}");
    }
}

#[tokio::test]
async fn trap_three_a_future_nbf_is_refused() {
    assert_eq!(refusal(json!({"nbf": NOW.seconds() + 3600})).await, Some(Unverified::NotYetValid));
}

#[tokio::test]
async fn trap_four_any_crit_is_refused() {
    for crit in [r#"["exp"]"#, r#"["b64"]"#, "[]", "null", r#""x""#] {
        assert!(malformed(by_header(&format!(r#"{{"alg":"HS256","crit":{crit}}}"#)).await), "{crit}");
    }
}

#[tokio::test]
async fn trap_five_a_claim_given_twice_is_refused() {
    let good = payload(json!({"jti": "a", "sid": "b"})).to_string();
    for twice in [
        r#""jti":"x""#,
        r#""sid":"x""#,
        r#""iat":1"#,
        r#""exp":9999999999"#,
        r#""sub":"1""#,
        r#""\u0073ub":"1""#,
    ] {
        let payload = format!("{{{twice},{}", &good[1..]);
        assert!(malformed(judge_raw(settings(), HEADER, &payload).await.err()), "{twice}");
    }
    assert!(malformed(by_header(r#"{"alg":"HS256","kid":"a","kid":"b"}"#).await));
    assert!(malformed(by_header(r#"{"alg":"none","alg":"HS256"}"#).await));
}

#[tokio::test]
async fn trap_six_no_leeway_is_given_that_nobody_asked_for() {
    assert_eq!(refusal(json!({"exp": NOW.seconds() - 1})).await, Some(Unverified::Expired));
}

#[tokio::test]
async fn trap_seven_a_missing_or_textual_exp_is_refused() {
    for value in [json!(null), json!("9999999999"), json!(true)] {
        assert_eq!(refusal(json!({"exp": value})).await, Some(Unverified::Claim("exp".into())), "{value}");
    }
}

#[tokio::test]
async fn none_and_algorithms_that_are_not_listed_are_refused() {
    for alg in
        [r#""none""#, r#""None""#, r#""HS384""#, r#""RS256""#, r#""hs256""#, r#""ES256K""#, "1", "null"]
    {
        assert_eq!(by_header(&format!(r#"{{"alg":{alg}}}"#)).await, Some(Unverified::Algorithm), "{alg}");
    }
    assert_eq!(by_header("{}").await, Some(Unverified::Algorithm));
}

#[tokio::test]
async fn extensions_encryption_and_nesting_are_refused() {
    for more in [
        r#""b64":false"#,
        r#""b64":true"#,
        r#""zip":"DEF""#,
        r#""enc":"A128GCM""#,
        r#""cty":"JWT""#,
        r#""cty":"application/jwt""#,
    ] {
        assert!(malformed(by_header(&format!(r#"{{"alg":"HS256",{more}}}"#)).await), "{more}");
    }
}

#[tokio::test]
async fn keys_that_the_header_brings_along_are_ignored() {
    let header = r#"{"alg":"HS256","jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/","jwk":{"kty":"oct","k":"AA"},"x5c":["AA"]}"#;
    assert_eq!(by_header(header).await, None);
}

#[tokio::test]
async fn typ_is_absent_or_one_of_the_accepted() {
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"] {
        assert_eq!(by_header(&format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#)).await, None, "{typ}");
    }
    for typ in [r#""logout+jwt""#, r#""""#, "1", "null", r#""application/application/jwt""#, r#""JWT ""#] {
        assert!(malformed(by_header(&format!(r#"{{"alg":"HS256","typ":{typ}}}"#)).await), "{typ}");
    }
}

#[tokio::test]
async fn kid_is_a_short_string() {
    assert!(malformed(by_header(r#"{"alg":"HS256","kid":1}"#).await));
    assert!(malformed(by_header(&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(257))).await));
}

#[tokio::test]
async fn header_and_payload_are_objects() {
    for bad in ["[]", "null", "\"a\"", "", "{", "{}{}"] {
        assert!(malformed(by_header(bad).await), "{bad}");
        assert!(malformed(judge_raw(settings(), HEADER, bad).await.err()), "{bad}");
    }
}

#[tokio::test]
async fn a_token_that_is_too_long_is_not_even_decoded() {
    let fits = hs256(HEADER, &payload(json!({})).to_string());
    let limited = |max_bytes| IssuerSettings { max_bytes, ..settings() };
    for (max, ok) in [(fits.len(), true), (fits.len() - 1, false)] {
        let verified = verifiers(&[limited(max)]).await.verify(&Token::new(&fits), NOW).await;
        assert_eq!(verified.is_ok(), ok);
    }
    let other = IssuerSettings { issuer: "other".into(), ..settings() };
    let two = verifiers(&[limited(fits.len() - 1), other]).await;
    assert!(malformed(two.verify(&Token::new(&fits), NOW).await.err()), "each issuer has its own limit");
}

#[tokio::test]
async fn the_subject_is_a_proper_string() {
    let bad = [
        json!(9),
        json!(9.0),
        json!(true),
        json!(["9"]),
        json!({}),
        json!(""),
        json!(" 9"),
        json!("9 "),
        json!("9\n"),
        json!("a\u{0}b"),
        json!("a\u{85}b"),
        json!("\u{a0}9"),
        json!("x".repeat(1025)),
    ];
    for sub in bad {
        assert_eq!(refusal(json!({"sub": sub})).await, Some(Unverified::Claim("sub".into())), "{sub}");
    }
    assert_eq!(refusal(json!({"sub": null})).await, Some(Unverified::Claim("sub".into())));
    for sub in ["09", "a b", "ünï", "7:session", "*"] {
        assert_eq!(judge(settings(), json!({"sub": sub})).await.unwrap().subject(), sub);
    }
}

#[tokio::test]
async fn another_subject_claim_may_be_an_integer_but_never_a_float() {
    let mut elsewhere = settings();
    elsewhere.claims.subject = "/user/id".into();
    let id = |id: Value| judge(elsewhere.clone(), json!({"sub": null, "user": {"id": id}}));
    assert_eq!(id(json!(9)).await.unwrap().subject(), "9");
    assert_eq!(id(json!("9")).await.unwrap().subject(), "9");
    assert_eq!(id(json!(u64::MAX)).await.unwrap().subject(), "18446744073709551615");
    for bad in [json!(9.0), json!(null), json!([9]), json!(true)] {
        assert_eq!(id(bad).await.err(), Some(Unverified::Claim("/user/id".into())));
    }
}

#[tokio::test]
async fn token_and_session_ids_of_the_wrong_type_are_refused_never_skipped() {
    for name in ["jti", "sid"] {
        for value in [json!(1), json!(["a"]), json!({}), json!(false), json!(""), json!(" a"), json!("a\t")] {
            assert_eq!(
                refusal(json!({ name: value })).await,
                Some(Unverified::Claim(name.into())),
                "{value}"
            );
        }
        let text = payload(json!({ name: 1 }))
            .to_string()
            .replace(&format!("\"{name}\":1"), &format!("\"{name}\":null"));
        assert!(text.contains("null"));
        assert_eq!(judge_raw(settings(), HEADER, &text).await.err(), Some(Unverified::Claim(name.into())));
    }
}

#[tokio::test]
async fn roles_and_scopes_are_strings_or_arrays_of_strings() {
    let mut keycloak = settings();
    keycloak.claims.roles = "/realm_access/roles".into();
    let changes = json!({"realm_access": {"roles": ["admin"]}, "scope": ["a b", "c"]});
    let claims = judge(keycloak, changes).await.unwrap();
    assert_eq!((claims.roles(), claims.scopes()), (&["admin".into()][..], &["a b".into(), "c".into()][..]));
    let one = judge(settings(), json!({"roles": "team lead, admin"})).await.unwrap();
    assert_eq!(one.roles(), &[Box::from("team lead, admin")][..]);
    for name in ["roles", "scope"] {
        for value in [json!(1), json!({"admin": true}), json!(["a", 1]), json!([["a"]]), json!(false)] {
            assert_eq!(
                refusal(json!({ name: value })).await,
                Some(Unverified::Claim(name.into())),
                "{value}"
            );
        }
    }
}

#[tokio::test]
async fn whatever_is_required_must_be_there() {
    for name in ["exp", "iat", "nbf", "jti", "sid", "tenant", "/a/b"] {
        let strict = IssuerSettings { required: vec![name.into()], ..settings() };
        let refused = judge(strict, json!({"exp": null, "iat": null})).await.err();
        assert_eq!(refused, Some(Unverified::Claim(name.into())));
    }
    let lax = IssuerSettings { required: vec![], audience: vec![], ..settings() };
    let claims = judge(lax, json!({"exp": null, "iat": null, "aud": null, "iss": null})).await.unwrap();
    assert_eq!((claims.expires_at(), claims.issuer()), (None, ISSUER));
}

#[tokio::test]
async fn the_audience_names_this_service() {
    for (aud, ok) in
        [(json!("api"), true), (json!(["x", "api"]), true), (json!("API"), false), (json!([]), false)]
    {
        let expected = (!ok).then_some(Unverified::Audience);
        assert_eq!(refusal(json!({"aud": aud})).await, expected, "{aud}");
    }
}

#[tokio::test]
async fn each_issuer_is_believed_for_itself_only() {
    let other_key =
        KeyDescription { kid: None, algorithm: Algorithm::HS256, material: Material::Secret(vec![7; 32]) };
    let other = IssuerSettings {
        issuer: "https://other.example".into(),
        realm: "other".into(),
        required: vec![],
        keys: KeySource::Fixed(Arc::new(KeySet::from_descriptions(vec![other_key]).unwrap())),
        ..settings()
    };
    let verifiers = verifiers(&[settings(), other]).await;
    let judge = async |changes, key: &SigningKey| {
        let token = issue::issue(payload(changes).as_object().unwrap(), Algorithm::HS256, None, key).unwrap();
        verifiers.verify(&Token::new(&token), NOW).await.map(|(claims, _)| claims.user().to_string())
    };
    let theirs = SigningKey::Secret(vec![7; 32]);
    assert_eq!(judge(json!({}), &secret()).await, Ok("9".into()));
    assert_eq!(judge(json!({"iss": "https://other.example"}), &theirs).await, Ok("other/9".into()));
    assert_eq!(judge(json!({}), &theirs).await, Err(Unverified::Signature));
    assert_eq!(judge(json!({"iss": "https://other.example"}), &secret()).await, Err(Unverified::Signature));
    assert_eq!(judge(json!({"iss": null}), &theirs).await, Err(Unverified::Issuer), "none of two is guessed");
    for iss in ["https://auth.example.com/", "HTTPS://auth.example.com", ""] {
        assert_eq!(judge(json!({ "iss": iss }), &secret()).await, Err(Unverified::Issuer));
    }
}

#[tokio::test]
async fn a_reload_keeps_the_seals_of_unchanged_issuers_and_ends_the_others() {
    let (metrics, never) = (metrics(), CancellationToken::new());
    let other = IssuerSettings { issuer: "https://other.example".into(), ..settings() };
    let before = Verifiers::start(&[other.clone(), settings()], None, &metrics, &never).await;
    let token = signed(Algorithm::HS256, None, &secret());
    let (claims, seal) = before.verify(&Token::new(&token), NOW).await.unwrap();
    let same = Verifiers::start(&[settings()], Some(&before), &metrics, &never).await;
    assert_eq!(same.still_holds(&claims, &seal, NOW), Ok(()), "though it stands elsewhere now");
    let changed = IssuerSettings { audience: vec!["web".into()], ..settings() };
    let after = Verifiers::start(&[other, changed], Some(&before), &metrics, &never).await;
    assert_eq!(after.still_holds(&claims, &seal, NOW), Err(Unverified::Issuer));
}

#[tokio::test]
async fn a_token_can_be_named_without_being_believed() {
    let verifiers = verifiers(&[IssuerSettings { realm: "acme".into(), ..settings() }]).await;
    let claims = payload(json!({"exp": 5, "jti": "t", "sid": "s"}));
    let token = issue::issue(claims.as_object().unwrap(), Algorithm::HS512, Some("k"), &secret()).unwrap();
    let names = verifiers.unverified_names(&Token::new(&token)).unwrap();
    assert_eq!((names.subject.as_deref(), names.token_id.as_deref()), (Some("9"), Some("t")));
    assert_eq!((names.session.as_deref(), names.realm.as_deref()), (Some("s"), Some("acme")));
    assert_eq!(names.expires_at, Some(Timestamp::from_seconds(5)));
    let content = inspect::unverified(&Token::new(&token)).unwrap();
    assert_eq!((&content.header["kid"], &content.claims["sub"]), (&json!("k"), &json!("9")));
    assert!(inspect::unverified(&Token::new("a.b")).is_err());
}
