//! Project Wycheproof's JWS vectors, for whoever has the file: `WYCHEPROOF_JWS=…/json_web_signature_test.json
//! cargo test --lib wycheproof -- --ignored`. It is not part of this repository; `attacks` covers its classes.

use super::*;

/// Vectors whose verdict the file has wrong for a strict reader: 372 and 373 carry a `?` inside base64url and are
/// called valid; 367 and 370 lost their bad padding, are the same text as the valid 357, and are called invalid.
const MISLABELLED: [u64; 4] = [367, 370, 372, 373];

fn verifies(set: Result<KeySet, crate::verify::keys::KeyError>, token: &str) -> bool {
    let Ok(set) = set else { return false };
    let Ok(compact) = Compact::read(&Token::new(token), 16 * 1024) else { return false };
    let Ok(judged) = compact.judge_header() else { return false };
    let found = set.find(judged.kid, judged.algorithm, compact.signed, &compact.signature);
    matches!(found, Search::Found(_))
}

#[tokio::test]
#[ignore = "needs Project Wycheproof's json_web_signature_test.json, named by WYCHEPROOF_JWS"]
async fn wycheproof_vectors_get_their_verdict() {
    let path = std::env::var("WYCHEPROOF_JWS").unwrap();
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    for group in file["testGroups"].as_array().unwrap() {
        let key = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        let bytes = if key["keys"].is_array() {
            key.to_string().into_bytes()
        } else {
            jwks(std::slice::from_ref(key))
        };
        for test in group["tests"].as_array().unwrap() {
            let (id, jws) = (test["tcId"].as_u64().unwrap(), test["jws"].as_str().unwrap());
            let set = || KeySet::from_jwks(&bytes, &Algorithm::ALL);
            let expected = test["result"] == "valid";
            if !MISLABELLED.contains(&id) && verifies(set(), jws) != expected {
                wrong.push(format!("{id} {} {} {}", group["comment"], test["comment"], test["result"]));
            }
            if let Ok(set) = set() {
                let keys = KeySource::Fixed(Arc::new(set));
                let all = IssuerSettings { algorithms: Algorithm::ALL.into(), keys, ..settings() };
                assert!(
                    verifiers(&[all]).await.verify(&Token::new(jws), NOW).await.is_err(),
                    "{id} is no JWT"
                );
            }
            seen += 1;
        }
    }
    assert_eq!((seen > 0, wrong), (true, Vec::<String>::new()));
}
