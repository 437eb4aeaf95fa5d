//! Times: boundaries to the millisecond, and numbers that are none.

use super::*;

async fn at(settings: IssuerSettings, changes: Value, now: Timestamp) -> Result<(), Unverified> {
    let token = hs256(r#"{"alg":"HS256"}"#, &payload(changes).to_string());
    verifiers(&[settings]).await.verify(&Token::new(&token), now).await.map(|_| ())
}

fn with_leeway(seconds: u64) -> IssuerSettings {
    IssuerSettings { leeway: Duration::from_secs(seconds), ..settings() }
}

#[tokio::test]
async fn a_token_lives_until_the_instant_of_exp_and_not_a_millisecond_longer() {
    let exp = NOW.seconds() + 100;
    let last = Timestamp::from_millis(exp * 1000 - 1);
    assert_eq!(at(settings(), json!({"exp": exp}), last).await, Ok(()));
    assert_eq!(
        at(settings(), json!({"exp": exp}), Timestamp::from_seconds(exp)).await,
        Err(Unverified::Expired)
    );
}

#[tokio::test]
async fn leeway_moves_exp_and_nbf_by_exactly_itself() {
    let (exp, nbf) = (NOW.seconds() + 100, NOW.seconds() - 5);
    let (at_ms, claims) = (Timestamp::from_millis, json!({"exp": exp, "nbf": nbf}));
    let judge = |now| at(with_leeway(5), claims.clone(), now);
    assert_eq!(judge(at_ms((exp + 5) * 1000 - 1)).await, Ok(()));
    assert_eq!(judge(at_ms((exp + 5) * 1000)).await, Err(Unverified::Expired));
    assert_eq!(judge(at_ms((nbf - 5) * 1000)).await, Ok(()));
    assert_eq!(judge(at_ms((nbf - 5) * 1000 - 1)).await, Err(Unverified::NotYetValid));
}

#[tokio::test]
async fn without_leeway_none_is_given() {
    assert_eq!(refusal(json!({"exp": NOW.seconds()})).await, Some(Unverified::Expired));
    assert_eq!(refusal(json!({"exp": NOW.seconds() - 1})).await, Some(Unverified::Expired));
}

#[tokio::test]
async fn nbf_is_honoured_though_nobody_requires_it() {
    assert_eq!(refusal(json!({"nbf": NOW.seconds() + 1})).await, Some(Unverified::NotYetValid));
    assert_eq!(refusal(json!({"nbf": NOW.seconds()})).await, None);
}

#[tokio::test]
async fn a_fraction_never_stretches_a_life() {
    let now = NOW.seconds() as f64;
    assert_eq!(refusal(json!({"exp": now + 0.9})).await, Some(Unverified::Expired));
    assert_eq!(refusal(json!({"exp": now + 1.9})).await, None);
    assert_eq!(refusal(json!({"nbf": now + 0.1})).await, Some(Unverified::NotYetValid));
    let claims = judge(settings(), json!({"iat": now - 0.5})).await.unwrap();
    assert_eq!(claims.issued_at(), Some(Timestamp::from_seconds(NOW.seconds() - 1)));
}

#[tokio::test]
async fn dates_that_are_no_dates_are_refused() {
    let absurd = [
        json!("1900000000"),
        json!(true),
        json!([1]),
        json!({}),
        json!(-1),
        json!(-0.5),
        json!(1e300),
        json!(253_402_300_800_i64),
        json!(1_900_000_000_000_i64),
        json!(u64::MAX),
        json!(i64::MIN),
    ];
    for name in ["exp", "nbf", "iat"] {
        for value in &absurd {
            assert_eq!(
                refusal(json!({ name: value })).await,
                Some(Unverified::Claim(name.into())),
                "{name} {value}"
            );
        }
    }
    for raw in ["1e999", "NaN", "Infinity", "0x10", "01"] {
        let text = payload(json!({"exp": 1})).to_string().replace("\"exp\":1", &format!("\"exp\":{raw}"));
        let refused = judge_raw(settings(), r#"{"alg":"HS256"}"#, &text).await.err();
        assert!(matches!(refused, Some(Unverified::Malformed(_))), "{raw}: {refused:?}");
    }
}

#[tokio::test]
async fn iat_may_be_a_minute_ahead_but_no_more() {
    assert_eq!(refusal(json!({"iat": NOW.seconds() + 60})).await, None);
    assert_eq!(refusal(json!({"iat": NOW.seconds() + 61})).await, Some(Unverified::NotYetValid));
    let claims = json!({"iat": NOW.seconds() + 65});
    assert_eq!(judge(with_leeway(5), claims).await.err(), None);
}

#[tokio::test]
async fn a_cached_verification_is_judged_by_the_clock_again() {
    let verifiers = verifiers(&[settings()]).await;
    let (exp, nbf) = (NOW.seconds() + 100, NOW.seconds() - 5);
    let token = hs256(r#"{"alg":"HS256"}"#, &payload(json!({"exp": exp, "nbf": nbf})).to_string());
    let (claims, seal) = verifiers.verify(&Token::new(&token), NOW).await.unwrap();
    let holds = |ms| verifiers.still_holds(&claims, &seal, Timestamp::from_millis(ms));
    assert_eq!(holds(exp * 1000 - 1), Ok(()));
    assert_eq!(holds(exp * 1000), Err(Unverified::Expired));
    assert_eq!(holds(nbf * 1000 - 1), Err(Unverified::NotYetValid), "the clock was set back");
}
