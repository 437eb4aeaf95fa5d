use super::*;

fn authority(ground: Ground) -> Authority {
    Authority::new(ground, 0, Arc::default())
}

fn field() -> Authority {
    authority(Ground::field(7, &[]))
}

fn reply(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn hear(authority: &Authority, mark: &str) -> bool {
    authority.hear(authority.capture(), &reply(mark), "run")
}

#[test]
fn a_mark_is_what_was_written_and_nothing_else_is_one() {
    let mark = Mark { seq: 42, server: "run".into(), round: 255 };
    assert_eq!(mark.to_string(), "42:run:00000000000000ff");
    assert_eq!(Mark::parse(mark.to_string().as_bytes()), Some(mark));
    for text in
        ["", "42", "42:run", "42::1", ":run:1", "-1:run:1", "+1:run:1", "x:run:1", "42:run:0", "42:run:1:1"]
    {
        assert_eq!(Mark::parse(text.as_bytes()), None, "{text}");
    }
    assert_eq!(Mark::parse(b"99999999999999999999:run:1"), None, "no version is that high");
}

#[test]
fn the_first_answer_is_not_believed_and_those_after_it_are() {
    let authority = field();
    assert!(!authority.is_believed());
    assert!(!hear(&authority, "5:run:1"), "what was asked before the mark was known");
    assert!(authority.is_believed());
    assert!(hear(&authority, "5:run:1"));
    assert!(hear(&authority, "9:run:1"));
}

#[test]
fn a_mark_that_is_missing_older_of_another_server_or_nonsense_is_not_believed() {
    for (mark, why) in [
        (Value::Nil, Why::Missing),
        (reply("4:run:1"), Why::Behind),
        (reply("5:other:1"), Why::OtherServer),
        (reply("nonsense"), Why::Unreadable),
        (Value::Okay, Why::Unreadable),
    ] {
        let authority = field();
        assert!(!hear(&authority, "5:run:1"));
        assert!(!authority.hear(authority.capture(), &mark, "run"));
        assert_eq!((authority.is_believed(), authority.why()), (false, why));
    }
}

#[test]
fn replies_in_another_order_than_questions_prove_nothing() {
    let authority = field();
    hear(&authority, "5:run:1");
    let early = authority.capture();
    assert!(hear(&authority, "9:run:1"));
    assert!(authority.hear(early, &reply("5:run:1"), "run"), "it was read before the others");
    assert!(!hear(&authority, "8:run:1"), "what was there when it was asked is there no more");
}

#[test]
fn an_answer_from_before_a_reconciliation_is_not_believed_after_it() {
    let authority = field();
    hear(&authority, "5:run:1");
    let asked = authority.capture();
    assert!(!authority.hear(asked, &reply("5:run:2"), "run"));
    assert!(authority.is_believed(), "the next one is");
    assert!(hear(&authority, "5:run:2"));
}

#[test]
fn what_the_database_held_at_start_must_have_arrived() {
    let authority = Authority::new(Ground::field(7, &[]), 6, Arc::default());
    assert!(!hear(&authority, "5:run:1"));
    assert!(!hear(&authority, "5:run:1"));
    assert_eq!((authority.is_believed(), authority.why()), (false, Why::Unproven));
    assert!(hear(&authority, "6:run:1"));
}

#[test]
fn without_the_database_the_only_mark_there_can_be_is_taken_and_of_two_none() {
    let authority = authority(Ground::Only { ending: ending(&[]).into() });
    let field = Ground::field(7, &[]);
    let Ground::Field(field) = field else { panic!("a field") };
    let pair = |field: &str, mark: &str| [reply(field), reply(mark)];
    let one = pair(&field, "5:run:1");
    let note = pair(&format!("{field}:filling"), "{}");
    let other = pair("7:0123456789abcdef", "9:run:9");
    let hear = |pairs: &[&[Value; 2]]| {
        let flat = Value::Array(pairs.iter().flat_map(|pair| pair.iter().cloned()).collect());
        authority.hear(authority.capture(), &flat, "run")
    };
    hear(&[&one]);
    assert!(hear(&[&one, &note, &other]), "other layouts' marks are none of ours");
    let second = pair(&field.replace('7', "8"), "5:run:1");
    assert!(!hear(&[&one, &second]));
    assert!(!hear(&[]));
    let map = Value::Map(vec![(reply(&field), reply("5:run:1"))]);
    assert!(authority.hear(authority.capture(), &map, "run"));
    assert_eq!(authority.field(), None, "nothing is written");
}

#[test]
fn where_there_is_nothing_of_ours_redis_is_believed() {
    assert_eq!(Ground::of(Some(7), &[], false), Ground::None, "no preset, no keys of ours");
    assert_ne!(Ground::of(Some(7), &[], true), Ground::None, "copies of services' keys");
    assert_eq!(Ground::unseen(&[], false), Ground::None);
    let authority = authority(Ground::of(None, &[], false));
    assert!(authority.is_believed());
    assert!(authority.hear(authority.capture(), &Value::Int(0), "run"));
    assert!(!authority.hear(authority.capture(), &Value::Okay, "run"), "it does not answer");
}
