//! Templates of keys. The first line is the template, and each further pair of lines two values for one of its fields.
//!
//! What is read can be written, and reads the same; and keys made of different values are different keys.
#![no_main]

use std::borrow::Cow;
use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use portcullis::template::{Field, Template};

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let Some(Ok(template)) = lines.next().map(Template::parse) else { return };
    let written = template.to_string();
    let again = Template::parse(&written).expect("what it wrote itself");
    assert_eq!(again, template, "written as {written:?}");
    assert_eq!(again.to_string(), written);
    assert!(template.same_shape(&again));

    if template.check_key().is_err() || template.fields().count() > 4 {
        return;
    }
    let mut values = BTreeMap::new();
    for field in template.fields().map(Field::to_string) {
        values.entry(field).or_insert_with(|| {
            let [one, two] = [(); 2].map(|()| lines.next().unwrap_or("x"));
            (one, two)
        });
    }
    let value = |field: &Field, second: bool| {
        let (one, two) = values.get(&field.to_string()).copied().unwrap_or_default();
        Ok(Cow::Borrowed(if second { two } else { one }))
    };
    let (one, two) = (template.fill(|field| value(field, false)), template.fill(|field| value(field, true)));
    if let (Ok(one), Ok(two)) = (&one, &two) {
        let same = values.values().all(|(one, two)| one == two);
        assert_eq!(one == two, same, "{written:?} makes {one:?} of {values:?}");
    }
    if let Ok(one) = one {
        assert!(one.starts_with(template.head()));
        let tokens = template.fields().any(|field| matches!(field, Field::Token | Field::TokenSha256));
        let whole = values.values().all(|(one, _)| !one.is_empty());
        assert!(tokens || !whole || template.could_produce(&one), "{written:?} makes {one:?}");
        if let Some((field, value)) = template.sole(&one) {
            assert_eq!(values.get(&field.to_string()).map(|(one, _)| *one), Some(value));
        }
    }
});
