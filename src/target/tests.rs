use proptest::prelude::*;

use super::*;

fn path(raw: &str, ambiguous: Ambiguous) -> Result<String, &'static str> {
    Target::read(raw.as_bytes(), Some(b"a.example"), ambiguous)
        .map(|target| target.path.into_owned())
        .map_err(|Ambiguity(what)| what)
}

#[test]
fn a_usual_path_is_passed_on_without_a_copy() {
    for raw in ["/", "/a", "/a/b.c", "/a/.hidden", "/a/..b/...", "/a/", "/~u/a-b_c:d@e!$&'()*+,="] {
        let target = Target::read(raw.as_bytes(), Some(b"h"), Ambiguous::Reject).unwrap();
        assert!(matches!(target.path, Cow::Borrowed(_)), "{raw}");
        assert!(target.as_received, "{raw}");
        assert_eq!(target.path, raw);
    }
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let refused = [
        "/a/../b",
        "/..",
        "/.",
        "/a/.",
        "/a/./b",
        "/a//b",
        "//a",
        "/a\\b",
        "/a;x=1/b",
        "/a;/b",
        "/%2e%2e/b",
        "/a/%2E/b",
        "/a/.%2e",
        "/a%2fb",
        "/a%5Cb",
        "/a%00",
        "/a%0d%0a",
        "/a%7f",
        "/a%25b",
        "/a%252fb",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%c0%af",
        "/a%ff",
        "/a%e2%28",
        "/a b",
        "/a#b",
        "/a\tb",
        "/\u{e9}",
        "/a\"b",
        "/a<b",
        "/a`b",
        "admin",
        "",
        "?q",
        "a:b",
        "*",
        "ftp://h/a",
        "/a?b c",
        "/a?b#c",
        "/a?\u{e9}",
    ];
    for raw in refused {
        assert!(path(raw, Ambiguous::Reject).is_err(), "{raw} was accepted");
    }
}

#[test]
fn two_spellings_of_one_path_become_one() {
    for (raw, canonical) in [
        ("/%61dmin", "/admin"),
        ("/a%7Eb", "/a~b"),
        ("/f%2etxt", "/f.txt"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a[1].txt", "/a%5B1%5D.txt"),
        ("/a|b^c{d}", "/a%7Cb%5Ec%7Bd%7D"),
        ("/%c3%a9[", "/%C3%A9%5B"),
    ] {
        assert_eq!(path(raw, Ambiguous::Reject).as_deref(), Ok(canonical));
        assert_eq!(path(raw, Ambiguous::Normalize).as_deref(), Ok(canonical));
    }
    // Encoded delimiters stay encoded: `%3f` never becomes the start of a query.
    for raw in ["/a%3Fb", "/a%23b", "/a%20b", "/a%3Bb"] {
        assert_eq!(path(raw, Ambiguous::Reject).as_deref(), Ok(raw));
    }
}

#[test]
fn normalizing_resolves_what_rejecting_refuses() {
    let resolved = [
        ("/a/../b", "/b"),
        ("/../../b", "/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/./b", "/a/b"),
        ("/a//b", "/a/b"),
        ("//a", "/a"),
        ("/a\\b", "/a/b"),
        ("/a;x=1/b", "/a/b"),
        ("/%2e%2e/b", "/b"),
        ("/a/..%2fb", "/b"),
        ("/a%2fb", "/a/b"),
        ("/a%5c..%5cb", "/b"),
        ("/a/..;/b", "/b"),
        ("/a/", "/a/"),
    ];
    for (raw, canonical) in resolved {
        assert_eq!(path(raw, Ambiguous::Normalize).as_deref(), Ok(canonical), "{raw}");
    }
    for raw in ["/a%00", "/a%252fb", "/a%c0%af", "/a#b", "/\u{e9}", "admin", "/a/..%3Bx/b"] {
        assert!(path(raw, Ambiguous::Normalize).is_err(), "{raw} was accepted");
    }
}

#[test]
fn the_absolute_form_is_read_as_origin_form_and_must_agree_with_host() {
    let read = |target: &'static str, host: &'static str| {
        Target::read(target.as_bytes(), Some(host.as_bytes()), Ambiguous::Reject)
            .map(|t| (t.host.to_string(), t.origin_form()))
    };
    assert_eq!(read("http://A.example/x?y", "a.example"), Ok(("a.example".into(), "/x?y".into())));
    assert_eq!(read("HTTP://a.example", "a.example:80"), Ok(("a.example".into(), "/".into())));
    assert_eq!(read("http://a.example?q", "a.example"), Ok(("a.example".into(), "/?q".into())));
    assert!(read("http://b.example/", "a.example").is_err());
    assert!(read("http://a.example:81/", "a.example").is_err());
    assert!(read("http://user@a.example/", "a.example").is_err());
}

#[test]
fn hosts_are_compared_without_case_port_and_trailing_dot() {
    let host = |raw: &'static str| {
        Target::read(b"/", Some(raw.as_bytes()), Ambiguous::Reject).map(|target| target.host.into_owned())
    };
    for raw in [
        "api.example.com",
        "API.example.COM",
        "api.example.com.",
        "api.example.com:8443",
        "Api.example.com.:80",
    ] {
        assert_eq!(host(raw).as_deref(), Ok("api.example.com"), "{raw}");
    }
    for raw in ["[::1]:8080", "[::1]", "[0:0::0001]"] {
        assert_eq!(host(raw).as_deref(), Ok("[::1]"), "{raw}");
    }
    for raw in [
        "", ".", "a b", "a/b", "a@b", "a:b", "a:80:80", "a..b", "[::1", "[::1]x", "[1]", "[::1].", "é",
        "a:65536", "a:", "a..", "a..:80", "a%2eb", ".a",
    ] {
        assert!(host(raw).is_err(), "{raw} was accepted");
    }
}

proptest! {
    #[test]
    fn the_canonical_form_is_canonical_again(raw in "/[ -~]{0,40}", normalize: bool) {
        let ambiguous = if normalize { Ambiguous::Normalize } else { Ambiguous::Reject };
        if let Ok(once) = path(raw.split('?').next().unwrap(), ambiguous) {
            prop_assert_eq!(path(&once, Ambiguous::Reject), Ok(once.clone()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(raw: Vec<u8>, host: Vec<u8>) {
        let _ = Target::read(&raw, Some(&host), Ambiguous::Normalize);
        let _ = Target::read(&raw, Some(&host), Ambiguous::Reject);
    }
}
